"""Dry run: length, memory, FLOPs, parameters and the first batch of a training, without any step of it.

`python -m htc_tf.train --dry_run` prints it. FLOPs are TensorFlow's own count for each operation, two for a product and
its sum; operations without a count (resizing, gathering, sorting) are left out. Mask heads count with the largest
number of RoIs, though they are called on the valid ones only.
"""

import collections
import contextlib
import io

import numpy as np
import tensorflow as tf

from htc_tf.checkpoint import count_bytes
from htc_tf.cluster import Cluster, check_batch, make_strategy, read_cluster
from htc_tf.data.input import named_errors
from htc_tf.models.mask_head import mask_information_flow
from htc_tf.ops.grouped_convolution import native_grouped_convolution
from htc_tf.record_settings import steps_per_epoch
from htc_tf.structures import SEMANTIC_STRIDE
from htc_tf.training.checks import check_determinism, check_run, load_records
from htc_tf.training.epochs import describe_interval, describe_steps
from htc_tf.training.guard import flatten
from htc_tf.training.kept import train_mask_heads
from htc_tf.training.memory import estimate_memory
from htc_tf.training.validation import describe_evaluations


def dry_run(experiment, config, train_records, val_records=None, run=None, seed=0, devices=None):
    """Returns a text of sections, the longest last: length, memory, FLOPs, parameters, first batch, ..., variables.

    Raises:
        UserError: Records, configuration, run and devices do not fit, as in training. Weights are not read.
    """
    train_info, val_info = load_records(experiment, train_records, val_records)
    if run is not None:
        check_run(experiment, run, train_info)
    experiment.prepare_runtime(seed)
    # The workers of a cluster have equal devices; their own strategy would wait for the others.
    replicas = make_strategy(devices, Cluster()).num_replicas_in_sync
    in_sync = read_cluster().workers * replicas
    check_batch(experiment.batch_size, experiment.accumulate, in_sync)
    model = experiment.build_model()
    model.build_variables()
    check_determinism(experiment, model)
    with named_errors(train_records):
        batch = next(iter(experiment.train_input.dataset(train_records, seed)))
    graphs = trace(experiment, model, batch)
    parts = Parts(model)
    sections = {
        "length": length_lines(experiment, train_info, val_info),
        "memory": memory_lines(experiment, model, batch, replicas, in_sync),
        "GFLOPs per image": flop_lines(graphs, parts),
        "parameters": parameter_lines(model, parts),
        "first batch": shape_lines(batch),
        "configuration": [config.strip()],
        "variables": variable_lines(model),
    }
    return "\n\n".join("\n".join([f"== {title} ==", *lines]) for title, lines in sections.items())


def length_lines(experiment, train_info, val_info):
    """Describes the training in steps and epochs, and what happens at intervals."""
    steps, every = experiment.steps, experiment.checkpoint_every
    epoch_steps = steps_per_epoch(train_info.records, experiment.batch_size)
    checkpoints = describe_interval(every, steps, epoch_steps) if every else "after the last step"
    rows = {
        "records": f"{train_info.records} images of {train_info.folder}",
        "epoch": f"{epoch_steps} steps of {experiment.batch_size} images",
        "training": describe_steps(steps, epoch_steps),
        "learning rate": describe_schedule(experiment.optimizer.build().schedule, steps, epoch_steps),
        "evaluations": describe_evaluations(experiment, val_info, epoch_steps),
        "checkpoints": f"{checkpoints}; the newest {experiment.keep_checkpoints} are kept",
    }
    width = max(map(len, rows))
    return [f"{name.ljust(width)}  {text}" for name, text in rows.items()]


def describe_schedule(schedule, steps, epoch_steps):
    """Returns "0.02 after 500 steps of warm-up, 0.002 after 1200 steps (8 epochs), ..., 0.0002 in the last step"."""
    if not steps:
        return "none"
    drops = [round(at * steps) for at in getattr(schedule, "milestones", ())]
    warmup = f" after {schedule.warmup_steps} steps of warm-up" if schedule.warmup_steps else ""
    rates = [f"{schedule.peak:.3g}{warmup}"]
    rates += [f"{float(schedule(step)):.3g} after {describe_steps(step, epoch_steps)}" for step in drops]
    return ", ".join([*rates, f"{float(schedule(steps - 1)):.3g} in the last step"])


class Parts:
    """Maps names of operations and variables to parts of the network."""

    def __init__(self, model):
        self.known = {model.backbone.name: "backbone", model.neck.name: "neck", model.rpn.name: "rpn"}
        optional = {"semantic head": model.semantic_head, "context head": model.context_head, "relay": model.relay}
        self.known |= {head.name: part for part, head in optional.items() if head is not None}
        for stage in model.stages:
            for part, head in (("box heads", stage.box_head), ("mask heads", stage.mask_head)):
                layers = () if head is None else (head, *head.submodules)
                self.known |= {layer.name: part for layer in layers if isinstance(layer, tf.keras.layers.Layer)}
        self.order = [*dict.fromkeys(self.known.values()), "other"]

    def of(self, name):
        """Returns the part of an operation or a variable, such as htc/backbone/conv1/Conv2D."""
        return next((self.known[step] for step in name.split("/") if step in self.known), "other")

    def add(self, pairs):
        """Returns {part: sum} of (name, number) pairs, in the order of the forward pass, without sums of 0."""
        sums = collections.Counter()
        for name, number in pairs:
            sums[self.of(name)] += number
        return {part: sums[part] for part in self.order if sums[part]}


def trace(experiment, model, batch):
    """Returns the graphs of detection and training by title, each with one image of the largest padded shape."""
    height, width = max(experiment.train_input.shapes, key=np.prod)
    one = tf.nest.map_structure(lambda x: tf.TensorSpec([1, *x.shape[1:]], x.dtype), batch)
    images = tf.TensorSpec([1, height, width, 3], batch.images.dtype)
    semantic = tf.TensorSpec([1, height // SEMANTIC_STRIDE, width // SEMANTIC_STRIDE], batch.truth.semantic.dtype)
    one = one._replace(images=images, truth=one.truth._replace(semantic=semantic))

    def losses_of(batch):
        seed = tf.constant([0, 0])
        outputs = model(batch.images, batch.sizes, batch.truth, seed)
        losses = experiment.objective(outputs, batch.truth, batch.sizes, seed)
        passes = 1 if outputs.assistant is None else 2
        heads = [run_mask_heads(model, model.roi_sampler.mask_limit, True) for _ in range(passes)]
        return [loss.total for loss in losses.values()], heads

    detection = trace_detection(model, height, width)
    with native_grouped_convolution():
        training = tf.function(losses_of, autograph=False).get_concrete_function(one).graph
    return {"detection": detection, "training, forward": training}


def trace_detection(model, height, width):
    """Returns the graph of detection in one image of that padded size, by a model with variables."""

    def detect(images, sizes):
        return model.infer(images, sizes), run_mask_heads(model, model.postprocess.keep, False)

    specs = tf.TensorSpec([1, height, width, 3], tf.uint8), tf.TensorSpec([1, 2])
    with native_grouped_convolution():
        return tf.function(detect, autograph=False).get_concrete_function(*specs).graph


def run_mask_heads(model, rows, training):
    """Applies the mask heads to `rows` RoIs; the forward pass has a number of RoIs that is unknown in its graph."""
    heads, side, channels = model.mask_heads, model.roi_pooler.mask_size, model.neck.channels
    features = tf.zeros([rows, side, side, channels])
    if not training:
        outputs = mask_information_flow(heads, features, model.mask_info_flow)
        return [head(output) for head, output in zip(heads, outputs, strict=True)]
    return train_mask_heads(model, [features] * len(heads))


def parameter_lines(model, parts):
    trained = {id(v) for v in model.trainable_variables}
    table = [("part", "parameters", "trained")]
    for_all = parts.add((v.name, int(np.prod(v.shape))) for v in model.variables)
    for_trained = parts.add((v.name, int(np.prod(v.shape))) for v in model.variables if id(v) in trained)
    table += [(part, f"{count:,}", f"{for_trained.get(part, 0):,}") for part, count in for_all.items()]
    table.append(("total", f"{sum(for_all.values()):,}", f"{sum(for_trained.values()):,}"))
    return align(table)


def variable_lines(model):
    trained = {id(v) for v in model.trainable_variables}

    def describe(variable):
        if id(variable) in trained:
            return ""
        return "statistic" if variable.name.split("/")[-1].startswith("moving_") else "frozen"

    return align([(v.name, str(list(v.shape)), describe(v)) for v in model.variables])


def flop_lines(graphs, parts):
    counted = {title: parts.add(flops(graph)) for title, graph in graphs.items()}
    titles = list(counted)
    table = [("part", *titles)]
    for part in parts.order:
        if any(part in counts for counts in counted.values()):
            table.append((part, *(f"{counts.get(part, 0) / 1e9:,.3f}" for counts in counted.values())))
    table.append(("total", *(f"{sum(counts.values()) / 1e9:,.3f}" for counts in counted.values())))
    return [*align(table), "Forward and backward pass together take about three times the forward pass."]


def flops(graph):
    """Yields (operation, FLOPs) pairs of a graph."""
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    # By scope: the profiler cannot read back a tree as deep as the graph, from a ResNet-101 on.
    todo = [_profile(graph, options)]
    seen = set()
    while todo:
        node = todo.pop()
        if node.name not in seen:
            seen.add(node.name)
            todo += node.children
            yield node.name, node.float_ops


def _profile(graph, options):
    """Runs TensorFlow's profiler without its warnings about deprecation and unknown shapes, which help no user."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tf.compat.v1.profiler.profile(graph, options=options, cmd="scope")
    finally:
        logger.setLevel(level)


def memory_lines(experiment, model, batch, replicas, in_sync):
    """Estimates the memory of one of the machine's `replicas` devices, of `in_sync` on all machines."""
    optimizer = experiment.optimizer.build()
    optimizer.build(model.trainable_variables)
    sizes = estimate_memory(experiment, model, optimizer, replicas=replicas, in_sync=in_sync)
    sizes["its part of a batch"] = count_bytes(tf.nest.flatten(batch)) / in_sync
    sizes["total"] = sum(sizes.values())
    return align([(name, f"{size / 1e6:,.1f} MB") for name, size in sizes.items()])


def shape_lines(batch):
    return align([(name, str(x.shape.as_list()), x.dtype.name) for name, x in flatten(batch).items()])


def align(rows):
    """Returns the lines of a table, its first column aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
