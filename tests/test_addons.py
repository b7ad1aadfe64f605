"""Which implementation SGDW, LAMB, SigmoidFocalLoss and GIoULoss use, and the line that says so."""

import importlib.util
import sys

import pytest
import tensorflow as tf

from htc_tf import addons
from htc_tf.models.losses import GIoULoss, SigmoidFocalLoss
from htc_tf.training.legacy_optimizers import DecoupledSGD, LayerwiseAdam
from htc_tf.training.optim import LAMB, SGDW
from htc_tf.training.schedules import StepSchedule
from tests import forks


@pytest.fixture
def anew(monkeypatch):
    """Lets `load` look for the package again, as a new process does."""
    monkeypatch.setattr(addons, "load", addons.functools.cache(addons.load.__wrapped__))


def use_all():
    """Builds both optimizers and calls both losses."""
    built = []
    for recipe in (SGDW, LAMB):
        optimizer = recipe(StepSchedule(base=0.1, batch_size=16, steps=4)).build()
        optimizer.build([tf.Variable([[1.0]], name="kernel")])
        built.append(type(optimizer.parts[0]))
    SigmoidFocalLoss()(tf.constant([0.0]), tf.constant([1]))
    box = tf.constant([[0.0, 0, 4, 4]])
    GIoULoss()(tf.zeros([1, 4]), box, (0.1, 0.1, 0.2, 0.2), box)
    return built


def test_one_line_says_once_that_the_package_is_missing(anew, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)  # imports as if it were not installed
    assert use_all() == [DecoupledSGD, LayerwiseAdam]
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1
    assert said.err.startswith("note: tensorflow-addons is not installed: SGDW, LAMB, SigmoidFocalLoss and GIoULoss ")


def test_a_package_that_does_not_fit_tensorflow_is_named_with_the_reason(anew, monkeypatch, tmp_path, capsys):
    broken = tmp_path / "tensorflow_addons"
    broken.mkdir()
    (broken / "__init__.py").write_text("from keras.src.engine import no_such_module\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow_addons"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert use_all() == [DecoupledSGD, LayerwiseAdam]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("note: tensorflow-addons cannot be imported (") and "keras.src" in said


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow_addons"), reason="tensorflow-addons is not installed")
def test_the_package_is_used_without_a_word_where_it_is_installed():
    """In a process of its own: the warning of the package's end of life is shown at its first import alone."""
    program = "from tests.test_addons import use_all; print(*{kind.__module__.partition('.')[0] for kind in use_all()})"
    done = forks.run("-c", program)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["tensorflow_addons"]
    assert "addons" not in done.stderr.lower()
