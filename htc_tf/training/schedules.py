"""Learning-rate schedules: step and cosine decay, with linear warm-up, scaled with the batch size."""

import copy
import math

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ranges import FRACTION, Each, check_ranges, number, optional, whole

REFERENCE_BATCH = 16  # images; the batch size that base learning rates are given for, as in mmdetection


@check_ranges(
    base=number(above=0, maximum=1000),
    batch_size=whole(1),
    steps=optional(whole()),
    warmup_steps=whole(),
    warmup_factor=FRACTION,
)
class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Base class: peak rate x linear warm-up x a factor of the progress, which a subclass defines."""

    def __init__(self, base, batch_size, steps, warmup_steps=500, warmup_factor=0.001):
        """
        Args:
            base: float, learning rate for a batch of 16 images; it scales linearly with the batch size.
            batch_size: int, images in the global batch.
            steps: int, steps of the whole run, at which the schedule ends; None where nothing is trained.
            warmup_steps: int, steps of the warm-up; 0 for none.
            warmup_factor: float, share of the rate in the first step; the last step of the warm-up has all of it.
        """
        self.peak = base * batch_size / REFERENCE_BATCH
        self.steps, self.warmup_steps, self.warmup_factor = steps, warmup_steps, warmup_factor

    def __call__(self, step):
        if self.steps is None:
            raise UserError(f"{type(self).__name__}.steps is unknown: set STEPS, or EPOCHS with the training records")
        step = tf.cast(step, tf.float32)
        ramp = tf.minimum(step / (self.warmup_steps - 1), 1.0) if self.warmup_steps > 1 else 1.0
        warmup = self.warmup_factor + (1 - self.warmup_factor) * ramp
        return self.peak * warmup * self.factor(step / self.steps)

    def factor(self, progress):
        """Returns the factor of the rate at a progress of 0 ... 1."""
        raise NotImplementedError


@gin.register
@check_ranges(
    milestones=Each(FRACTION, minimum=0),
    decay=number(above=0, maximum=1),
)
class StepSchedule(Schedule):
    """Multiplies the rate by `decay` at each milestone (a fraction of the run): 1x is (8 / 12, 11 / 12)."""

    def __init__(
        self, base, batch_size, steps, warmup_steps=500, warmup_factor=0.001, milestones=(2 / 3, 11 / 12), decay=0.1
    ):
        super().__init__(base, batch_size, steps, warmup_steps, warmup_factor)
        self.milestones, self.decay = tuple(milestones), decay

    def factor(self, progress):
        # Compare integer steps: rounding a fraction must not move a milestone.
        step = tf.round(progress * self.steps)
        passed = sum(tf.cast(step >= round(at * self.steps), tf.float32) for at in self.milestones)
        return self.decay**passed


@gin.register
@check_ranges(
    final=FRACTION,
)
class CosineSchedule(Schedule):
    """Half a cosine from the rate to `final` of it, which the step after the last would have (arXiv:1608.03983)."""

    def __init__(self, base, batch_size, steps, warmup_steps=500, warmup_factor=0.001, final=0.01):
        super().__init__(base, batch_size, steps, warmup_steps, warmup_factor)
        self.final = final

    def factor(self, progress):
        return self.final + (1 - self.final) * 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))


@gin.configurable
@check_ranges(scale=number(above=0, maximum=1000))
def learning_rate(schedule, scale=1.0):
    """Returns the run's schedule, whichever optimizer it has; an optimizer may be given its own instead.

    Args:
        schedule: Schedule; gin binds it once.
        scale: float, factor of the peak rate; fine-tuning takes a part of the configured rate.
    """
    scaled = copy.copy(schedule)
    scaled.peak *= scale
    return scaled
