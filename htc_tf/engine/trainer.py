"""Training, told top to bottom: data, model, checkpoint, then step after step until STEPS.

One code path for any number of devices: `tf.distribute.MirroredStrategy`, also over a single one. What a step does is
in `engine.step`.
"""

import numpy as np
import tensorflow as tf

from htc_tf.data.input import named_errors
from htc_tf.engine.checkpoint import Checkpoints
from htc_tf.engine.inference import PICTURES, Detector, build_variables, evaluate_records, load_fitting
from htc_tf.engine.monitor import Monitor
from htc_tf.engine.step import make_train_step
from htc_tf.errors import UserError


def train(experiment, config, train_records, val_records, run, seed=0, devices=None):
    """Trains until `experiment.steps`, resuming from the newest checkpoint in `run` if there is one.

    Args:
        experiment: Experiment.
        config: the resolved gin, as text, saved as RUN/config.gin.
        train_records, val_records: folders of records; the latter may be None.
        run: the Run that everything is written to.
        seed: of the weights, the order of the data and every random choice.
        devices: names of the devices, or None for all GPUs (the CPU where there is none).
    Raises:
        UserError: records and configuration do not fit.
        FloatingPointError: a loss or a gradient is not finite; the update was not applied.
    """
    train_info = load_fitting(experiment, train_records)
    val_info = load_fitting(experiment, val_records) if val_records else None
    experiment.prepare_runtime(seed)
    strategy = make_strategy(devices, experiment.batch_size)

    with strategy.scope():
        model = experiment.build_model()
        check_labels(model, train_info)
        build_variables(model)
        optimizer = experiment.optimizer.build()
        optimizer.build(model.trainable_variables)
        step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        checkpoints = Checkpoints(run, model, optimizer, step, experiment.keep_checkpoints)
        restored = checkpoints.restore_latest()
    if restored:
        print(f"{'resuming' if int(step.numpy()) else 'starting'} from {restored}")
    # Only now: a run that cannot go on keeps what describes it.
    run.create(config, [{"id": c.id, "name": c.name} for c in train_info.categories])

    first_step = int(step.numpy())
    dataset = experiment.train_input.dataset(train_records, seed, start_step=first_step)
    batches = iter(strategy.experimental_distribute_dataset(dataset))
    train_step = make_train_step(experiment, strategy, model, optimizer, step, seed)
    detector = Detector(model, experiment)
    monitor = Monitor(run, config, first_step, experiment.steps, experiment.batch_size)

    def due(every, number):
        return every and number % every == 0

    for number in range(first_step + 1, experiment.steps + 1):
        with named_errors(train_records):
            batch = next(batches)
        numbers = train_step(batch)
        if not numbers["finite"]:
            raise FloatingPointError(describe_failure(number, numbers))
        monitor.advance()
        last = number == experiment.steps
        if due(experiment.log_every, number) or last:
            numbers.pop("finite")
            monitor.log(number, {name: float(value) for name, value in numbers.items()})
        if due(experiment.checkpoint_every, number) or last:
            checkpoints.save(number)
        if val_info is not None and due(experiment.evaluate_every, number):
            metrics, _, pictures = evaluate_records(detector, val_info, pictures=PICTURES)
            monitor.log_evaluation(number, metrics, pictures)
    if first_step == 0 and experiment.steps == 0:
        checkpoints.save(0)
    monitor.close()


def make_strategy(devices, batch_size):
    """MirroredStrategy on the devices named, such as GPU:0, or on all GPUs, or else on the CPU."""
    known = [device.name.rpartition("device:")[2] for device in tf.config.list_logical_devices()]
    for name in devices or ():
        if name.upper().removeprefix("/").removeprefix("DEVICE:") not in known:
            raise UserError(f"--devices {name}: no such device; there are {', '.join(known)}")
    strategy = tf.distribute.MirroredStrategy(devices)
    if batch_size % strategy.num_replicas_in_sync:
        raise UserError(f"BATCH_SIZE = {batch_size} is no multiple of the {strategy.num_replicas_in_sync} devices")
    return strategy


def check_labels(model, info):
    """A label that the semantic branch does not know would stop a step, or make it NaN."""
    head = model.semantic_head
    if head is not None and info.stuff.present and info.stuff.labels > head.num_labels:
        raise UserError(
            f"{info.folder} has {info.stuff.labels} semantic labels, but NUM_LABELS = {head.num_labels}: "
            f"add --gin_param NUM_LABELS={info.stuff.labels}"
        )


def describe_failure(number, numbers):
    bad = [name for name, value in numbers.items() if name != "finite" and not np.isfinite(value)]
    rate = float(numbers["learning_rate"])
    return (
        f"step {number} (learning rate {rate:.2e}): not finite: {', '.join(bad)}. The update was not applied; "
        "the last checkpoint is good. A lower BASE_LEARNING_RATE or a clip_norm may help."
    )
