"""Memory of a training on a CPU, estimated before its first step and compared with the machine's.

Without memory the system kills the process without any message, so `training.trainer` warns first. On GPUs TensorFlow
itself reports an allocation that fails.

The estimate takes about a second. It counts weights, gradients, slots and averages exactly; the results of backbone,
neck and mask heads that the backward pass needs, from their graph; and the program, as measured. docs/reliability.md
compares it with measured peaks.
"""

import sys

import numpy as np
import tensorflow as tf

from htc_tf.checkpoint import count_bytes, optimizer_variables
from htc_tf.ops.grouped_convolution import native_grouped_convolution
from htc_tf.process_memory import available_memory, peak_bytes
from htc_tf.training.dry_run import KEPT, PROGRAM, run_mask_heads

REPLICA = 0.7e9  # bytes, measured: graph and buffers of each further replica
IN_PLACE = {"BiasAdd", "AddV2", "Relu"}  # operations that reuse the buffer of their input if nothing else needs it


def warn_of_memory(experiment, model, optimizer, strategy):
    """Prints one line if the replicas are on a CPU and need more memory than is available."""
    left = available_memory()
    if left is None or any("GPU" in device for device in strategy.extended.worker_devices):
        return
    needed = estimate_memory(experiment, model, optimizer, strategy)
    left += peak_bytes()  # this process has allocated a part already
    if needed > left:
        print(
            f"warning: this training takes about {needed / 1e9:.1f} GB of memory, {left / 1e9:.1f} GB are available: "
            f"the system may kill it. Lower BATCH_SIZE = {experiment.batch_size}, raise ACCUMULATE = "
            f"{experiment.accumulate}, or lower IMAGE_MAX_SIDE",
            file=sys.stderr,
        )


def estimate_memory(experiment, model, optimizer, strategy):
    """Returns the bytes that the replicas on this machine need, if they are on its CPU."""
    height, width = max(experiment.train_input.shapes, key=np.prod)

    def run(images, sizes):
        masks = run_mask_heads(model, model.roi_sampler.mask_limit, True)
        return model.extract_pyramids(images, sizes, with_assistant=True), masks

    specs = tf.TensorSpec([1, height, width, 3], tf.uint8), tf.TensorSpec([1, 2])
    with native_grouped_convolution():
        graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph
    # Of one image, with the most RoIs per mask head: the activations that the backward pass reads.
    results = [op.outputs[0] for op in graph.get_operations() if op.type in KEPT]
    image = count_bytes(x for x in results if x.shape.is_fully_defined() and not is_overwritten(x))
    trained = count_bytes(model.trainable_variables)
    averages = trained if experiment.ema_decay is not None else 0
    network = count_bytes(model.variables) + trained + averages + count_bytes(optimizer_variables(optimizer))
    replicas = len(strategy.extended.worker_devices)
    images = experiment.batch_size // experiment.accumulate * replicas // strategy.num_replicas_in_sync
    return PROGRAM + REPLICA * (replicas - 1) + network * replicas + image * images


def is_overwritten(result):
    """True if the only consumer of a result writes its own result into the same buffer."""
    return [op.type in IN_PLACE for op in result.consumers()] == [True]
