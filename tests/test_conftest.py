"""Tests do not depend on their order: gin's configuration and Keras' precision policy are each test's own."""

from pathlib import Path
from types import SimpleNamespace

import gin
import pytest
import tensorflow as tf

from htc_tf import config
from tests import long_tests

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


def test_the_long_tests_exist():
    names = long_tests.read()
    assert names == sorted(set(names)) and len(names) > 50
    for name in names:
        path, _, rest = name.partition("::")
        function = rest.partition("[")[0].rpartition("::")[2]
        assert f"def {function}(" in (ROOT / path).read_text(), name


def test_only_the_long_tests_are_marked():
    marks = []
    long_tests.mark([SimpleNamespace(nodeid=name, add_marker=marks.append) for name in (long_tests.read()[0], "other")])
    assert marks == ["long"]
