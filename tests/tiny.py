"""Fixtures of a tiny data set, network and run: six drawn scenes, tests/tiny.gin and four steps of training.

Each is made once a session, in seconds. A plugin of pytest, which tests/conftest.py loads.
"""

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

TINY = str(Path(__file__).with_suffix(".gin"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Six drawn scenes: `images`, `annotations` and `records`. One has no object, one has a crowd."""
    from pipelines import coco_to_tfrecord, scenes, shapes

    folder, split, seed = tmp_path_factory.mktemp("tiny_data"), "train2017", 4
    shapes.make_folders(folder, split)
    annotations = shapes.annotations_path(folder, split)
    drawn = [shapes.write_scene(folder, split, seed, scenes.LABELS, i) for i in range(6)]
    shapes.write_annotations(annotations, seed, scenes.LABELS, drawn)
    data = SimpleNamespace(images=folder / split, annotations=annotations, records=folder / "records")
    flags = {"annotations": annotations, "images": data.images, "stuff": folder / "stuffthingmaps" / split}
    flags |= {"output": data.records, "shards": 2}
    coco_to_tfrecord.main([f"--{name}={value}" for name, value in flags.items()])
    return data


@pytest.fixture(scope="session")
def tiny_experiment():
    """A function: tiny_experiment("NUM_STAGES=1", ...) returns the Experiment of tests/tiny.gin with these bindings."""
    from htc_tf import config

    return lambda *params: config.load([TINY], params)[0]


def with_model(experiment):
    """Returns an Experiment and its model, with the same weights each time."""
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    model.build_variables()
    return experiment, model


@pytest.fixture(scope="session")
def tiny_model(tiny_experiment):
    """A function: tiny_model("NUM_STAGES=1", ...) returns an Experiment and a model with the same weights each time."""

    def build(*params):
        return with_model(tiny_experiment(*params))

    return build


@pytest.fixture(scope="session")
def reset_model(tiny_model):
    """A function: reset_model("NUM_STAGES=1", ...) returns the model of `tiny_model`, with its first weights again.

    All tests share the models, which take a second to build, so a test changes nothing of them but weights.
    """
    built = {}

    def reset(*params):
        if params not in built:
            model = tiny_model(*params)[1]
            built[params] = model, [variable.numpy() for variable in model.variables]
        model, values = built[params]
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
        return model

    return reset


@pytest.fixture(scope="session")
def tiny_scnet():
    """A function: tiny_scnet("NUM_STAGES=2", ...) returns an Experiment and a model with SCNet's parts."""
    from htc_tf import config

    small = [f"{head}.num_convs=2" for head in ("MaskHead", "SemanticHead", "GlobalContextHead")]
    small += ["GlobalContextHead.channels=16", "FeatureRelay.channels=16"]

    def build(*params):
        return with_model(config.load([TINY, "gin/base/scnet.gin"], [*small, *params])[0])

    return build


@pytest.fixture(scope="session")
def drawn_batch(tiny_data, tiny_experiment):
    """A Batch of two images of 64 pixels, both with objects."""
    batches = tiny_experiment().eval_input.dataset(tiny_data.records, seed=0)
    return next(batch for batch in batches if batch.truth.valid.numpy().any(axis=1).all())


@pytest.fixture(scope="session")
def make_learner():
    """A function of (Experiment, HTC); returns a function of a Batch that returns ({name: loss}, gradients)."""
    import tensorflow as tf

    from htc_tf.training.gradients import divide

    def make(experiment, model):
        def learn(batch, seed=(0, 1)):
            with tf.GradientTape() as tape:
                outputs = model(batch.images, batch.sizes, batch.truth, tf.constant(seed))
                named = experiment.objective(outputs, batch.truth, batch.sizes, tf.constant(seed))
                losses = divide(named, {name: loss.count for name, loss in named.items()})
                losses["total"] = tf.add_n(list(losses.values()))
            return losses, tape.gradient(losses["total"], model.trainable_variables)

        return learn

    return make


@pytest.fixture(scope="session")
def tiny_learner(tiny_model, make_learner):
    """A learner of two stages, `eager` and `traced`; `proposals.assign(False)` invalidates all proposals."""
    import tensorflow as tf

    experiment, model = tiny_model("NUM_STAGES=2")
    proposals, propose = tf.Variable(True, trainable=False), model.rpn.propose

    def propose_or_not(*arguments):
        found = propose(*arguments)
        return found._replace(valid=found.valid & proposals)

    model.rpn.propose = propose_or_not
    learn = make_learner(experiment, model)
    traced = tf.function(learn, autograph=False)
    return SimpleNamespace(model=model, proposals=proposals, eager=learn, traced=traced)


@pytest.fixture(scope="session")
def tiny_run(tiny_data, tmp_path_factory):
    """A trained Run of two stages, eager: four logged steps, two checkpoints, and an evaluation at the end.

    The processes of a session share it: the first that needs it trains, while the others wait.
    """
    from htc_tf import config
    from htc_tf.run import Run
    from htc_tf.training.trainer import train
    from tests.eagerly import run_eagerly

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    run, finished = Run(folder / "tiny_run"), folder / "tiny_run.finished"
    with (folder / "tiny_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            experiment, resolved = config.load([TINY], ["NUM_STAGES=2", "EVALUATE_EVERY=4"])
            with run_eagerly():
                train(experiment, resolved, tiny_data.records, tiny_data.records, run, seed=0)
            finished.touch()
    return run
