"""A replica's batch becomes its share of the losses and of their gradients; `training.step` adds them and updates.

Every loss is divided by its count over the global batch: all replicas, and all micro-batches where gradients are
accumulated. So any split of the batch has the losses and gradients of the whole (but for what batch norm takes from
the images at hand). The counts come out of the forward pass, since they follow from sampling; so XLA compiles forward
and backward as one computation where there is one replica, or where the counts are known from a pass before, and else
as two, between which the replicas add their counts.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.layers import trained_batch_norms
from htc_tf.training.sampling_metrics import watch_where


def make_gradients(experiment, model, replicas):
    """-> a function for replica context: Batch, seed int32 [2], scale or None, watched -> ({name: share}, gradients).

    The sum over replicas of the shares of each loss, of `total` and of `watch/...` is the number; that of the gradients
    is the gradient of `scale` times the total, in the order of the model's trainable variables. What is watched is 0
    where `watched`, a [] bool tensor, is false: it costs a tenth of a small network's step.

    Raises:
        UserError: the parts of the experiment cannot go together.
    """
    variables = model.trainable_variables
    synchronized = any(norm.synchronized for norm in trained_batch_norms(model))
    if synchronized and replicas > 1 and (experiment.xla or experiment.accumulate > 1):
        raise UserError(
            "norm = 'sync_batch' on several devices goes neither with XLA nor with ACCUMULATE: choose another norm, "
            "such as 'group'"
        )

    def forward(batch, seed, watched):
        outputs = model(batch.images, batch.sizes, batch.truth, seed)
        losses = experiment.objective(outputs, batch.truth, batch.sizes, seed)
        return losses, watch_where(watched, outputs, batch.truth)

    def count(batch, seed, watched):
        losses, seen = forward(batch, seed, watched)
        return {name: loss.count for name, loss in {**losses, **seen}.items()}

    # Nothing else compiles: an update of mirrored variables must stay outside of XLA.
    whole = experiment.xla and (replicas == 1 or experiment.accumulate > 1)
    if experiment.xla:
        count = tf.function(count, jit_compile=True, autograph=False)
        forward = forward if whole else tf.function(forward, jit_compile=True, autograph=False)

    def learn(batch, seed, scale, watched, counts=None):
        with tf.GradientTape() as tape:
            losses, seen = forward(batch, seed, watched)
            if counts is None:
                with tape.stop_recording():
                    counts = {name: loss.count for name, loss in {**losses, **seen}.items()}
                    counts = add_replicas(counts, replicas)
            shares = divide(losses, counts)
            shares["total"] = tf.add_n(list(shares.values()))
            target = shares["total"] if scale is None else scale * shares["total"]
        gradients = tape.gradient(target, variables)
        gradients = [
            tf.zeros_like(v) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(gradients, variables, strict=True)
        ]
        return {**shares, **divide(seen, counts)}, gradients

    if whole:
        learn = tf.function(learn, jit_compile=True, autograph=False)
    return accumulating(learn, count, experiment.accumulate, model, replicas) if experiment.accumulate > 1 else learn


def divide(named, counts):
    """{name: Loss}, {name: count of the whole} -> {name: scalar}, this part's share."""
    return {
        name: loss.weight * loss.total / tf.maximum(tf.stop_gradient(counts[name]), 1.0) for name, loss in named.items()
    }


def add_replicas(values, replicas):
    """The sums over replicas of a structure of tensors, in replica context."""
    if replicas == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def accumulating(learn, count, micro_batches, model, replicas):
    """As `learn`, on the rows of the batch in so many parts, one after the other in the memory of one.

    The first pass only counts, which takes neither mask heads nor gradients; the second learns.
    """
    moving = [v for norm in trained_batch_norms(model) for v in (norm.moving_mean, norm.moving_variance)]

    def part(batch, number):
        def rows(x):
            if x.shape[0] % micro_batches:
                raise UserError(f"{x.shape[0]} images a device cannot be learnt in {micro_batches} equal parts")
            return tf.reshape(x, [micro_batches, x.shape[0] // micro_batches, *x.shape[1:]])[number]

        return tf.nest.map_structure(rows, batch)

    def learn_in_parts(batch, seed, scale, watched):
        def seed_of(number):
            return tf.random.experimental.stateless_fold_in(seed, number)

        before = [tf.identity(v) for v in moving]
        counts = add_parts(lambda number: count(part(batch, number), seed_of(number), watched), micro_batches)
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)
        counts = add_replicas(counts, replicas)
        return add_parts(
            lambda number: learn(part(batch, number), seed_of(number), scale, watched, counts), micro_batches
        )

    return learn_in_parts


def add_parts(function, parts):
    """The sums of what a function returns for 0 ... parts - 1, one call after the other."""
    function = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
    zeros = tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), function.structured_outputs)
    _, sums = tf.while_loop(
        lambda number, _: number < parts,
        lambda number, sums: (number + 1, tf.nest.map_structure(tf.add, sums, function(number))),
        (tf.constant(0), zeros),
        parallel_iterations=1,
    )
    return sums
