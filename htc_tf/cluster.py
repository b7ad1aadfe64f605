"""Devices and workers of a training: the tf.distribute strategy for one device, all GPUs of a machine, or several.

Several machines are described by the environment variable TF_CONFIG, as TensorFlow defines it
(https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable).
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from htc_tf.errors import UserError


class Cluster(NamedTuple):
    """Rank of this process among the workers. Only the chief writes the run."""

    worker: int = 0
    workers: int = 1
    chief: bool = True


def read_cluster():
    """Returns the Cluster that TF_CONFIG describes, or a single worker if it is not set.

    Raises:
        UserError: TF_CONFIG is not JSON, or does not say which worker this process is.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        os.environ.pop("TF_CONFIG", None)  # TensorFlow reads an empty one as JSON
        return Cluster()
    try:
        content = json.loads(text)
        members = content["cluster"]
        task, index = content["task"]["type"], int(content["task"]["index"])
        # Rank: the chief first, if one is named, then the workers in their order.
        order = [(kind, i) for kind in ("chief", "worker") for i in range(len(members.get(kind, ())))]
        worker = order.index((task, index))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG = {text!r} does not describe a cluster of workers and the rank of this one ({error}): "
            'it looks like {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    return Cluster(worker, len(order), worker == 0)


def make_strategy(devices, cluster):
    """Returns the strategy of this process; with several workers, to be called before TensorFlow's first tensor.

    Args:
        devices: Names such as GPU:0, or None for all GPUs, or the CPU without any. CPU:1 and higher split one CPU into
            logical devices, to rehearse several devices.
        cluster: Cluster.
    Raises:
        UserError: A device does not exist or is named twice, or devices are named for one of several workers.
    """
    if cluster.workers > 1:
        if devices:
            raise UserError("--devices is for one machine; with TF_CONFIG every worker uses all its GPUs")
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(communication_options=choose_communication())
        except (RuntimeError, ValueError, tf.errors.OpError) as error:
            raise UserError(f"the workers of TF_CONFIG could not connect: {error}") from error
    divide_cpu(devices or ())
    names = [name.upper().removeprefix("/").removeprefix("DEVICE:") for name in devices or ()]
    known = [device.name.rpartition("device:")[2] for device in tf.config.list_logical_devices()]
    for name in names:
        if name not in known:
            raise UserError(f"--devices {name}: no such device; there are {', '.join(known)}")
        if names.count(name) > 1:
            raise UserError(f"--devices names {name} {names.count(name)} times: name each device once")
    return tf.distribute.MirroredStrategy(devices)


def choose_communication():
    """Returns the communication options of several workers: NCCL if they have GPUs.

    TensorFlow's own choice would be a ring through the hosts' memory.
    """
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.NCCL if tf.config.list_physical_devices("GPU") else kinds.RING
    return tf.distribute.experimental.CommunicationOptions(implementation=kind)


def divide_cpu(names):
    """Splits the CPU into as many logical devices as the names need, if TensorFlow has not started yet."""
    numbers = [int(match[1]) for name in names if (match := re.fullmatch(r"/?(?:device:)?cpu:(\d)", name, re.I))]
    (cpu,) = tf.config.list_physical_devices("CPU")
    if max(numbers, default=0) == 0 or tf.config.get_logical_device_configuration(cpu):
        return
    parts = [tf.config.LogicalDeviceConfiguration()] * (max(numbers) + 1)
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError:
        return  # TensorFlow has started; `make_strategy` names a device that does not exist


def check_batch(batch_size, accumulate, replicas):
    """Checks that the global batch can be divided among the replicas and their micro-batches.

    Raises:
        UserError: It cannot.
    """
    if batch_size % (replicas * accumulate):
        factors = [f"the {replicas} devices"] * (replicas > 1) + [f"ACCUMULATE = {accumulate}"] * (accumulate > 1)
        raise UserError(f"BATCH_SIZE = {batch_size} is not a multiple of {' x '.join(factors)}")


def make_agreement(strategy, cluster):
    """Returns a function of a bool that returns True if any worker passes True; all workers call it at the same steps.

    A worker that has to stop must not leave the others waiting in the next step.
    """
    if cluster.workers == 1:
        return bool
    add = _make_sum(strategy)
    return lambda flag: bool(add(tf.constant(float(bool(flag)))) > 0)


def check_same(strategy, cluster, values):
    """Checks that all workers have the same values; workers with other variables would wait for each other forever.

    Args:
        strategy: The workers' strategy.
        cluster: Cluster.
        values: {name: value}, compared as text. The code and the version of TensorFlow are compared too.
    Raises:
        UserError: On all workers, with the names of the values that differ.
    """
    if cluster.workers == 1:
        return
    values = {**values, "TensorFlow's version": tf.__version__, "the code of htc_tf": _read_code()}
    if differ := _find_different(strategy, cluster, values):
        raise UserError(f"the workers differ in {', '.join(differ)}: start the same command on all of them")


def check_same_step(strategy, cluster, step):
    """Checks that all workers have restored the same checkpoint, or none.

    Raises:
        UserError: On all workers, if their --workdir is not the same folder.
    """
    if _find_different(strategy, cluster, {"step": step}):
        seen = f"this one sees that of step {step}" if step else "this one sees none"
        raise UserError(
            f"the workers differ in the newest checkpoint, {seen}: --workdir must be on storage that all share"
        )


def _find_different(strategy, cluster, values):
    """Returns the names of the values, {name: value}, that are not the same text on all workers."""
    if cluster.workers == 1:
        return []
    digests = [hashlib.sha256(str(value).encode()).hexdigest() for value in values.values()]
    numbers = tf.constant([int(digest[:5], 16) for digest in digests], tf.float64)
    # Numbers are equal if their variance is zero. The sums are exact: below 2**53 for 20 bits and 8,192 devices.
    totals, squares = _make_sum(strategy)(tf.stack([numbers, numbers**2])).numpy().astype(int).tolist()
    return [
        name for name, a, b in zip(values, totals, squares, strict=True) if a * a != b * strategy.num_replicas_in_sync
    ]


def _make_sum(strategy):
    """Returns a function of a tensor that returns the sum over all devices of all workers."""

    def total(value):
        value = tf.identity(value)  # places the value on this replica's device, which identifies it in the all-reduce
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    @tf.function(autograph=False)
    def add(value):
        return strategy.experimental_local_results(strategy.run(total, args=(value,)))[0]

    return add


def _read_code():
    folder = Path(__file__).parent
    return [path.read_bytes() for path in sorted(folder.rglob("*.py"))]
