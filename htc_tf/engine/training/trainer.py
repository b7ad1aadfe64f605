"""Training, told top to bottom: records, devices, model, first weights, then step after step until STEPS.

One code path for any number of devices and machines (`training.devices`). What a step does is in `training.step`; what
a run writes, in `engine.checkpoint` and `training.monitor`; what stops it, in `training.guard`.
"""

import contextlib
import functools
import sys
import tempfile

import numpy as np
import tensorflow as tf

from htc_tf.data.input import named_errors
from htc_tf.engine.checkpoint import Checkpoints, data_fingerprint, fingerprint
from htc_tf.engine.inference import Interrupted, build_variables
from htc_tf.engine.training.averages import MovingAverages
from htc_tf.engine.training.best import Best
from htc_tf.engine.training.devices import check_batch, check_same_step, make_agreement, make_strategy, read_cluster
from htc_tf.engine.training.guard import FiniteGuard, StopRequest, disk_errors, memory_errors
from htc_tf.engine.training.lock import hold
from htc_tf.engine.training.monitor import Monitor
from htc_tf.engine.training.start import check_determinism, check_run, initialise, load_records
from htc_tf.engine.training.step import make_train_loop, make_train_step
from htc_tf.engine.training.validation import Validation
from htc_tf.models.layers import trained_batch_norms
from htc_tf.run import Run


def train(
    experiment,
    config,
    train_records,
    val_records,
    run,
    seed=0,
    devices=None,
    init_from=None,
    backbone_weights=None,
    profile=None,
):
    """Trains until `experiment.steps`, resuming from the newest checkpoint in `run` if there is one.

    Args:
        experiment: Experiment.
        config: the resolved gin, as text, saved as RUN/config.gin.
        train_records, val_records: folders of records; the latter may be None.
        run: the Run that everything is written to.
        seed: of the weights, the order of the data and every random choice.
        devices: names of the devices, or None for all GPUs (the CPU where there is none).
        init_from, backbone_weights: where the first weights come from, see `start.initialise`.
        profile: (first, last) step to profile for TensorBoard, or None.
    Returns:
        Whether SIGTERM ended it early, with a checkpoint saved; the same call goes on.
    Raises:
        UserError: records, configuration, checkpoint and devices do not fit, another process trains in `run`, or what
            is to be written cannot be.
        FloatingPointError: a loss or a gradient is not finite; the update was not applied.
    """
    train_info, val_info = load_records(experiment, train_records, val_records)
    check_run(experiment, run, train_info)
    cluster = read_cluster()
    experiment.prepare_runtime(seed)
    strategy = make_strategy(devices, cluster)
    check_batch(experiment.batch_size, experiment.accumulate, strategy.num_replicas_in_sync)
    agree = make_agreement(strategy, cluster)
    categories = [{"id": c.id, "name": c.name} for c in train_info.categories]
    manifest = {"config": fingerprint(config), "data": data_fingerprint(train_info), "seed": seed}

    with contextlib.ExitStack() as stack:
        if cluster.chief:
            stack.enter_context(hold(run.lock))
        stop = stack.enter_context(StopRequest())

        with strategy.scope():
            model = experiment.build_model()
            build_variables(model)
            check_determinism(experiment, model)
            optimizer = experiment.optimizer.build()
            optimizer.build(model.trainable_variables)
            step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
            averages = None
            if experiment.ema_decay is not None:
                averages = MovingAverages(model.trainable_variables, experiment.ema_decay)
            checkpoints = Checkpoints(run, model, optimizer, step, experiment.keep_checkpoints, averages)
            if cluster.chief:
                checkpoints.sweep()
            source = initialise(checkpoints, model, averages, init_from, backbone_weights)
        first_step = int(step.numpy())
        check_same_step(agree, first_step)
        if source:
            print(f"{'resuming' if first_step else 'starting'} from {source}")
        written = checkpoints.read_manifest()
        for name in ("config", "data", "seed"):
            if first_step and written.get(name, manifest[name]) != manifest[name]:
                print(f"note: {name} changed since {source}: not the run that it would have been", file=sys.stderr)

        if not cluster.chief:
            # All workers must read what is saved; only the chief's copy stays.
            run = Run(stack.enter_context(tempfile.TemporaryDirectory()))
            checkpoints = Checkpoints(run, model, optimizer, step, experiment.keep_checkpoints, averages)
        # Only now: a run that cannot go on keeps what describes it.
        run.create(config, categories)
        writing = functools.partial(disk_errors, run.folder, checkpoints)

        batches = iter(distribute(strategy, experiment, train_records, seed, first_step))
        train_step = make_train_step(experiment, strategy, model, optimizer, step, seed, averages)
        train_loop = make_train_loop(train_step, experiment.train_input.shapes)
        with writing():
            monitor = Monitor(run, config, first_step, experiment.steps, experiment.batch_size)
        stack.callback(monitor.close)
        guard = FiniteGuard(run, experiment.skip_non_finite, written.get("skipped", 0) if first_step else 0)
        validation = None if val_info is None else Validation(experiment, val_info, stop)
        best = Best(run, experiment.keep_best, config, categories)

        def save(number):
            settle_statistics(model)
            with disk_errors(run.checkpoints, checkpoints):
                checkpoints.save(number, **manifest, skipped=guard.skipped)

        def advance(number, count):
            """-> the numbers of the last step, and how to make its batch again"""
            if experiment.steps_per_loop > 1:
                numbers = train_loop(batches, tf.constant(count))
                failed = int(step.numpy()) - 1
                return numbers, lambda: read_batch(experiment, train_records, seed, failed)
            batch = monitor.wait(batches)
            numbers = train_step(batch)
            if number == 0 and not tf.config.functions_run_eagerly():
                with writing():
                    monitor.draw_graph(train_step.get_concrete_function(batch).graph)
            return numbers, lambda: join_replicas(strategy, batch)

        def evaluate(number):
            """Leaves nothing behind if it is interrupted: it is done when the run is started again."""
            validation.take(model, averages)
            if not cluster.chief:
                return
            with contextlib.suppress(Interrupted):
                metrics, pictures = validation.evaluate()
                with writing():
                    best.offer(number, metrics, validation.model)
                    monitor.log_evaluation(number, metrics, pictures)

        def evaluation_due(number):
            return validation is not None and due(experiment.evaluate_every, number)

        number = first_step
        if number > 0 and evaluation_due(number) and agree(cluster.chief and number not in monitor.evaluated):
            evaluate(number)
        if number == experiment.steps == 0:
            save(0)
        while number < experiment.steps and not agree(stop):
            if profile is not None and number + 1 == profile[0]:
                tf.profiler.experimental.start(str(run.folder))
            count = next_pause(experiment, number, profile) - number
            with memory_errors(experiment.batch_size), named_errors(train_records):
                numbers, make_batch = advance(number, count)
                finite = bool(numbers["finite"])
            before, number = number, int(step.numpy())
            monitor.advance(number - before)
            guard.check(number, numbers, make_batch)
            last = number == experiment.steps
            if finite and (due(experiment.log_every, number) or last):
                with writing():
                    monitor.log(number, {name: float(v) for name, v in numbers.items() if name != "finite"})
            stopping = agree(stop)
            if due(experiment.checkpoint_every, number) or last or stopping:
                save(number)
            if profile is not None and number == profile[1]:
                tf.profiler.experimental.stop()
            if evaluation_due(number) and not stopping:
                evaluate(number)
                if agree(stop):
                    save(number)
        pending = evaluation_due(number) and number not in monitor.evaluated
        return agree(pending and cluster.chief) or number < experiment.steps


def due(every, number):
    return bool(every) and number % every == 0


def next_pause(experiment, number, profile):
    """The next step after which Python has something to do."""
    intervals = (experiment.log_every, experiment.checkpoint_every, experiment.evaluate_every)
    stops = [number + experiment.steps_per_loop, experiment.steps]
    stops += [number - number % every + every for every in intervals if every]
    stops += [at for at in ((profile[0] - 1, profile[1]) if profile else ()) if at > number]
    return min(stops)


def distribute(strategy, experiment, records, seed, start_step):
    """The batches, of each the part of each replica of this process; nothing else is decoded here."""

    def make_part(context):
        worker, workers, replicas = (
            context.input_pipeline_id,
            context.num_input_pipelines,
            context.num_replicas_in_sync,
        )
        return experiment.train_input.dataset(records, seed, start_step, worker, workers, replicas)

    return strategy.distribute_datasets_from_function(make_part)


def settle_statistics(model):
    """Gives every replica the mean of all replicas' batch norm statistics, which is what a checkpoint holds."""
    for norm in trained_batch_norms(model):
        for variable in (norm.moving_mean, norm.moving_variance):
            variable.assign(tf.convert_to_tensor(variable))


def join_replicas(strategy, batch):
    """A distributed Batch -> the Batch of this process's replicas, as NumPy arrays."""

    def join(value):
        return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])

    return tf.nest.map_structure(join, batch)


def read_batch(experiment, records, seed, start_step):
    """The global Batch that is learnt after so many steps, as NumPy arrays."""
    return next(experiment.train_input.dataset(records, seed, start_step=start_step).as_numpy_iterator())
