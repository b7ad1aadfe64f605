"""Shared fixtures: the reference arrays, the COCO sample, and a tiny data set, model and run.

The tiny data set (six scenes), model (tests/tiny.gin) and run (four steps) are made once a session, in seconds.
"""

import fcntl
import gc
import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A fourth less time to compile. (At --xla_backend_optimization_level=0 results are rounded otherwise.)
os.environ.setdefault("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true")
# No test depends on the network, or on files that were downloaded before.
os.environ["HTC_TF_OFFLINE"] = "1"
os.environ["HTC_TF_CACHE"] = os.path.join(os.devnull, "htc_tf")

import numpy as np
import pytest

from tests import forks, long_tests

HERE = Path(__file__).resolve().parent
TINY = str(HERE / "tiny.gin")
# These files take the longest. They start first, so that the processes of `make test` end together; test_trainer makes
# the tiny run that the later ones share.
LONGEST = (
    *("test_module", "test_trainer", "test_parity_mmdet_training", "test_commands", "test_gin_files", "test_precision"),
    *("test_roi_align", "test_scnet", "test_coco_to_tfrecord", "test_htc_loss", "test_htc", "test_input", "test_step"),
    *("test_conversion", "test_assistant", "test_keras_model", "test_cluster_failure", "test_workers"),
    *("test_parity_trajectories", "test_your_images", "test_wheels", "test_kills"),  # slow
)


@pytest.hookimpl(tryfirst=True)  # so that -m sees the marks
def pytest_collection_modifyitems(items):
    long_tests.mark(items)
    order = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Saves a tenth of the time that traces and garbage collections take."""
    if "tensorflow" in sys.modules:  # which otherwise stores the stack of Python's frames, pytest's included, per node
        stacks = sys.modules["tensorflow.python.util.tf_stack"]
        stack = stacks.extract_stack()
        stacks.extract_stack = lambda stacklevel=1: stack
    # What collection made stays to the end.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    gc.unfreeze()


def reset_globals():
    """Clears gin's configuration, its lock included, and Keras' precision policy."""
    if "gin" in sys.modules:
        sys.modules["gin"].clear_config()
    if "tensorflow" in sys.modules and "htc_tf.models" in sys.modules:  # so that tf.keras is in use, and as Keras 2
        sys.modules["tensorflow"].keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(autouse=True)
def clean_globals():
    """Leaves no global state of a test to the next."""
    yield
    reset_globals()


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef):
    """Leaves no global state of a shared fixture to the test that happens to be its first."""
    yield
    if fixturedef.scope != "function":
        reset_globals()


@pytest.fixture(scope="session")
def reference():
    """A function: reference("op_nms") loads the arrays of tests/reference/op_nms.npz."""

    def load(name):
        return np.load(HERE / "reference" / f"{name}.npz", allow_pickle=False)

    return load


@pytest.fixture(scope="session")
def addons_package():
    """The package tensorflow_addons; skips the test without it."""
    from htc_tf import addons

    package = addons.load()
    if package is None:
        pytest.skip("tensorflow-addons is not installed: it has no wheels for Python 3.12 and later")
    return package


@pytest.fixture(params=["tensorflow-addons", "htc_tf"])
def addons_or_ours(request, monkeypatch):
    """Runs the test with tensorflow-addons' optimizers and losses, and with htc_tf's own."""
    from htc_tf import addons

    package = request.getfixturevalue("addons_package") if request.param == "tensorflow-addons" else None
    monkeypatch.setattr(addons, "load", lambda: package)


@pytest.fixture(scope="session")
def coco_sample():
    """The folder of real COCO images beside the project; skips the test if it is missing."""
    folder = HERE.parent.parent / "shared" / "data" / "coco_sample"
    if not folder.is_dir():
        pytest.skip("the COCO sample is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def free_addresses():
    """A function: free_addresses(3) returns three addresses of this computer that nobody listens to."""

    def free_addresses(count):
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in held]
        for server in held:
            server.close()
        return addresses

    return free_addresses


@pytest.fixture(scope="session")
def run_workers(free_addresses, tmp_path_factory):
    """A function that runs three Python processes at once, which must succeed.

    Args:
        alone: Arguments of a process of its own.
        together: Arguments of two processes, the workers of one TF_CONFIG.
    """

    def run_workers(alone, together):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = str(HERE.parent)
        addresses, folder = free_addresses(2), tmp_path_factory.mktemp("workers")
        tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
        wanted = [(alone, {}), *((together, {"TF_CONFIG": json.dumps(task)}) for task in tasks)]
        logs = [folder / str(index) for index in range(len(wanted))]
        processes = [
            forks.start(*words, env={**environment, **more}, stderr=log)
            for (words, more), log in zip(wanted, logs, strict=True)
        ]
        try:
            for process, log in zip(processes, logs, strict=True):
                assert process.wait(500) == 0, log.read_text()[-3000:]
        finally:
            for process in processes:
                process.kill()

    return run_workers


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


@pytest.fixture(scope="session")
def tiny_model(tiny_experiment):
    """A function: tiny_model("NUM_STAGES=1", ...) returns an Experiment and a model with the same weights each time."""

    def build(*params):
        experiment = tiny_experiment(*params)
        experiment.prepare_runtime(seed=0)
        model = experiment.build_model()
        model.build_variables()
        return experiment, model

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
        experiment, _ = config.load([TINY, "gin/base/scnet.gin"], [*small, *params])
        experiment.prepare_runtime(seed=0)
        model = experiment.build_model()
        model.build_variables()
        return experiment, model

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


@pytest.fixture
def eagerly():
    """Runs tf.functions eagerly: tracing takes longer than a few calls."""
    from tests.eagerly import run_eagerly

    with run_eagerly():
        yield
