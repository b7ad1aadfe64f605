"""Mode `scaling`: a training step by the number of devices, at the same images a step; and a model of it for GPUs.

Before it: `htc_tf.benchmark`, which has parsed gin. Each number of devices has a process of its own, since TensorFlow
divides a CPU once, when it starts. Devices are GPUs where there are any, else parts of one CPU: these share its cores,
so only their CPU seconds compare, and tell what replication costs. One batch is learnt again and again: reading it is
not in the figures (mode `input` is for that). docs/scaling.md has the measured table and what `predict_step` says.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from htc_tf.benchmarks.drawn_records import write_records
from htc_tf.benchmarks.measure import Measurement, measure
from htc_tf.checkpoint import count_bytes
from htc_tf.cluster import Cluster, check_batch, make_strategy
from htc_tf.errors import UserError
from htc_tf.experiment import Experiment
from htc_tf.inference.detector import build_variables
from htc_tf.training.feed import distribute
from htc_tf.training.start import load_records
from htc_tf.training.step import make_train_step


def run(work):
    """Work -> Measurement of one image, for the first number of devices; its details have a Row for each number."""
    if len(work.devices) == 1:
        return measure_step(work)
    return compare({number: measure_in_fresh_process(work, number) for number in work.devices})


class Row(dict):
    """What one number of devices took, for the JSON; as text, a line of the table."""

    def __str__(self):
        return (
            f"CPU {self['cpu_ms_an_image']:.1f} ms an image, {self['cpu_by_first']:.3f} of the first row's; wall "
            f"{self['wall_ms_a_step']:.0f} ms a step; each sends {self['bytes_sent'] / 1e6:.1f} MB; "
            f"{self['memory_bytes'] / 1e6:,.0f} MB of memory"
        )


def compare(measurements):
    """{number of devices: Measurement} -> the first one, with a Row for each in its details."""
    first = next(iter(measurements.values()))
    rows = {}
    for number, found in measurements.items():
        gradient_bytes, images = found.details["gradient bytes"], found.details["images a step"]
        rows[f"{number} devices" if number > 1 else "1 device"] = Row(
            cpu_ms_an_image=1e3 * found.cpu_seconds["median"],
            cpu_by_first=found.cpu_seconds["median"] / first.cpu_seconds["median"],
            cpu_seconds=found.cpu_seconds,
            wall_ms_a_step=1e3 * images * found.wall_seconds["median"],
            wall_seconds=found.wall_seconds,
            bytes_sent=ring_bytes(gradient_bytes, number),
            memory_bytes=found.memory_bytes["peak"],
        )
    return first._replace(details={**first.details, **rows})


def measure_in_fresh_process(work, devices):
    """The same command for one number of devices. -> Measurement"""
    flags = {"mode": "scaling", "height": work.height, "width": work.width, "batch": work.batch}
    flags |= {"precision": work.precision, "repeats": work.repeats, "devices": devices}
    flags |= {"records": work.records} if work.records else {}
    pairs = [*flags.items(), *(("gin_file", file) for file in work.gin_file)]
    pairs += [("gin_param", binding) for binding in work.gin_param]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measurement.json"
        command = [sys.executable, "-m", "htc_tf.benchmark", f"--json={path}"]
        done = subprocess.run([*command, *(f"--{name}={value}" for name, value in pairs)], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(f"--devices {devices}: not measured, see above")
        content = json.loads(path.read_text())
    return Measurement(**{name: content[name] for name in Measurement._fields})


def measure_step(work):
    """Work of one number of devices -> Measurement. In a process where TensorFlow has not started, if it is above 1.

    Raises:
        UserError: there are no such devices, or the batch or the records do not fit.
        FloatingPointError: a step was not finite.
    """
    (devices,) = work.devices
    experiment = Experiment()
    check_batch(experiment.batch_size, experiment.accumulate, devices)
    experiment.prepare_runtime(seed=0)
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    strategy = make_strategy([f"{kind}:{number}" for number in range(devices)], Cluster())
    with contextlib.ExitStack() as stack:
        folder = work.records or stack.enter_context(tempfile.TemporaryDirectory())
        if not work.records:
            write_records(folder, images=experiment.batch_size, classes=experiment.num_classes)
        load_records(experiment, folder, None)
        batch = next(iter(distribute(strategy, experiment, folder, seed=0, start_step=0)))
    with strategy.scope():
        model = experiment.build_model()
        build_variables(model)
        optimizer = experiment.optimizer.build()
        optimizer.build(model.trainable_variables)
        number = tf.Variable(0, dtype=tf.int64, trainable=False)
    train_step = make_train_step(experiment, strategy, model, optimizer, number, seed=0)

    def step():
        # Reading a number waits until the devices have computed it.
        if not bool(train_step(batch)["finite"]):
            raise FloatingPointError("a step of the benchmark was not finite")

    details = {
        "records": work.records or "drawn",
        "device": kind,
        "images a step": experiment.batch_size,
        "parameters trained": sum(v.shape.num_elements() for v in model.trainable_variables),
        "gradient bytes": count_bytes(model.trainable_variables),
    }
    return measure(step, "image", experiment.batch_size, work.repeats, warmup=3, details=details)


def ring_bytes(gradient_bytes, devices):
    """What each device sends, and receives, in a step: all gradients but its own share, in each of a ring's two rounds
    (https://arxiv.org/abs/1802.05799, section 4)."""
    return 2 * (devices - 1) / devices * gradient_bytes


class Prediction(NamedTuple):
    """Seconds of a step and what follows."""

    compute: float  # forward and backward
    all_reduce: float  # the part of it that the devices wait for
    update: float  # packing and unpacking gradients, their norm, the optimiser
    step: float  # all of it
    images_per_second: float  # of all devices
    efficiency: float  # against as many devices that need not talk


def predict_step(
    devices,
    images,
    image_flops,
    flops_per_second,
    gradient_bytes,
    bytes_per_second,
    latency=10e-6,
    exposed=1.0,
    memory_per_second=1.5e12,
    passes=12,
    rest=0.0,
):
    """A training step on GPUs, from figures of the network and of the machine. No GPU was asked: it is arithmetic.

    step = images x image_flops / flops_per_second
         + exposed x (2 (N - 1) / N x gradient_bytes / bytes_per_second + 2 (N - 1) x latency)
         + passes x gradient_bytes / memory_per_second + rest

    Args:
        devices: N, each with a replica; the rest is for each of them.
        images: a step, on each device.
        image_flops: forward and backward, of one image.
        flops_per_second: what the device reaches in this network, not its peak.
        gradient_bytes: of all trained variables.
        bytes_per_second: each way, of the slowest link of the ring. A ring through several machines enters and leaves
            each of them once, so there it is all of the machine's network.
        latency: seconds from one device to the next.
        exposed: the share of the all-reduce that no computation hides.
        memory_per_second: bytes that the device reads or writes of its memory.
        passes: how often every gradient is read or written outside of the backward pass.
        rest: seconds of whatever else the devices wait for, such as Python or the input.
    Returns:
        Prediction.
    """
    compute = images * image_flops / flops_per_second
    hops = 2 * (devices - 1) * latency
    all_reduce = exposed * (ring_bytes(gradient_bytes, devices) / bytes_per_second + hops)
    update = passes * gradient_bytes / memory_per_second
    step = compute + all_reduce + update + rest
    return Prediction(compute, all_reduce, update, step, devices * images / step, 1 - all_reduce / step)
