"""What all tests share: the order in which they run, no state left behind, the reference arrays and the COCO sample.

The fixtures of a tiny data set, network and run are those of tests/tiny.py.
"""

import gc
import json
import os
import socket
import sys
from pathlib import Path

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
pytest_plugins = ["tests.tiny"]
# These files take the longest. They start first, so that the processes of `make test` end together; test_trainer makes
# the tiny run that the later ones share.
LONGEST = (
    *("test_module", "test_trainer", "test_parity_mmdet_training", "test_commands", "test_gin_files", "test_precision"),
    *("test_roi_align", "test_scnet", "test_coco_to_tfrecord", "test_htc_loss", "test_htc", "test_input", "test_step"),
    *("test_conversion", "test_assistant", "test_keras_model", "test_cluster_failure", "test_workers"),
    *("test_parity_trajectories", "test_your_images", "test_wheels", "test_kills"),  # slow
)


@pytest.hookimpl(tryfirst=True)  # so that -m sees the marks
def pytest_collection_modifyitems(config, items):
    missing = long_tests.mark(items)
    if missing and not config.getoption("lf") and not any("::" in name for name in config.args):  # of whole files
        raise pytest.UsageError(f"{long_tests.PATH.name} lists tests that do not exist: {', '.join(missing)}")
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


@pytest.fixture
def eagerly():
    """Runs tf.functions eagerly: tracing takes longer than a few calls."""
    from tests.eagerly import run_eagerly

    with run_eagerly():
        yield
