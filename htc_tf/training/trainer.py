"""Training, told top to bottom: records, devices, model, first weights; then `training.loop` goes step after step.

One code path for any number of devices and machines (`cluster`). What a step does is in `training.step`; what
a run writes, in `checkpoint` and `training.monitor`; what stops it, in `training.guard`.
"""

import contextlib
import sys
import tempfile

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints, data_fingerprint, fingerprint
from htc_tf.cluster import check_batch, check_same_step, make_agreement, make_strategy, read_cluster
from htc_tf.moving_averages import MovingAverages
from htc_tf.run import Run
from htc_tf.training.best import Best
from htc_tf.training.frozen import first_line
from htc_tf.training.guard import FiniteGuard, disk_errors
from htc_tf.training.lock import hold
from htc_tf.training.loop import Loop
from htc_tf.training.memory import warn_of_memory
from htc_tf.training.monitor import Monitor
from htc_tf.training.start import check_determinism, check_run, initialise, load_records
from htc_tf.training.stop import StopRequest
from htc_tf.training.validation import Validation


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
    stop=None,
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
        stop: a StopRequest that is already entered; by default one for the time of this call.
    Returns:
        Whether SIGTERM or Ctrl-C ended it early, with a checkpoint saved; the same call continues it.
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
        if stop is None:
            stop = stack.enter_context(StopRequest())
        if cluster.workers > 1:
            stop.alone = stop.nothing_to_save = False  # no worker may leave the others

        with strategy.scope():
            model = experiment.build_model()
            model.build_variables()
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
                checkpoints.files.repair_state()
            source = initialise(checkpoints, model, averages, init_from, backbone_weights)
        warn_of_memory(experiment, model, optimizer, strategy)
        first_step = int(step.numpy())
        check_same_step(agree, first_step)
        print(first_line(model, source, first_step), flush=True)
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
        with disk_errors(run.folder, checkpoints):
            monitor = Monitor(run, config, first_step, experiment.steps, experiment.batch_size)
        stack.callback(monitor.close)
        loop = Loop(
            experiment,
            train_records,
            seed,
            strategy=strategy,
            model=model,
            optimizer=optimizer,
            step=step,
            averages=averages,
            run=run,
            checkpoints=checkpoints,
            manifest=manifest,
            monitor=monitor,
            guard=FiniteGuard(run, experiment.skip_non_finite, written.get("skipped", 0) if first_step else 0),
            validation=val_info and Validation(experiment, val_info, stop, strategy, cluster, agree),
            best=Best(run, experiment.keep_best, config, categories),
            agree=agree,
            stop=stop,
            profile=profile,
        )
        stopped = loop.to_the_end()
    if cluster.chief:
        print("\n".join(closing_lines(run, loop.number, stopped, val_records)), flush=True)
    return stopped


def closing_lines(run, step, stopped, val_records):
    """What a training says at its end: what lies where, and the next command."""
    if stopped:
        return [f"stopped after step {step}, saved in {run.folder}: the same command continues"]
    command = f"python -m htc_tf.eval --checkpoint {run.folder} --records {val_records or 'VAL_RECORDS'}"
    return [
        f"finished {step} steps: {run.folder}",
        f"next: {command} --output {run.folder / 'metrics.json'}",
        f"  or: python -m htc_tf.predict --checkpoint {run.folder} --input 'photos/*.jpg' --output pictures",
    ]
