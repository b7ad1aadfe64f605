"""Where a training runs: one device, all GPUs of a machine, or several machines, by one tf.distribute strategy.

Called by `training.trainer` before anything is built. Several machines are told by the environment variable TF_CONFIG,
as TensorFlow defines it (https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable).
"""

import json
import os
import re
from typing import NamedTuple

import tensorflow as tf

from htc_tf.errors import UserError


class Cluster(NamedTuple):
    """This process among the workers. The chief alone writes the run."""

    worker: int = 0
    workers: int = 1
    chief: bool = True


def read_cluster():
    """The Cluster that TF_CONFIG describes; a single worker where there is none.

    Raises:
        UserError: TF_CONFIG is not JSON, or does not say which of its workers this is.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return Cluster()
    try:
        content = json.loads(text)
        members = content["cluster"]
        task, index = content["task"]["type"], int(content["task"]["index"])
        order = [(kind, i) for kind in ("chief", "worker") for i in range(len(members.get(kind, ())))]
        worker = order.index((task, index))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG = {text!r} does not describe a cluster of workers and which of them this is ({error}): "
            'it looks like {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    return Cluster(worker, len(order), worker == 0)


def make_strategy(devices, cluster):
    """The strategy of this process, to be made before TensorFlow's first tensor where there are several workers.

    Args:
        devices: names such as GPU:0, or None for all GPUs, or else the CPU. CPU:1 and so on divide one CPU, which
            rehearses several devices where there are none.
        cluster: a Cluster.
    Raises:
        UserError: there is no such device, or devices are named on one of several workers.
    """
    if cluster.workers > 1:
        if devices:
            raise UserError("--devices is for one machine; with TF_CONFIG every worker uses all its GPUs")
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(communication_options=choose_communication())
        except (RuntimeError, ValueError, tf.errors.OpError) as error:
            raise UserError(f"the workers of TF_CONFIG did not come together: {error}") from error
    divide_cpu(devices or ())
    known = [device.name.rpartition("device:")[2] for device in tf.config.list_logical_devices()]
    for name in devices or ():
        if name.upper().removeprefix("/").removeprefix("DEVICE:") not in known:
            raise UserError(f"--devices {name}: no such device; there are {', '.join(known)}")
    return tf.distribute.MirroredStrategy(devices)


def choose_communication():
    """How workers reach each other: by NCCL where they have GPUs. TensorFlow chooses it only if it is told to; its own
    way leads through the hosts' memory.
    """
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.NCCL if tf.config.list_physical_devices("GPU") else kinds.RING
    return tf.distribute.experimental.CommunicationOptions(implementation=kind)


def divide_cpu(names):
    """Makes as many logical devices of the CPU as the names want, if TensorFlow has not started yet."""
    numbers = [int(match[1]) for name in names if (match := re.fullmatch(r"/?(?:device:)?cpu:(\d)", name, re.I))]
    (cpu,) = tf.config.list_physical_devices("CPU")
    if max(numbers, default=0) == 0 or tf.config.get_logical_device_configuration(cpu):
        return
    parts = [tf.config.LogicalDeviceConfiguration()] * (max(numbers) + 1)
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError:
        return  # It has started; whoever asks for a part that is not there is told so.


def check_batch(batch_size, accumulate, replicas):
    """Raises:
    UserError: the global batch cannot be divided among the replicas and the parts of each.
    """
    if batch_size % (replicas * accumulate):
        parts = f" x ACCUMULATE = {accumulate}" if accumulate > 1 else ""
        raise UserError(f"BATCH_SIZE = {batch_size} is no multiple of the {replicas} devices{parts}")


def make_agreement(strategy, cluster):
    """-> a function: bool -> whether any worker said True. Every worker calls it at the same steps.

    A worker that is told to stop must not leave the others waiting in the next step.
    """
    if cluster.workers == 1:
        return bool

    def total(value):
        value = tf.identity(value)  # on this replica's device, by which the others are found
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    @tf.function(autograph=False)
    def add(value):
        return strategy.experimental_local_results(strategy.run(total, args=(value,)))[0]

    return lambda flag: bool(add(tf.constant(float(bool(flag)))) > 0)


def check_same_step(agree, step):
    """Every worker must have restored a checkpoint, or none.

    Raises:
        UserError: on all of them, where their --workdir is not one folder.
    """
    if agree(step > 0) and agree(step == 0):
        raise UserError("some workers see a checkpoint and some none: --workdir must lie on storage that all share")
