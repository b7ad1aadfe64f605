"""The loop of a training: step after step until the last, and what is due between them: log, save, evaluate, profile.

Before it: `training.trainer` gathers all that it needs. The step itself is in `training.step`.
"""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.data.input import named_errors
from htc_tf.evaluation.records import Interrupted
from htc_tf.experiment import Experiment
from htc_tf.models.layers import trained_batch_norms
from htc_tf.moving_averages import MovingAverages
from htc_tf.run import Run
from htc_tf.training.best import Best
from htc_tf.training.feed import distribute, join_replicas, read_batch
from htc_tf.training.guard import FiniteGuard, disk_errors, memory_errors
from htc_tf.training.monitor import Monitor
from htc_tf.training.step import make_train_loop, make_train_step
from htc_tf.training.stop import StopRequest
from htc_tf.training.validation import Validation


@dataclass
class Loop:
    """A training that is about to take its next step."""

    experiment: Experiment
    records: str  # folder, to learn from
    seed: int
    strategy: tf.distribute.Strategy
    model: tf.keras.layers.Layer
    optimizer: Any  # what a recipe of `training.optim` built
    step: tf.Variable  # int64, steps taken
    averages: MovingAverages | None
    run: Run
    checkpoints: Checkpoints
    manifest: dict[str, Any]  # saved with each checkpoint
    monitor: Monitor
    guard: FiniteGuard
    validation: Validation | None
    best: Best
    agree: Any  # bool -> whether any worker said True
    stop: StopRequest
    profile: tuple[int, int] | None = None  # first and last step

    def __post_init__(self):
        self.number = int(self.step.numpy())
        self.compiled = tf.config.functions_run_eagerly()
        self.batches = iter(distribute(self.strategy, self.experiment, self.records, self.seed, self.number))
        self.train_step = make_train_step(
            self.experiment, self.strategy, self.model, self.optimizer, self.step, self.seed, self.averages
        )
        self.train_loop = make_train_loop(self.train_step, self.experiment.train_input.shapes)
        self.writing = functools.partial(disk_errors, self.run.folder, self.checkpoints)

    def to_the_end(self):
        """-> whether it was told to stop before the last step and its evaluation; what it had learnt is saved."""
        if self.number > 0 and self.evaluation_pending():
            self.evaluate()
        if self.number == self.experiment.steps == 0:
            self.save()
        while self.number < self.experiment.steps and not self.agree(self.stop):
            self.go_on()
        return self.evaluation_pending() or self.number < self.experiment.steps

    def go_on(self):
        """The steps until something is due, and what is due then."""
        if self.profile is not None and self.number + 1 == self.profile[0]:
            tf.profiler.experimental.start(str(self.run.folder))
        finite = self.learn(self.next_pause() - self.number)
        last = self.number == self.experiment.steps
        if finite and (self.due(self.experiment.log_every) or last):
            with self.writing():
                self.monitor.log(self.number, {name: float(value) for name, value in self.numbers.items()})
        stopping = self.agree(self.stop)
        if self.due(self.experiment.checkpoint_every) or last or stopping:
            self.save()
        if self.profile is not None and self.number == self.profile[1]:
            tf.profiler.experimental.stop()
        if self.evaluation_due() and not stopping:
            self.evaluate()
            if self.agree(self.stop):
                self.save()

    def learn(self, count):
        """So many steps, fewer if one is not finite. -> whether the last was; its numbers are in `numbers`."""
        if not self.compiled:
            self.monitor.tell("compiling the training step, which takes about a minute on a CPU")
            self.compiled = True
        with memory_errors(self.experiment.batch_size), named_errors(self.records):
            self.numbers, make_batch = self.advance(count)
            finite = bool(self.numbers.pop("finite"))
        before, self.number = self.number, int(self.step.numpy())
        self.stop.nothing_to_save = False
        self.monitor.advance(self.number - before)
        self.guard.check(self.number, finite, self.numbers, make_batch)
        return finite

    def advance(self, count):
        """-> the numbers of the last step, and how to make its batch again."""
        if self.experiment.steps_per_loop > 1:
            numbers = self.train_loop(self.batches, tf.constant(count))
            learnt_before = int(self.step.numpy()) - 1
            return numbers, lambda: read_batch(self.experiment, self.records, self.seed, learnt_before)
        batch = self.monitor.wait(self.batches)
        numbers = self.train_step(batch)
        if self.number == 0 and not tf.config.functions_run_eagerly():
            with self.writing():
                self.monitor.draw_graph(self.train_step.get_concrete_function(batch).graph)
        return numbers, lambda: join_replicas(self.strategy, batch)

    def save(self):
        self.monitor.sync()
        sync_batch_norm_stats(self.model)
        with disk_errors(self.run.checkpoints, self.checkpoints):
            self.checkpoints.save(self.number, **self.manifest, skipped=self.guard.skipped)

    def evaluate(self):
        """All workers together. It leaves nothing behind if it is interrupted, and is done when the run goes on."""
        self.validation.take(self.model, self.averages)
        with contextlib.suppress(Interrupted):
            found = self.validation.evaluate()
            if found is None:  # another worker than the chief
                return
            metrics, pictures = found
            with self.writing():
                best = self.best.offer(self.number, metrics, self.validation.model)
                self.monitor.log_evaluation(self.number, metrics, pictures, self.best.run.folder if best else None)

    def due(self, every):
        return bool(every) and self.number % every == 0

    def evaluation_due(self):
        return self.validation is not None and self.due(self.experiment.evaluate_every)

    def evaluation_pending(self):
        """Whether one is due that the chief, who writes them down, has not done."""
        chief = self.validation is not None and self.validation.crew.chief
        return self.agree(chief and self.evaluation_due() and self.number not in self.monitor.evaluated)

    def next_pause(self):
        """The next step after which Python has something to do."""
        intervals = (self.experiment.log_every, self.experiment.checkpoint_every, self.experiment.evaluate_every)
        stops = [self.number + self.experiment.steps_per_loop, self.experiment.steps]
        stops += [self.number - self.number % every + every for every in intervals if every]
        if self.profile is not None:
            stops += [at for at in (self.profile[0] - 1, self.profile[1]) if at > self.number]
        return min(stops)


def sync_batch_norm_stats(model):
    """Gives every replica the mean of all replicas' batch norm statistics, which is what a checkpoint holds."""
    for norm in trained_batch_norms(model):
        for variable in (norm.moving_mean, norm.moving_variance):
            variable.assign(tf.convert_to_tensor(variable))
