"""Losses and gradients of one replica: normalization over the global batch, gradient accumulation, sampling metrics.

Every loss is divided by its count over the global batch: all replicas, and all micro-batches if gradients are
accumulated. So any split of the batch has the losses and gradients of the whole, given the same sampled anchors and
RoIs (each part draws its own) and no batch norm on statistics of the batch. The counts follow from sampling, so they
come out of the forward pass: XLA compiles forward and backward as one computation with one replica, or if an earlier
pass has counted; otherwise as two, between which the replicas add their counts.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.htc_loss import Loss, count_where, total_where
from htc_tf.models.norms import trained_batch_norms
from htc_tf.ops import boxes as box_ops

RECALL_IOU = 0.5


def make_gradients(experiment, model, replicas):
    """Returns a function for replica context: (batch, seed, scale, logged) -> (shares, gradients).

    Its arguments: a Batch; int32 [2]; the loss scale, a [] float32 or None; a [] bool. `shares` maps the name of each
    loss, `total` and each sampling metric to a scalar, and their sum over replicas is the number. The sum of the
    gradients over replicas is the gradient of `scale` times the total, in the order of the model's trainable variables.
    Sampling metrics are 0 unless `logged`: they cost a tenth of a small network's step.

    Raises:
        UserError: The parts of the experiment cannot be combined.
    """
    variables = model.trainable_variables
    synchronized = any(norm.synchronized for norm in trained_batch_norms(model))
    if synchronized and replicas > 1 and (experiment.xla or experiment.accumulate > 1):
        raise UserError(
            "norm = 'sync_batch' on several devices supports neither XLA nor ACCUMULATE: choose another norm, such as "
            "'group'"
        )

    def forward(batch, seed, logged):
        outputs = model(batch.images, batch.sizes, batch.truth, seed)
        losses = experiment.objective(outputs, batch.truth, batch.sizes, seed)
        return losses, sampling_metrics_where(logged, outputs, batch.truth)

    def count(batch, seed, logged):
        losses, metrics = forward(batch, seed, logged)
        return {name: loss.count for name, loss in {**losses, **metrics}.items()}

    # One XLA computation of forward and backward needs the counts without leaving it. Nothing else compiles: an update
    # of mirrored variables must stay outside of XLA.
    whole = experiment.xla and (replicas == 1 or experiment.accumulate > 1)
    if experiment.xla:
        count = tf.function(count, jit_compile=True, autograph=False)
        forward = forward if whole else tf.function(forward, jit_compile=True, autograph=False)

    def losses_and_gradients(batch, seed, scale, logged, counts=None):
        with tf.GradientTape() as tape:
            losses, metrics = forward(batch, seed, logged)
            if counts is None:
                # Counts have no gradient, and an all-reduce on the tape would add one.
                with tape.stop_recording():
                    counts = {name: loss.count for name, loss in {**losses, **metrics}.items()}
                    counts = add_replicas(counts, replicas)
            shares = divide(losses, counts)
            shares["total"] = tf.add_n(list(shares.values()))
            # float16: the scaled loss keeps small gradients representable; `training.step` divides by the scale again.
            target = shares["total"] if scale is None else scale * shares["total"]
        gradients = tape.gradient(target, variables)
        # None: a variable that this batch does not reach. IndexedSlices become dense, so that all can be added.
        gradients = [
            tf.zeros_like(v) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(gradients, variables, strict=True)
        ]
        return {**shares, **divide(metrics, counts)}, gradients

    if whole:
        losses_and_gradients = tf.function(losses_and_gradients, jit_compile=True, autograph=False)
    if experiment.accumulate == 1:
        return losses_and_gradients
    return accumulate(losses_and_gradients, count, experiment.accumulate, model, replicas)


def divide(named, counts):
    """Returns {name: scalar}, the share of this part in each Loss, given the counts of the whole global batch."""
    return {
        name: loss.weight * loss.total / tf.maximum(tf.stop_gradient(counts[name]), 1.0) for name, loss in named.items()
    }


def add_replicas(values, replicas):
    """Returns the sums over replicas of a structure of tensors; called in replica context."""
    if replicas == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def accumulate(losses_and_gradients, count, micro_batches, model, replicas):
    """Returns a function like `losses_and_gradients` that splits the batch into micro-batches, in the memory of one.

    The first pass only counts, which needs neither mask heads nor gradients; the second computes the gradients.
    """
    moving = [v for norm in trained_batch_norms(model) for v in (norm.moving_mean, norm.moving_variance)]

    def micro_batch(batch, number):
        def rows(x):
            if x.shape[0] % micro_batches:
                raise UserError(f"{x.shape[0]} images per device cannot be divided into {micro_batches} micro-batches")
            # [B, ...] -> [micro_batches, B / micro_batches, ...] -> [B / micro_batches, ...]
            return tf.reshape(x, [micro_batches, x.shape[0] // micro_batches, *x.shape[1:]])[number]

        return tf.nest.map_structure(rows, batch)

    def accumulated(batch, seed, scale, logged):
        def seed_of(number):
            return tf.random.experimental.stateless_fold_in(seed, number)

        # The counting pass moves the statistics of batch norm too: put them back, or they would move twice.
        before = [tf.identity(v) for v in moving]
        counts = add_calls(lambda number: count(micro_batch(batch, number), seed_of(number), logged), micro_batches)
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)
        counts = add_replicas(counts, replicas)
        # Divided by the global counts, shares and gradients of the micro-batches only need to be added.
        return add_calls(
            lambda number: losses_and_gradients(micro_batch(batch, number), seed_of(number), scale, logged, counts),
            micro_batches,
        )

    return accumulated


def add_calls(function, calls):
    """Returns the sums of what a function returns for 0 ... calls - 1, called one after the other."""
    function = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
    zeros = tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), function.structured_outputs)
    _, sums = tf.while_loop(
        lambda number, _: number < calls,
        lambda number, sums: (number + 1, tf.nest.map_structure(tf.add, sums, function(number))),
        (tf.constant(0), zeros),
        parallel_iterations=1,  # more would hold the activations of several micro-batches at once
    )
    return sums


def sampling_metrics_where(logged, outputs, truth):
    """Returns `sampling_metrics` if `logged`, a [] bool tensor, is true; otherwise the same names with sums of 0."""
    stages = range(1, len(outputs.stages) + 1)
    names = [
        "sampling/proposal_recall",
        *(f"sampling/stage{t}_{metric}" for t in stages for metric in ("foreground", "iou")),
    ]

    def compute():
        named = sampling_metrics(outputs, truth)
        return [(named[name].total, named[name].count) for name in names]

    sums = tf.cond(logged, compute, lambda: [(tf.constant(0.0), tf.constant(0.0))] * len(names))
    # Without this the condition would expose its branches' intermediate tensors to an unused gradient, and XLA refuses.
    sums = tf.nest.map_structure(tf.stop_gradient, sums)
    return {name: Loss(*pair, 1.0) for name, pair in zip(names, sums, strict=True)}


def sampling_metrics(outputs, truth):
    """Returns {name: Loss}, metrics of the sampled RoIs that tell a healthy training from a stalled one.

    Replicas and micro-batches add their sums and counts, as for losses; no gradient flows through them.

    - `sampling/proposal_recall`: share of ground-truth boxes that a proposal overlaps with an IoU of at least 0.5.
    - `sampling/stageT_foreground`: share of positives among the sampled RoIs.
    - `sampling/stageT_iou`: mean IoU of the positives with their objects, without the ground-truth boxes among them.

    Args:
        outputs: Outputs of a model in training.
        truth: GroundTruth of the batch.
    """
    proposals = outputs.rpn.proposals
    overlaps = box_ops.iou(tf.stop_gradient(proposals.boxes), truth.boxes)  # [B, proposals, objects]
    best = tf.reduce_max(tf.where(proposals.valid[..., tf.newaxis], overlaps, 0.0), axis=1)  # [B, objects]
    found = (best >= RECALL_IOU) & truth.valid
    named = {"sampling/proposal_recall": Loss(count_where(found), count_where(truth.valid), 1.0)}
    for number, stage in enumerate(outputs.stages, start=1):
        rois = stage.rois
        matched = tf.gather(truth.boxes, rois.matches, batch_dims=1)  # [B, RoIs, 4], the object of each RoI
        # Of pairs only: [B, RoIs, 1, 4] with [B, RoIs, 1, 4] gives [B, RoIs, 1, 1].
        overlap = box_ops.iou(rois.boxes[..., tf.newaxis, :], matched[..., tf.newaxis, :])[..., 0, 0]
        counted = rois.positive & ~rois.is_truth
        named[f"sampling/stage{number}_foreground"] = Loss(count_where(rois.positive), count_where(rois.valid), 1.0)
        named[f"sampling/stage{number}_iou"] = Loss(total_where(overlap, counted), count_where(counted), 1.0)
    return named
