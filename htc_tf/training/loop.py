"""The training loop: steps, and between them the logs, checkpoints, evaluations and profiles that are due."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.data.input import named_errors
from htc_tf.evaluation.records import Interrupted
from htc_tf.experiment import Experiment
from htc_tf.freed_memory import keep_freed_memory
from htc_tf.models.norms import trained_batch_norms
from htc_tf.moving_averages import MovingAverages
from htc_tf.ops.devices import has_gpu
from htc_tf.run import Run
from htc_tf.training.guard import FiniteGuard, disk_errors, memory_errors
from htc_tf.training.monitor import Monitor
from htc_tf.training.step import make_train_loop, make_train_step
from htc_tf.training.stop import StopRequest
from htc_tf.training.validation import BestCheckpoint, Validation, evaluations_since_best


@dataclass
class Loop:
    """A training before its next step."""

    experiment: Experiment
    records: str  # folder of the training records
    seed: int
    strategy: tf.distribute.Strategy
    model: tf.keras.layers.Layer
    optimizer: Any  # Keras optimizer, built by a recipe of `training.optim`
    step: tf.Variable  # int64, steps so far
    averages: MovingAverages | None
    run: Run
    checkpoints: Checkpoints
    manifest: dict[str, Any]  # saved with each checkpoint
    monitor: Monitor
    guard: FiniteGuard
    validation: Validation | None
    best: BestCheckpoint
    agree: Any  # function of a bool: returns True if it is true on any worker
    stop: StopRequest
    profile: tuple[int, int] | None = None  # first and last step
    chief: bool = True  # only the chief profiles

    def __post_init__(self):
        self.number = int(self.step.numpy())
        self.profiled_from = None  # first step of the running profiler
        self.compiled = tf.config.functions_run_eagerly()
        self.batches = iter(distribute(self.strategy, self.experiment, self.records, self.seed, self.number))
        keep_freed_memory()
        self.train_step = make_train_step(
            self.experiment, self.strategy, self.model, self.optimizer, self.step, self.seed, self.averages
        )
        self.train_loop = make_train_loop(self.train_step, self.experiment.train_input.shapes)
        self.writing = functools.partial(disk_errors, self.run.folder, self.checkpoints)
        self.exhausted = self.is_exhausted()

    @property
    def finished(self):
        """True after the last step, or once the evaluations have ended the training early."""
        return self.exhausted or self.number >= self.experiment.steps

    def run_to_end(self):
        """Trains to the last step. Returns True if a stop request ended it earlier, with a checkpoint saved."""
        if self.evaluation_pending():
            self.evaluate()
        try:
            while not self.finished and not self.agree(self.stop):
                self.run_until_due()
        finally:
            self.stop_profiler()
        self.save()  # of a training without steps, or stopped before the first one; else the checkpoint exists
        return self.evaluation_pending() or not self.finished

    def run_until_due(self):
        """Trains until something is due, and does that."""
        self.start_profiler()
        finite = self.train_steps(self.next_pause() - self.number)
        last = self.number == self.experiment.steps
        if finite and (self.due(self.experiment.log_every) or last):
            with self.writing():
                self.monitor.log(self.number, {name: float(value) for name, value in self.numbers.items()})
        stopping = self.agree(self.stop)
        if self.due(self.experiment.checkpoint_every) or last or stopping:
            self.save()
        if self.profile is not None and self.number == self.profile[1]:
            self.stop_profiler()
        if self.evaluation_due() and not stopping:
            self.evaluate()
            if self.exhausted or self.agree(self.stop):
                self.save()

    def train_steps(self, count):
        """Trains `count` steps, fewer if one is not finite. Returns True if the last is; sets its `numbers`."""
        if not self.compiled:
            self.monitor.describe("tracing the training step")
            self.compiled = True
        size = self.experiment.batch_size
        remedy = f"lower BATCH_SIZE = {size}, raise ACCUMULATE, or lower IMAGE_MAX_SIDE"
        with memory_errors(remedy), named_errors(self.records):
            self.numbers = self.call_step(count)
            finite = bool(self.numbers.pop("finite"))
        before, self.number = self.number, int(self.step.numpy())
        self.stop.nothing_to_save = False
        self.monitor.advance(self.number - before)
        # Read once more: this process has no other part of the batch than that of its replicas.
        self.guard.check(
            self.number,
            finite,
            self.numbers,
            lambda: read_batch(self.experiment, self.records, self.seed, self.number - 1),
        )
        return finite

    def call_step(self, count):
        """Returns the numbers of the last step."""
        if self.experiment.steps_per_loop > 1:
            return self.train_loop(self.batches, tf.constant(count))
        batch = self.monitor.wait(self.batches)
        numbers = self.train_step(batch)
        if self.number == 0 and not tf.config.functions_run_eagerly():
            with self.writing():
                self.monitor.draw_graph(self.train_step.get_concrete_function(batch).graph)
        return numbers

    def save(self):
        self.monitor.sync()
        sync_batch_norm_stats(self.model)
        with disk_errors(self.run.checkpoints, self.checkpoints):
            self.checkpoints.save(self.number, **self.manifest, skipped=self.guard.skipped)

    def evaluate(self):
        """Evaluates on all workers. An interrupted evaluation leaves nothing and is repeated when the run resumes."""
        size = self.experiment.eval_input.batch_size
        remedy = f"the evaluation needs it beside the training: lower eval/Input.batch_size = {size} or IMAGE_MAX_SIDE"
        with contextlib.suppress(Interrupted):
            with memory_errors(remedy):
                self.validation.copy_weights(self.model, self.averages)
                found = self.validation.evaluate()
            if found is not None:  # the chief
                metrics, images = found
                with self.writing():
                    best = self.best.update(self.number, metrics, self.validation.model)
                    self.monitor.log_evaluation(self.number, metrics, images, self.best.run.folder if best else None)
        self.exhausted = self.is_exhausted()

    def is_exhausted(self):
        """Returns True on all workers once `patience` evaluations have not improved on the best one.

        The chief counts the lines of metrics.jsonl, so that a run which has ended early does not go on when it resumes.
        """
        if self.experiment.patience is None:
            return False
        since = evaluations_since_best(self.monitor.evaluations, self.experiment.keep_best)
        return self.agree(since >= self.experiment.patience)

    def start_profiler(self):
        """Starts the profiler if the next step is to be profiled; a resumed training may be past the first one."""
        if self.profile is None or self.profiled_from is not None or not self.chief:
            return
        if self.profile[0] <= self.number + 1 <= self.profile[1]:
            with self.writing():
                tf.profiler.experimental.start(str(self.run.folder))
            self.profiled_from = self.number + 1

    def stop_profiler(self):
        """Writes the profile if the profiler is running."""
        first, self.profiled_from = self.profiled_from, None
        if first is not None:
            with self.writing():
                tf.profiler.experimental.stop()
            steps = f"steps {first} to {self.number}" if self.number > first else f"step {first}"
            self.monitor.print_line(f"profile of {steps}: {self.run.folder / 'plugins' / 'profile'}")

    def due(self, every):
        return bool(every) and self.number % every == 0

    def evaluation_due(self):
        if self.validation is None or not self.experiment.evaluate_every or self.number == 0:
            return False
        return self.due(self.experiment.evaluate_every) or self.number == self.experiment.steps

    def evaluation_pending(self):
        """Returns True if an evaluation is due that the chief has not logged yet."""
        chief = self.validation is not None and self.validation.workers.chief
        return self.agree(chief and self.evaluation_due() and self.number not in self.monitor.evaluations)

    def next_pause(self):
        """Returns the next step after which Python has something to do."""
        intervals = (self.experiment.log_every, self.experiment.checkpoint_every, self.experiment.evaluate_every)
        stops = [self.number + self.experiment.steps_per_loop, self.experiment.steps]
        stops += [self.number - self.number % every + every for every in intervals if every]
        if self.profile is not None:
            stops += [at for at in (self.profile[0] - 1, self.profile[1]) if at > self.number]
        return min(stops)


def distribute(strategy, experiment, records, seed, start_step):
    """Returns the dataset of the training for a strategy; each process decodes the rows of its own replicas only."""
    # A GPU and several replicas take TensorFlow's iterators of each device, which fetch ahead. Their threads are tuned,
    # whatever the options of the dataset say, so that their end may wait up to a minute (`datasets.without_autotune`).
    if strategy.num_replicas_in_sync == 1 and not has_gpu():
        return experiment.train_input.dataset(records, seed, start_step)

    def make_part(context):
        return experiment.train_input.dataset(
            records,
            seed,
            start_step,
            context.input_pipeline_id,  # this worker
            context.num_input_pipelines,  # of these
            context.num_replicas_in_sync,
        )

    return strategy.distribute_datasets_from_function(make_part)


def read_batch(experiment, records, seed, start_step):
    """Returns the global Batch of the step after `start_step`, NumPy arrays."""
    return next(experiment.train_input.dataset(records, seed, start_step=start_step).as_numpy_iterator())


def sync_batch_norm_stats(model):
    """Gives every replica the mean of all replicas' batch norm statistics, which is what a checkpoint holds."""
    for norm in trained_batch_norms(model):
        for variable in (norm.moving_mean, norm.moving_variance):
            variable.assign(tf.convert_to_tensor(variable))  # reading a mirrored variable averages its copies
