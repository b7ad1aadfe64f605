"""The memory estimate of a training, and the refusal of one that needs more than is free."""

import re

import pytest
import tensorflow as tf

from htc_tf.checkpoint import count_bytes
from htc_tf.errors import UserError
from htc_tf.training import memory
from htc_tf.training.memory import HOST, REPLICA, check_memory, estimate_memory, gpu_memory


@pytest.fixture(scope="module")
def training(tiny_model):
    """Experiment, model and optimizer of a tiny network."""
    experiment, model = tiny_model("NUM_STAGES=1", "SEMANTIC=False")
    optimizer = experiment.optimizer.build()
    optimizer.build(model.trainable_variables)
    return experiment, model, optimizer


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(memory, "kept_bytes", lambda model, height, width: 10 * height * width)


@pytest.fixture
def estimate(training, kept, monkeypatch):
    """estimate(batch size, ...) in {part: bytes}."""

    def estimate(batch_size, accumulate=1, **replicas):
        monkeypatch.setattr(training[0], "batch_size", batch_size)
        monkeypatch.setattr(training[0], "accumulate", accumulate)
        return estimate_memory(*training, **replicas)

    return estimate


def test_the_estimate_grows_with_the_images_of_a_device(estimate, training):
    sizes = estimate(2)
    trained = count_bytes(training[1].trainable_variables)
    assert sizes["gradients"] == trained and sizes["weights"] == count_bytes(training[1].variables)
    assert sizes["optimizer"] == pytest.approx(2 * trained, abs=200)  # AdamW's two moments
    one = sum(estimate(4).values()) - sum(estimate(3).values())
    assert sum(sizes.values()) == pytest.approx(sum(estimate(1).values()) + one)
    assert one >= 10 * 64 * 64
    assert estimate(4, in_sync=2) == sizes
    # The gradients of a part of the batch are added to those of the earlier parts.
    assert estimate(8, accumulate=4) == {**sizes, "gradients": 2 * trained}
    assert estimate(2, replicas=2)[HOST] == sizes[HOST] + REPLICA


class Devices:
    """A strategy with devices of these names."""

    def __init__(self, *names):
        self.num_replicas_in_sync = len(names)
        self.extended = type("Extended", (), {"worker_devices": names})


@pytest.fixture
def free(monkeypatch):
    """free(cpu, gpu): sets the bytes that are free."""

    def free(cpu=None, gpu=None):
        monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
        monkeypatch.setattr(memory, "available_memory", lambda: cpu)
        monkeypatch.setattr(memory, "gpu_memory", lambda: gpu)

    return free


def test_a_training_without_enough_memory_is_refused(training, kept, free, monkeypatch, capsys):
    monkeypatch.setattr(training[0], "batch_size", 2)
    one, two = Devices("CPU:0"), Devices("CPU:0", "CPU:1")
    for cpu in (64e9, None):
        free(cpu)
        check_memory(*training, one)
    free(1e9)
    with pytest.raises(UserError) as refused:
        check_memory(*training, one)
    (line,) = str(refused.value).splitlines()
    assert re.match(r"this training takes about 1\.\d GB of memory, but 1\.0 GB are free: lower BATCH_SIZE = 2, ", line)
    assert all(name in line for name in ("ACCUMULATE = 1", "IMAGE_MAX_SIDE", "--ignore_memory"))
    assert not capsys.readouterr().err
    check_memory(*training, one, ignore=True)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: this training takes about") and "--ignore_memory" not in warning
    # Two replicas need more than one.
    free(sum(estimate_memory(*training).values()) + REPLICA / 2)
    check_memory(*training, one)
    with pytest.raises(UserError):
        check_memory(*training, two)


def test_plenty_of_memory_needs_no_estimate(training, free, monkeypatch):
    monkeypatch.setattr(training[0], "batch_size", 2)
    monkeypatch.setattr(memory, "kept_bytes", lambda *_: pytest.fail("estimates"))
    free(64e9)
    check_memory(*training, Devices("CPU:0"))
    monkeypatch.setattr(memory, "kept_bytes", lambda model, height, width: 3e3 * height * width)
    free(5e9)  # less than is certainly enough
    check_memory(*training, Devices("CPU:0"))


def test_xla_is_only_warned(training, kept, free, monkeypatch, capsys):
    free(1e9)
    monkeypatch.setattr(training[0], "xla", True)
    check_memory(*training, Devices("CPU:0"))
    assert "warning: " in capsys.readouterr().err


def test_a_gpu_is_compared_with_its_own_limit(training, kept, free):
    """The program is in the host's memory, which does not count here."""
    for gpu in (None, 1e9):
        free(cpu=0, gpu=gpu)
        check_memory(*training, Devices("GPU:0", "GPU:1"))
    free(cpu=64e9, gpu=1e3)
    with pytest.raises(UserError, match="memory of a GPU"):
        check_memory(*training, Devices("GPU:0"))


def test_limits_of_gpus(monkeypatch):
    limits = {"A": [4000], "B": [None, 3000], "C": None}

    def configuration(gpu):
        return limits[gpu] and [tf.config.LogicalDeviceConfiguration(memory_limit=limit) for limit in limits[gpu]]

    monkeypatch.setattr(tf.config, "get_logical_device_configuration", configuration)
    for names, expected in (("ABC", 3000 * 2**20), ("C", None), ("", None)):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, names=names: list(names))
        assert gpu_memory() == expected
