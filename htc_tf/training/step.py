"""The compiled training step, and a loop of several: gradients summed over replicas, checked, clipped and applied.

`training.gradients` computes the part of one replica and says how far any split of a batch equals the whole;
`training.loop` calls the step.
"""

import tensorflow as tf

from htc_tf.models.norms import trained_batch_norms
from htc_tf.training.gradients import add_replicas, make_gradients


def make_train_step(experiment, strategy, model, optimizer, step, seed, averages=None):
    """Returns a compiled function that updates the weights by a distributed Batch and returns {name: scalar}.

    A step whose total or gradients are not finite updates nothing: weights, slots, averages and the statistics of batch
    norm keep every bit. `step` counts it nonetheless, because it counts batches and determines the order of the data.
    `optimizer.iterations` counts updates.

    Args:
        experiment: Experiment; its objective, xla, accumulate, clip_norm, log_every and steps are used.
        strategy: tf.distribute.Strategy under which model and optimizer were built.
        model: Keras layer with variables.
        optimizer: Optimizer that a recipe of `training.optim` has built.
        step: int64 variable, batches so far.
        seed: int, seed of every random choice, together with the step.
        averages: MovingAverages to update, or None.
    Returns:
        The function. Its numbers are every loss and `total`; `learning_rate`; `gradient_norm`, before clipping;
        `finite`, True if training can continue; the sampling metrics, in steps that are logged (0 in others); under
        float16 `loss_scale`. An overflow of float16 gradients is not a failure while the scale can still be halved:
        such a step updates the scale alone, and its `gradient_norm` is 0.
    """
    replicas = strategy.num_replicas_in_sync
    variables = model.trainable_variables
    moving = [v for norm in trained_batch_norms(model) for v in (norm.moving_mean, norm.moving_variance)]
    gradients_of = make_gradients(experiment, model, replicas)
    loss_scale = optimizer.loss_scale

    def compute(batch, logged):
        context = tf.distribute.get_replica_context()
        random_seed = tf.stack([tf.constant(seed, tf.int32), tf.cast(step, tf.int32)])
        random_seed = tf.random.experimental.stateless_fold_in(random_seed, context.replica_id_in_sync_group)
        before = [tf.identity(v) for v in moving]  # the forward pass moves them
        scale = None if loss_scale is None else tf.identity(loss_scale.value)
        numbers, gradients = gradients_of(batch, random_seed, scale, logged)
        gradients, numbers = add_replicas(gradients, replicas), add_replicas(numbers, replicas)
        if scale is not None:
            gradients = [g / scale for g in gradients]
        # Of the sum over replicas, so every replica clips by the same factor.
        norm = tf.linalg.global_norm(gradients)
        if experiment.clip_norm is not None:
            # min(1, clip_norm / norm), with torch's 1e-6 in the denominator.
            factor = experiment.clip_norm / tf.maximum(norm + 1e-6, experiment.clip_norm)
            gradients = [g * factor for g in gradients]
        return {**numbers, "gradient_norm": norm}, gradients, before

    def apply(gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)

    def restore_statistics(before):
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)

    def is_logged(number):
        last = number == experiment.steps
        return last | (number % experiment.log_every == 0) if experiment.log_every else last

    # AutoGraph has nothing to convert here, and its search takes longer than the rest of the trace.
    @tf.function(autograph=False)
    def train_step(batch):
        rate = optimizer.schedule(optimizer.iterations)
        numbers, gradients, before = strategy.run(compute, args=(batch, is_logged(step + 1)))
        # All replicas have the same sums: take the first one's.
        numbers = {name: strategy.experimental_local_results(value)[0] for name, value in numbers.items()}
        finite = tf.math.is_finite(numbers["total"]) & tf.math.is_finite(numbers["gradient_norm"])

        # The condition is outside of the replicas: inside a branch they could not synchronize to apply the update.
        def update():
            strategy.run(apply, args=(gradients,))
            if averages is not None:
                averages.update()
            return tf.constant(True)

        def skip():
            if moving:
                strategy.run(restore_statistics, args=(before,))
            return tf.constant(False)

        tf.cond(finite, update, skip)
        if loss_scale is not None:
            scale = tf.identity(loss_scale.value)
            loss_scale.update(finite)
            numbers["loss_scale"] = scale
            numbers["gradient_norm"] = tf.where(finite, numbers["gradient_norm"], 0.0)
            # The scale can still be halved: the run continues although nothing was updated.
            finite |= tf.math.is_finite(numbers["total"]) & (scale > 1.0)
        step.assign_add(1)
        return {**numbers, "learning_rate": rate, "finite": finite}

    return train_step


def make_train_loop(train_step, shapes=()):
    """Returns a compiled function that runs several steps and returns the numbers of the last one.

    Its arguments are an iterator of distributed Batches and the number of steps, a tensor (it would be compiled again
    for every Python number). It ends early after a step whose `finite` is False; the step variable has counted it.

    Args:
        train_step: Function that `make_train_step` returned.
        shapes: All padded (height, width) of the images, if the iterator's element spec leaves them open; the step is
            compiled for each.
    """

    def on_known_shape(batch):
        images = tf.nest.flatten(batch.images, expand_composites=True)[0]
        if images.shape[1:3].is_fully_defined():
            return train_step(batch)
        # [shapes] bool, True at the shape of this batch; a branch per shape, traced with static sizes.
        which = tf.reduce_all(tf.shape(images)[1:3] == tf.constant(shapes), axis=1)
        branches = [lambda shape=shape: train_step(set_image_shape(batch, *shape)) for shape in shapes]
        return tf.switch_case(tf.argmax(which, output_type=tf.int32), branches)

    @tf.function(autograph=False)
    def next_step(iterator):
        return on_known_shape(next(iterator))

    @tf.function(autograph=False)
    def train_loop(iterator, steps):
        spec = next_step.get_concrete_function(iterator).structured_outputs
        nothing = {name: tf.zeros(value.shape, value.dtype) for name, value in spec.items()}
        _, numbers = tf.while_loop(
            lambda done, numbers: (done < steps) & numbers["finite"],
            lambda done, _: (done + 1, next_step(iterator)),
            (tf.constant(0), {**nothing, "finite": tf.constant(True)}),
            parallel_iterations=1,  # a step reads the weights that the last one wrote
        )
        return numbers

    return train_loop


def set_image_shape(batch, height, width):
    """Returns the distributed Batch with a static height and width of its images."""

    def narrow(images):
        return tf.ensure_shape(images, [images.shape[0], height, width, images.shape[3]])

    return batch._replace(images=tf.nest.map_structure(narrow, batch.images, expand_composites=True))
