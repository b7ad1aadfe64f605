"""The memory estimate of a training, and the memory that the system has available."""

import re
from pathlib import Path

import pytest
import tensorflow as tf

from htc_tf.checkpoint import count_bytes
from htc_tf.training import memory
from htc_tf.training.memory import PROGRAM, REPLICA, available_memory, estimate_memory, warn_of_memory


@pytest.fixture(scope="module")
def training(tiny_model):
    """estimate(batch size) of a tiny network; its experiment, model, optimizer and strategy."""
    experiment, model = tiny_model("NUM_STAGES=1", "SEMANTIC=False")
    optimizer = experiment.optimizer.build()
    optimizer.build(model.trainable_variables)
    return experiment, model, optimizer, tf.distribute.OneDeviceStrategy("CPU:0")


@pytest.fixture
def estimate(training, monkeypatch):
    def estimate(batch_size, accumulate=1):
        monkeypatch.setattr(training[0], "batch_size", batch_size)
        monkeypatch.setattr(training[0], "accumulate", accumulate)
        return estimate_memory(*training)

    return estimate


def test_the_estimate_grows_with_the_micro_batch(estimate, training):
    two, four = estimate(2), estimate(4)
    image = (four - two) / 2
    network = two - PROGRAM - 2 * image
    trained = count_bytes(training[1].trainable_variables)
    assert network == pytest.approx(count_bytes(training[1].variables) + 3 * trained, abs=200)  # AdamW's two moments
    assert image > 64 * 64 * 4  # at least the image itself, in float32
    assert estimate(8, accumulate=4) == two


def test_each_replica_has_a_program_of_its_own(training):
    class Two:
        num_replicas_in_sync = 2

        class extended:
            worker_devices = ("CPU:0", "CPU:1")

    assert estimate_memory(*training[:3], Two) - estimate_memory(*training) > REPLICA


def test_a_warning_without_enough_memory(training, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available_memory", lambda: 64e9)
    warn_of_memory(*training)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    warn_of_memory(*training)
    assert not capsys.readouterr().err
    monkeypatch.setattr(memory, "available_memory", lambda: -64e9)
    warn_of_memory(*training)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"warning: this training takes about 1\.\d GB of memory, -\S+ GB are available", line)
    assert all(name in line for name in ("BATCH_SIZE = 2", "ACCUMULATE = 1", "IMAGE_MAX_SIDE"))


FILES = {
    "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8000000 kB\n",
    "/proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/job/part\n0::/slice/job\n",
    "/sys/fs/cgroup/memory.max": "7000000000\n",  # of the root, as a container sees it
    "/sys/fs/cgroup/memory.current": "500000000\n",
    "/sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 100000000\n",
    "/sys/fs/cgroup/slice/job/memory.max": "max\n",
    "/sys/fs/cgroup/slice/job/memory.current": "1\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "6000000000\n",
    "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "1000000000\n",
    "/sys/fs/cgroup/memory/job/memory.stat": "inactive_file 7\ntotal_inactive_file 300000000\n",
}


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ((), 5_300_000_000),
        (("limit_in_bytes",), 6_600_000_000),
        (("limit_in_bytes", "memory.max"), 8_192_000_000),
        (("cgroup",), 8_192_000_000),
        (("cgroup", "meminfo"), None),
    ],
)
def test_available_memory(monkeypatch, without, expected):
    def read(path):
        if str(path) not in FILES or any(part in str(path) for part in without):
            raise FileNotFoundError(path)
        return FILES[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert available_memory() == expected
