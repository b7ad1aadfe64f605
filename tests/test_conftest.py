"""Tests do not depend on their order: gin's configuration and Keras' precision policy are each test's own."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gin
import pytest
import tensorflow as tf

from htc_tf import config
from tests import conftest, long_tests

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", params=["gin", "policy"])
def left_by_a_fixture(request):
    leave(request.param)


def leave(kind):
    if kind == "gin":
        config.load(["tests/tiny.gin"], [])  # locks the configuration
    else:
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")


def check_nothing_is_left():
    gin.parse_config("a = 1")
    assert gin.config_str().split() == ["#", "Macros:", "#", "=" * 78, "a", "=", "1"]
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_a_shared_fixture_leaves_nothing(left_by_a_fixture):
    check_nothing_is_left()


@pytest.mark.parametrize("kind", ["gin", "policy"])
class TestOrder:
    def test_first(self, kind):
        leave(kind)

    def test_second(self, kind):
        check_nothing_is_left()


def test_the_list_of_long_tests_is_sorted_and_its_files_exist():
    names = long_tests.read()
    assert names == sorted(set(names)) and len(names) > 50
    assert all((ROOT / name.partition("::")[0]).is_file() for name in names)


def test_only_the_long_tests_are_marked(monkeypatch):
    monkeypatch.setattr(long_tests, "read", lambda: ["a.py::test[1]", "a.py::test[2]", "b.py::test"])
    marks = []
    items = [
        SimpleNamespace(nodeid=name, add_marker=lambda mark, name=name: marks.append((name, mark)))
        for name in ("a.py::test[1]", "a.py::test[3]")
    ]
    assert long_tests.mark(items) == ["a.py::test[2]"]  # and nothing of b.py, which was not collected
    assert marks == [("a.py::test[1]", "long")]


@pytest.mark.parametrize(
    ("last_failed", "argument", "ends"), [(False, "tests", True), (True, "tests", False), (False, "t.py::test", False)]
)
def test_a_listed_test_that_does_not_exist_ends_a_run_of_whole_files(monkeypatch, last_failed, argument, ends):
    monkeypatch.setattr(long_tests, "mark", lambda items: ["tests/test_a.py::test[1]"])
    config = SimpleNamespace(getoption={"lf": last_failed}.get, args=[argument])
    message = r"^long_tests.txt lists tests that do not exist: tests/test_a.py::test\[1\]$"
    with pytest.raises(pytest.UsageError, match=message) if ends else nullcontext():
        conftest.pytest_collection_modifyitems(config, [])
