"""Memory of a training, estimated before its first step and compared with the memory that is free.

Without memory the system kills the process without any message, so `training.trainer` refuses first.

The estimate takes two to six CPU-seconds. It counts weights, gradients, slots and averages exactly, and from a graph
what the forward pass keeps for the backward pass; the program and buffers of the step are as measured.
docs/reliability.md compares it with measured peaks. A training for which there is memory in abundance skips it.
"""

import sys

import numpy as np
import tensorflow as tf

from htc_tf.checkpoint import count_bytes, optimizer_variables
from htc_tf.errors import UserError
from htc_tf.process_memory import available_memory, resident_bytes
from htc_tf.training.kept import kept_bytes

PROGRAM = 1.1e9  # bytes, measured: TensorFlow and the compiled step of a minimal network on a CPU
BUFFERS = 0.3  # measured share, beside what is kept: gradients of maps, temporary results, gaps of the allocator
# More than any network keeps for the backward pass: bytes per pixel, and for the RoIs of an image. Measured are 3 KB a
# pixel with ResNet-50 and 17 KB with Swin-L.
PIXEL, ROIS = 40e3, 2e9
HOST = "program, in the host's memory"
REPLICA = 0.7e9  # bytes, measured: graph and buffers of each further replica on a CPU


def check_memory(experiment, model, optimizer, strategy, ignore=False):
    """Compares the estimate with the memory that is free: that of the system, or of a GPU if its limit is known.

    Args:
        experiment, model, optimizer: Experiment, HTC and optimizer with all variables.
        strategy: tf.distribute.Strategy under which they were built.
        ignore: If True, too little memory is a warning. Under XLA, whose buffers the estimate does not know, it always
            is.
    Raises:
        UserError: The training needs more memory than is free; the message says what needs less.
    """
    devices = strategy.extended.worker_devices
    on_gpu = any("GPU" in device for device in devices)
    free = gpu_memory() if on_gpu else available_memory()
    if free is None:
        return
    if not on_gpu:
        free += resident_bytes()  # this process has allocated a part already
    height, width = max(experiment.train_input.shapes, key=np.prod)
    replicas = {"replicas": len(devices), "in_sync": strategy.num_replicas_in_sync}

    def total(kept):
        sizes = estimate_memory(experiment, model, optimizer, kept, **replicas)
        each = sum(sizes.values()) - sizes[HOST]
        return each if on_gpu else sizes[HOST] + each * len(devices)

    if total(PIXEL * height * width + ROIS) <= free:
        return
    needed = total(kept_bytes(model, height, width))
    if needed <= free:
        return
    where = "memory of a GPU" if on_gpu else "memory"
    text = (
        f"this training takes about {needed / 1e9:.1f} GB of {where}, but {free / 1e9:.1f} GB are free: lower "
        f"BATCH_SIZE = {experiment.batch_size}, raise ACCUMULATE = {experiment.accumulate}, or lower IMAGE_MAX_SIDE"
    )
    if not ignore and not experiment.xla:
        raise UserError(f"{text}; --ignore_memory trains nevertheless")
    print(f"warning: {text}", file=sys.stderr)


def estimate_memory(experiment, model, optimizer, kept=None, replicas=1, in_sync=1):
    """Returns {part: bytes} of the memory that one device needs in training.

    Args:
        experiment, model, optimizer: As in `check_memory`.
        kept: Bytes that the forward pass of one image keeps for the backward pass; None to count them.
        replicas: int, devices of this machine.
        in_sync: int, devices of all machines.
    """
    images = max(experiment.batch_size // experiment.accumulate // in_sync, 1)
    trained = count_bytes(model.trainable_variables)
    if kept is None:
        kept = kept_bytes(model, *max(experiment.train_input.shapes, key=np.prod))
    return {
        "weights": count_bytes(model.variables),
        "gradients": trained if experiment.accumulate == 1 else 2 * trained,  # of a part, and their sum
        "optimizer": count_bytes(optimizer_variables(optimizer)),
        "averages": trained if experiment.ema_decay is not None else 0,
        f"kept for the backward pass, {images} image{'s' * (images > 1)}": kept * images,
        "buffers of the step": BUFFERS * kept * images,
        HOST: PROGRAM + REPLICA * (replicas - 1),
    }


def gpu_memory():
    """Returns the smallest limit of a GPU in bytes, or None if no GPU has one.

    TensorFlow reports the limit of a logical device that was configured with one, but not the memory of a whole GPU.
    """
    limits = []
    for gpu in tf.config.list_physical_devices("GPU"):
        for logical in tf.config.get_logical_device_configuration(gpu) or ():
            limits += [2**20 * logical.memory_limit] if logical.memory_limit else []
    return min(limits, default=None)
