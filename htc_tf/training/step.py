"""One training step, compiled: a distributed batch becomes losses and one update of the weights; and many in a row.

Called by `training.trainer`, which loops. `training.gradients` has what a replica computes; here gradients are summed
over replicas, judged, clipped and applied, so that N replicas learn what one would.
"""

import tensorflow as tf

from htc_tf.models.layers import trained_batch_norms
from htc_tf.training.gradients import add_replicas, make_gradients


def make_train_step(experiment, strategy, model, optimizer, step, seed, averages=None):
    """-> a compiled function: distributed Batch -> {name: scalar}, after one update of the weights.

    A step whose total or gradients are not finite updates nothing: weights, slots, averages and the statistics of batch
    norm stay as they are, bit for bit. `step` counts it nonetheless, since it counts batches: the order of the data
    follows from it. `optimizer.iterations` counts updates.

    Args:
        experiment: for its objective, xla, accumulate, clip_norm, log_every and steps.
        strategy, model, optimizer: the model and what a recipe of `training.optim` built, under the strategy.
        step: int64 variable.
        seed: int, of every random choice, together with the step.
        averages: MovingAverages to update, or None.
    Returns:
        The function. Its numbers: every loss and `total`; `learning_rate`; `gradient_norm`, before clipping;
        `finite`, whether training can go on; what is watched, as `watch/...`, in steps that are logged (0 in others);
        under float16 `loss_scale`. There an overflow of the gradients is no failure while the scale can still halve:
        such a step updates nothing but the scale, and its `gradient_norm` is 0.
    """
    replicas = strategy.num_replicas_in_sync
    variables = model.trainable_variables
    moving = [v for norm in trained_batch_norms(model) for v in (norm.moving_mean, norm.moving_variance)]
    gradients_of = make_gradients(experiment, model, replicas)
    loss_scale = optimizer.loss_scale

    def learn(batch, watched):
        context = tf.distribute.get_replica_context()
        random_seed = tf.stack([tf.constant(seed, tf.int32), tf.cast(step, tf.int32)])
        random_seed = tf.random.experimental.stateless_fold_in(random_seed, context.replica_id_in_sync_group)
        before = [tf.identity(v) for v in moving]
        scale = None if loss_scale is None else tf.identity(loss_scale.value)
        numbers, gradients = gradients_of(batch, random_seed, scale, watched)
        gradients, numbers = add_replicas(gradients, replicas), add_replicas(numbers, replicas)
        if scale is not None:
            gradients = [g / scale for g in gradients]
        norm = tf.linalg.global_norm(gradients)
        if experiment.clip_norm is not None:
            factor = experiment.clip_norm / tf.maximum(norm + 1e-6, experiment.clip_norm)
            gradients = [g * factor for g in gradients]
        return {**numbers, "gradient_norm": norm}, gradients, before

    def apply(gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)

    def put_back(before):
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)

    def is_logged(number):
        last = number == experiment.steps
        return last | (number % experiment.log_every == 0) if experiment.log_every else last

    # AutoGraph has nothing to convert here, and takes longer over looking than the whole trace does without it.
    @tf.function(autograph=False)
    def train_step(batch):
        rate = optimizer.schedule(optimizer.iterations)
        numbers, gradients, before = strategy.run(learn, args=(batch, is_logged(step + 1)))
        numbers = {name: strategy.experimental_local_results(value)[0] for name, value in numbers.items()}
        finite = tf.math.is_finite(numbers["total"]) & tf.math.is_finite(numbers["gradient_norm"])

        # The branch is taken here, outside of the replicas: inside, replicas cannot meet in order to apply.
        def update():
            strategy.run(apply, args=(gradients,))
            if averages is not None:
                averages.update()
            return tf.constant(True)

        def leave():
            if moving:
                strategy.run(put_back, args=(before,))
            return tf.constant(False)

        tf.cond(finite, update, leave)
        if loss_scale is not None:
            scale = tf.identity(loss_scale.value)
            loss_scale.update(finite)
            numbers["loss_scale"] = scale
            numbers["gradient_norm"] = tf.where(finite, numbers["gradient_norm"], 0.0)
            finite |= tf.math.is_finite(numbers["total"]) & (scale > 1.0)
        step.assign_add(1)
        return {**numbers, "learning_rate": rate, "finite": finite}

    return train_step


def make_train_loop(train_step, shapes=()):
    """-> a compiled function: iterator of distributed Batches, number of steps -> the numbers of the last of them.

    It ends early after a step whose `finite` is False, which is then the one that the step variable counted last. The
    number of steps is a tensor (or every number is compiled anew).

    Args:
        train_step: of `make_train_step`.
        shapes: all padded (height, width) that the images have, where the iterator leaves them open; the step is
            compiled for each.
    """

    def on_known_shape(batch):
        images = tf.nest.flatten(batch.images, expand_composites=True)[0]
        if images.shape[1:3].is_fully_defined():
            return train_step(batch)
        which = tf.reduce_all(tf.shape(images)[1:3] == tf.constant(shapes), axis=1)
        branches = [lambda shape=shape: train_step(padded_to(batch, *shape)) for shape in shapes]
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
            parallel_iterations=1,
        )
        return numbers

    return train_loop


def padded_to(batch, height, width):
    """The distributed Batch, its images known to be of this height and width."""

    def narrow(images):
        return tf.ensure_shape(images, [images.shape[0], height, width, images.shape[3]])

    return batch._replace(images=tf.nest.map_structure(narrow, batch.images, expand_composites=True))
