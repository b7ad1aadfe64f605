"""Training from top to bottom: records, devices, model, first weights, and then the loop of steps.

There is one code path for any number of devices and machines (`cluster`). `training.loop` runs the steps,
`training.step` is one of them; `checkpoint` and `training.monitor` write the run, `training.guard` stops it.
"""

import contextlib
import sys
import tempfile

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints, data_fingerprint, fingerprint
from htc_tf.cluster import check_batch, check_same, check_same_step, make_agreement, make_strategy, read_cluster
from htc_tf.errors import shell_word
from htc_tf.moving_averages import MovingAverages
from htc_tf.record_settings import steps_per_epoch
from htc_tf.run import Run
from htc_tf.training.checks import check_continues, check_determinism, check_profile, check_run, load_records
from htc_tf.training.epochs import describe_epoch, describe_steps
from htc_tf.training.first_weights import initialize
from htc_tf.training.frozen import describe_start
from htc_tf.training.guard import FiniteGuard, check_folder, disk_errors, run_lock, worker_errors
from htc_tf.training.loop import Loop
from htc_tf.training.memory import check_memory
from htc_tf.training.monitor import Monitor
from htc_tf.training.stop import StopRequest
from htc_tf.training.validation import BestCheckpoint, Validation, describe_evaluations, evaluations_since_best

# Entries of a checkpoint's manifest, in the words of the note that says that one has changed.
CHANGES = {
    "replicas": ("the number of devices", "the run will differ from the original"),
    "val_data": ("--val_records", "metrics before and after, which RUN/best and patience compare, differ in images"),
}


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
    ignore_memory=False,
    stop=None,
):
    """Trains to `experiment.steps`, or until `experiment.patience` ends it; resumes from `run`'s newest checkpoint.

    Args:
        experiment: Experiment.
        config: str, the resolved gin text, saved as RUN/config.gin.
        train_records: Folder of the training records.
        val_records: Folder of the records to evaluate on, or None.
        run: Run to write to.
        seed: int, seed of the weights, the order of the data and every random choice.
        devices: Names of the devices, or None for all GPUs (the CPU without any).
        init_from: Run, public weights or checkpoint file to start from, or None, see `first_weights.initialize`.
        backbone_weights: Name or path of the backbone's weights, "none" for no weights, or None for
            `experiment.backbone_weights`; see `first_weights.initialize`.
        profile: (first, last) step to profile for TensorBoard, or None; with several workers, on the chief.
        ignore_memory: If True, a training that needs more memory than is free begins with a warning.
        stop: StopRequest that is already entered; by default one for the duration of this call.
    Returns:
        True if SIGTERM or Ctrl-C ended it early, with a checkpoint saved; the same call continues it.
    Raises:
        UserError: Records, configuration, checkpoint, devices and memory do not fit, another process trains in `run`,
            or a file cannot be written.
        FloatingPointError: A loss or a gradient is not finite; the update was not applied.
        WorkerLost: Another worker has ended.
    """
    # Records: their classes and annotations must fit the configuration and the run.
    train_info, val_info = load_records(experiment, train_records, val_records)
    check_run(experiment, run, train_info)
    epoch_steps = steps_per_epoch(train_info.records, experiment.batch_size)

    # Devices: one strategy for all of them.
    cluster = read_cluster()
    experiment.prepare_runtime(seed)
    strategy = make_strategy(devices, cluster)
    check_batch(experiment.batch_size, experiment.accumulate, strategy.num_replicas_in_sync)
    agree = make_agreement(strategy, cluster)
    categories = [{"id": c.id, "name": c.name} for c in train_info.categories]
    manifest = {"config": fingerprint(config), "data": data_fingerprint(train_info), "seed": seed}
    manifest["val_data"] = val_info and data_fingerprint(val_info)
    manifest["replicas"] = strategy.num_replicas_in_sync  # RoIs are sampled with each replica's own seed

    with worker_errors(cluster), contextlib.ExitStack() as stack:
        if stop is None:
            stop = stack.enter_context(StopRequest())
        if cluster.workers > 1:
            stop.alone = stop.nothing_to_save = False  # no worker may leave the others waiting
        same = {"configuration": config, "--train_records": manifest["data"], "--val_records": manifest["val_data"]}
        same |= {"--seed": seed, "--init_from": getattr(init_from, "folder", init_from), "--profile": profile}
        check_same(strategy, cluster, same | {"--backbone_weights": backbone_weights})
        if cluster.chief:
            stack.enter_context(run_lock(run.lock))
            for folder in (run.checkpoints, run.best.folder, run.best.checkpoints):
                check_folder(folder)

        # Model, optimizer and averages, with all variables; then their first values.
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
            source = initialize(
                checkpoints,
                model,
                averages,
                init_from,
                backbone_weights,
                configured=experiment.backbone_weights,
                class_names=train_info.class_names,
            )
            check_continues(run, checkpoints)
        check_memory(experiment, model, optimizer, strategy, ignore=ignore_memory)
        first_step = int(step.numpy())
        check_same_step(strategy, cluster, first_step)
        print(describe_start(model, source, first_step), flush=True)
        print(f"evaluations: {describe_evaluations(experiment, val_info, epoch_steps)}", flush=True)
        written = checkpoints.read_manifest()
        skipped = written.get("skipped", 0) if first_step else 0
        for flag, value in (("--init_from", init_from), ("--backbone_weights", backbone_weights)):
            if value is not None and checkpoints.held is not None:
                print(f"note: {flag} is not read: the run continues from its own checkpoint", file=sys.stderr)
        for name, value in manifest.items() if first_step else ():
            if written.get(name, value) != value and None not in (written[name], value):
                what, effect = CHANGES.get(name, (name, "the run will differ from the original"))
                print(f"note: {what} changed since {source}: {effect}", file=sys.stderr)
        check_profile(profile, first_step, experiment.steps)

        if not cluster.chief:
            # Saving reads variables, which all workers must do together; only the chief's copy is kept.
            run = Run(stack.enter_context(tempfile.TemporaryDirectory()))
            checkpoints = Checkpoints(run, model, optimizer, step, experiment.keep_checkpoints, averages)
        # Only now: a run that cannot be resumed keeps its configuration and classes.
        run.create(config, categories)
        with disk_errors(run.folder, checkpoints):
            length = experiment.steps, experiment.batch_size, epoch_steps
            monitor = Monitor(run, config, first_step, *length, chief=cluster.chief)
        stack.callback(monitor.close)

        best = BestCheckpoint(run, experiment.keep_best, config, categories)
        if not first_step and (saved := best.saved()):
            print(
                f"note: {best.run.folder} holds weights of an earlier training ({best.metric} {saved[1]:.3f} at step "
                f"{saved[0]}): move it away, or only better ones replace them",
                file=sys.stderr,
            )

        # Steps, checkpoints and evaluations.
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
            guard=FiniteGuard(run if cluster.chief else None, experiment.skip_non_finite, skipped),
            validation=val_info and Validation(experiment, val_info, stop, strategy, cluster, agree),
            best=best,
            agree=agree,
            stop=stop,
            profile=profile,
            chief=cluster.chief,
        )
        stopped = loop.run_to_end()
    if cluster.chief:
        print("\n".join(closing_lines(run, loop, stopped, val_records)), flush=True)
    return stopped


def closing_lines(run, loop, stopped, val_records):
    """Returns the last lines that a training prints: where the run is, and the next commands."""
    step, metric, best = loop.number, loop.best.metric, loop.best.saved()
    if stopped:
        return [f"stopped after step {step}, saved in {run.folder}: the same command continues"]
    weights = run.best.folder if best else run.folder
    ending = f"finished {describe_steps(step, loop.monitor.epoch_steps)}: {run.folder}"
    if step < loop.experiment.steps:
        since = evaluations_since_best(loop.monitor.evaluations, metric)
        ending = (
            f"stopped early at {describe_epoch(step, loop.monitor.epoch_steps)}: "
            f"{metric} has not improved for {since} evaluation{'s' * (since != 1)}"
        )
    if best:
        ending += f"; the best, {best[1]:.3f} at step {best[0]}, is in {weights}"
    paths = weights, val_records or "VAL_RECORDS", run.folder / "metrics.json"
    weights, records, output = (shell_word(path) for path in paths)
    return [
        ending,
        f"next: python -m htc_tf.eval --checkpoint {weights} --records {records} --output {output}",
        f"  or: python -m htc_tf.predict --checkpoint {weights} --input 'photos/*.jpg' --output pictures",
    ]
