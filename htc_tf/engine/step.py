"""One training step, compiled: a distributed batch becomes losses and one update of the weights.

Called by `engine.trainer`, which loops. Every loss is divided by its count over the global batch, and gradients are
summed over replicas, so that N replicas learn what one would.
"""

import tensorflow as tf


def make_train_step(experiment, strategy, model, optimizer, step, seed):
    """-> a compiled function: distributed Batch -> {name: scalar}, after one update of the weights."""
    variables = model.trainable_variables
    replicas = strategy.num_replicas_in_sync

    def forward_and_backward(batch, random_seed):
        with tf.GradientTape() as tape:
            outputs = model(batch.images, batch.sizes, batch.truth, random_seed)
            named = experiment.objective(outputs, batch.truth, batch.sizes, random_seed)
            losses = normalise(named, replicas, inside_xla=experiment.xla)
            losses["total"] = tf.add_n(list(losses.values()))
        return losses, tape.gradient(losses["total"], variables)

    if experiment.xla:
        # Only the inner part compiles: an update of mirrored variables must stay outside of XLA.
        forward_and_backward = tf.function(forward_and_backward, jit_compile=True, autograph=False)

    def replica_step(batch):
        context = tf.distribute.get_replica_context()
        random_seed = tf.stack([tf.constant(seed, tf.int32), tf.cast(step, tf.int32)])
        random_seed = tf.random.experimental.stateless_fold_in(random_seed, context.replica_id_in_sync_group)
        losses, gradients = forward_and_backward(batch, random_seed)
        gradients = [
            tf.zeros_like(v) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(gradients, variables, strict=True)
        ]
        if replicas > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            losses = context.all_reduce(tf.distribute.ReduceOp.SUM, losses)
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(losses["total"])
        scale = 1.0
        if experiment.clip_norm is not None:
            scale = experiment.clip_norm / tf.maximum(norm + 1e-6, experiment.clip_norm)
        gradients = [tf.where(finite, g * scale, 0.0) for g in gradients]
        optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        rate = tf.convert_to_tensor(optimizer.learning_rate)
        return {**losses, "learning_rate": rate, "gradient_norm": norm, "finite": finite}

    # AutoGraph has nothing to convert here, and takes longer over looking than the whole trace does without it.
    @tf.function(autograph=False)
    def train_step(batch):
        results = strategy.run(replica_step, args=(batch,))
        step.assign_add(1)
        return {name: strategy.experimental_local_results(value)[0] for name, value in results.items()}

    return train_step


def normalise(named, replicas, inside_xla):
    """{name: Loss} -> {name: scalar}: each replica's share of the global loss; the shares' sum is the loss."""
    counts = [loss.count for loss in named.values()]
    share = 1.0
    if replicas > 1 and not inside_xla:
        counts = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, counts)
    elif replicas > 1:
        # XLA on one replica cannot hear from the others: the mean of the replicas' own losses, as mmdetection's.
        share = 1.0 / replicas
    return {
        name: share * loss.weight * loss.total / tf.maximum(count, 1.0)
        for (name, loss), count in zip(named.items(), counts, strict=True)
    }
