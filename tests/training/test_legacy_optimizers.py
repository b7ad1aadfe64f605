"""SGDW and LAMB without tensorflow-addons: the same bits as the package's, and checkpoints that either restores."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from htc_tf import addons
from htc_tf.checkpoint import Checkpoints, optimizer_variables
from htc_tf.run import Run
from htc_tf.training.optim import LAMB, SGDW
from htc_tf.training.schedules import CosineSchedule, StepSchedule
from tests.modes import MODES
from tests.slow import slow

TOY = runpy.run_path(str(Path(__file__).resolve().parent / "toy.py"))
STEPS = 24
RATES = {"batch_size": 16, "steps": STEPS, "warmup_steps": 5, "warmup_factor": 0.1}
GROUPS = (("backbone/", 0.1, 1.0), ("norm|bias", 1.0, 0.0), ("norm", 0.5, 1.0), ("head/kernel", 1.0, 3.0))
RECIPES = {
    "SGDW": lambda: SGDW(StepSchedule(base=0.8, **RATES), decay=0.05),
    "SGDW, no momentum": lambda: SGDW(StepSchedule(base=0.8, **RATES), momentum=0.0, decay=0.05),
    "SGDW, groups": lambda: SGDW(CosineSchedule(base=0.3, **RATES), momentum=0.95, decay=0.02, groups=GROUPS),
    "LAMB": lambda: LAMB(StepSchedule(base=0.8, **RATES), decay=0.05),
    "LAMB, groups": lambda: LAMB(CosineSchedule(base=0.3, **RATES), 0.02, 0.8, 0.95, 1e-5, GROUPS),
    "LAMB, no decay": lambda: LAMB(StepSchedule(base=0.3, **RATES), decay=0.0, groups=()),
}


@pytest.fixture
def choose(monkeypatch):
    """choose(package): the optimizers that are built from then on are the package's, or with None ours."""
    return lambda package: monkeypatch.setattr(addons, "load", lambda: package)


def make_variables():
    """The weights of a backbone and a head, one of all zeros, and one whose gradient is 0 at first."""
    shapes = {"htc/backbone/conv/kernel": (3, 3, 8, 16), "htc/backbone/norm/gamma": (16,), "htc/head/kernel": (64, 33)}
    shapes |= {"htc/head/bias": (33,), "htc/zero/kernel": (5, 7), "htc/idle/kernel": (4,)}
    draw = np.random.default_rng(3)
    values = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    values["htc/zero/kernel"][:] = 0
    return [tf.Variable(value, name=name) for name, value in values.items()]


def states(recipe, way):
    """Returns the weights and the optimizer's variables after each step."""
    variables = make_variables()
    optimizer = recipe.build()
    optimizer.build(variables)

    def apply(gradients):
        optimizer.apply_gradients(list(zip(gradients, variables, strict=True)), skip_gradients_aggregation=True)

    apply, draw, found = MODES[way](apply), np.random.default_rng(7), []
    for step in range(STEPS):
        gradients = [draw.normal(size=v.shape).astype(np.float32) * 0.1 ** (step % 4) for v in variables]
        gradients[-1] *= step > 1
        apply([tf.constant(g) for g in gradients])
        found.append([v.numpy() for v in [*variables, *optimizer_variables(optimizer)]])
    return found


# Every recipe eagerly, and those with the most parts compiled.
QUICK = [(name, way) for name in RECIPES for way in MODES if way == "eager" or "groups" in name]


@pytest.mark.parametrize(
    ("name", "way"), [*QUICK, *slow(*((n, w) for n in RECIPES for w in MODES if (n, w) not in QUICK))]
)
def test_steps_are_tensorflow_addons_to_the_last_bit(addons_package, choose, name, way):
    choose(addons_package)
    theirs = states(RECIPES[name](), way)
    choose(None)
    ours = states(RECIPES[name](), way)
    for number, (wanted, found) in enumerate(zip(theirs, ours, strict=True)):
        assert len(wanted) == len(found) >= 5 + 1
        for a, b in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"step {number}")
    changed = [np.abs(a - b).max() for a, b in zip(theirs[1][:4], theirs[-1][:4], strict=True)]
    assert min(changed) > 1e-3


@pytest.mark.parametrize("name", ["SGDW", "LAMB"])
def test_the_float16_step_is_tensorflow_addons_to_the_last_bit(addons_package, choose, name):
    """With a loss scale, clipping and a step that overflows."""
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        found = []
        for package in (addons_package, None):
            choose(package)
            training = TOY["start"](recipe=RECIPES[name](), clip_norm=0.5, decay=0.9)
            for number, batch in enumerate(TOY["make_batches"](5)):
                if number == 2:
                    training.optimizer.loss_scale.value.assign(2.0**40)
                numbers = training.train_step(batch)
                if number == 2:
                    training.optimizer.loss_scale.value.assign(2.0**10)
                assert numbers["finite"]
            assert training.optimizer.iterations.numpy() == 4
            found.append([v.numpy() for v in [*training.model.variables, *optimizer_variables(training.optimizer)]])
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def object_graph(path):
    """Returns the graph of a checkpoint's objects: their attributes, slots, and names of variables."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(tf.train.load_checkpoint(path).get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    return graph


@pytest.mark.parametrize("name", ["SGDW", "SGDW, no momentum", "LAMB"])
def test_a_checkpoint_is_restored_by_either(addons_package, choose, name, tmp_path):
    """A training of either implementation resumes with the other: the object graph and the next steps are the same."""
    batches, graphs, ends = list(TOY["make_batches"](4)), [], []
    for number, (begins, resumes) in enumerate(((addons_package, None), (None, addons_package))):
        run = Run(tmp_path / str(number))
        choose(begins)
        first = TOY["start"](recipe=RECIPES[name]())
        for batch in batches[:2]:
            first.train_step(batch)
        path = Checkpoints(run, first.model, first.optimizer, first.step).save(2)
        graphs.append(object_graph(path))
        choose(resumes)
        second = TOY["start"](recipe=RECIPES[name]())
        assert Checkpoints(run, second.model, second.optimizer, second.step).restore_latest() == path
        assert second.optimizer.iterations.numpy() == second.step.numpy() == 2
        for training in (first, second):
            for batch in batches[2:]:
                training.train_step(batch)
            ends.append([v.numpy() for v in [*training.model.variables, *optimizer_variables(training.optimizer)]])
    assert graphs[0] == graphs[1] and len(graphs[0].nodes) > 10
    for end in ends[1:]:
        for a, b in zip(end, ends[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["SGDW", "LAMB"])
def test_sparse_gradients_are_refused(choose, name):
    """The base classes would apply them without decay."""
    choose(None)
    variables = [tf.Variable(tf.ones([4, 2]), name="kernel")]
    optimizer = RECIPES[name]().build()
    optimizer.build(variables)
    rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), dense_shape=tf.constant([4, 2]))
    with pytest.raises(NotImplementedError, match="dense gradients"):
        optimizer.apply_gradients([(rows, variables[0])], skip_gradients_aggregation=True)
