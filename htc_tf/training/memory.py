"""The memory that a training takes on a CPU, estimated in a second before its first step, and what the machine has.

Where memory ends, the system kills the process without a word. `training.trainer` warns before. On GPUs TensorFlow
itself reports what does not fit.

The estimate counts weights, gradients, slots and averages exactly; the results of backbone, neck and mask heads that
the backward pass needs, from their graph; and the program, as measured. docs/reliability.md compares it with peaks.
"""

import re
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from htc_tf.checkpoint import count_bytes, optimizer_variables
from htc_tf.ops.grouped_convolution import native_grouped_convolution
from htc_tf.training.dry_run import KEPT, PROGRAM, run_mask_heads

REPLICA = 0.7e9  # the graph and the buffers of each further replica, measured
IN_PLACE = {"BiasAdd", "AddV2", "Relu"}  # they write into the buffer of what they take if nothing else needs it


def warn_of_memory(experiment, model, optimizer, strategy):
    """Prints one line if the replicas are on a CPU and the machine has less memory than they take."""
    left = available_memory()
    if left is None or any("GPU" in device for device in strategy.extended.worker_devices):
        return
    import resource  # not on Windows, where `left` is None

    wanted = estimate_memory(experiment, model, optimizer, strategy)
    # Part of what is wanted is taken already.
    left += 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if wanted > left:
        print(
            f"warning: this training takes about {wanted / 1e9:.1f} GB of memory, {left / 1e9:.1f} GB are available: "
            f"the system may kill it. Lower BATCH_SIZE = {experiment.batch_size}, raise ACCUMULATE = "
            f"{experiment.accumulate}, or lower IMAGE_MAX_SIDE",
            file=sys.stderr,
        )


def estimate_memory(experiment, model, optimizer, strategy):
    """-> bytes that the replicas on this machine take, if they are on its CPU."""
    height, width = max(experiment.train_input.shapes, key=np.prod)

    def run(images, sizes):
        masks = run_mask_heads(model, model.roi_sampler.mask_limit, True)
        return model.extract_pyramid(images, sizes), masks

    specs = tf.TensorSpec([1, height, width, 3], tf.uint8), tf.TensorSpec([1, 2])
    with native_grouped_convolution():
        graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph
    results = [op.outputs[0] for op in graph.get_operations() if op.type in KEPT]
    image = count_bytes(x for x in results if x.shape.is_fully_defined() and not is_overwritten(x))
    trained = count_bytes(model.trainable_variables)
    averages = trained if experiment.ema_decay is not None else 0
    network = count_bytes(model.variables) + trained + averages + count_bytes(optimizer_variables(optimizer))
    replicas = len(strategy.extended.worker_devices)
    images = experiment.batch_size // experiment.accumulate * replicas // strategy.num_replicas_in_sync
    return PROGRAM + REPLICA * (replicas - 1) + network * replicas + image * images


def is_overwritten(result):
    """Whether the only operation that takes a result writes its own in the same place."""
    return [op.type in IN_PLACE for op in result.consumers()] == [True]


def available_memory():
    """-> bytes that the system and this process's control groups have left; None where neither says."""
    left = []
    try:
        left.append(1024 * int(re.search(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)[1]))
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, TypeError):
        groups = []
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            left += _group_left(Path("/sys/fs/cgroup"), name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            left += _group_left(Path("/sys/fs/cgroup/memory"), name, *files)
    return min(left, default=None)


def _group_left(root, name, limit, usage, reclaimable):
    """What a control group and each of its parents have left, of those that have a limit."""
    folder = root / name.strip("/")
    for group in (folder, *folder.parents):
        if group == root.parent:
            return
        try:
            most, used = int((group / limit).read_text()), int((group / usage).read_text())
            cached = re.search(rf"^{reclaimable} (\d+)", (group / "memory.stat").read_text(), re.M)
        except (OSError, ValueError):  # not there, as in a container; or "max"
            continue
        yield most - used + (int(cached[1]) if cached else 0)
