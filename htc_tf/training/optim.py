"""Optimisers and learning-rate schedules: the references' SGD, AdamW, SGDW and LAMB; steps and cosine, with warm-up.

An optimiser is a recipe until `build`, which the trainer calls under its strategy and with the precision set; then
`training.step` hands it gradients that are summed over replicas and clipped. Beside what Keras' optimisers have, it has
its `schedule` and, under float16, a `loss_scale`.
"""

import math
import warnings

import gin
import tensorflow as tf

from htc_tf.ranges import FRACTION, Each, check_ranges, number, whole
from htc_tf.training.groups import GroupedOptimizers, ParameterGroups
from htc_tf.training.loss_scale import LossScale

SPARED = (("norm|bias|gamma|beta", 1.0, 0.0),)  # gamma and beta: of norms by whatever name
REFERENCE_BATCH = 16


@check_ranges(
    base=number(above=0, maximum=1000),
    batch_size=whole(1),
    steps=whole(),
    warmup_steps=whole(),
    warmup_factor=FRACTION,
)
class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A factor of the progress (0 ... 1), after a linear warm-up, times a base that scales with the batch."""

    def __init__(self, base, batch_size, steps, warmup_steps=500, warmup_factor=0.001):
        """
        Args:
            base: learning rate for a batch of 16 images; it scales linearly with the batch.
            batch_size: global.
            steps: of the whole run; the schedule ends with them.
            warmup_steps, warmup_factor: the first step has `warmup_factor` of the rate, the last of them all of it; 0
                for none.
        """
        self.peak = base * batch_size / REFERENCE_BATCH
        self.steps, self.warmup_steps, self.warmup_factor = steps, warmup_steps, warmup_factor

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        ramp = tf.minimum(step / (self.warmup_steps - 1), 1.0) if self.warmup_steps > 1 else 1.0
        warmup = self.warmup_factor + (1 - self.warmup_factor) * ramp
        return self.peak * warmup * self.factor(step / self.steps)

    def factor(self, progress):
        raise NotImplementedError


@gin.register
@check_ranges(
    milestones=Each(FRACTION, minimum=0),
    decay=number(above=0, maximum=1),
)
class StepSchedule(Schedule):
    """Multiplies the rate by `decay` at each of the milestones (fractions of the run): 1x is (8 / 12, 11 / 12)."""

    def __init__(
        self, base, batch_size, steps, warmup_steps=500, warmup_factor=0.001, milestones=(2 / 3, 11 / 12), decay=0.1
    ):
        super().__init__(base, batch_size, steps, warmup_steps, warmup_factor)
        self.milestones, self.decay = tuple(milestones), decay

    def factor(self, progress):
        # Whole steps decide, so that rounding a fraction cannot move a milestone.
        step = tf.round(progress * self.steps)
        passed = sum(tf.cast(step >= round(at * self.steps), tf.float32) for at in self.milestones)
        return self.decay**passed


@gin.register
@check_ranges(
    final=FRACTION,
)
class CosineSchedule(Schedule):
    """Half a cosine, down to `final` of the rate at the last step (Loshchilov and Hutter, arXiv:1608.03983)."""

    def __init__(self, base, batch_size, steps, warmup_steps=500, warmup_factor=0.001, final=0.01):
        super().__init__(base, batch_size, steps, warmup_steps, warmup_factor)
        self.final = final

    def factor(self, progress):
        return self.final + (1 - self.final) * 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))


@gin.configurable
@check_ranges()
def learning_rate(schedule):
    """The schedule of whichever optimiser the run has, so that another one finds it; a recipe may be given its own."""
    return schedule


def equip(optimizer, schedule):
    """Gives an optimiser what the step asks it for: its schedule, and a loss scale where the precision needs one."""
    optimizer.schedule = schedule
    half = tf.keras.mixed_precision.global_policy().compute_dtype == "float16"
    optimizer.loss_scale = LossScale() if half else None
    return optimizer


class CoupledSGD(tf.keras.optimizers.Optimizer):
    """g += decay * w; v = momentum * v + g; w -= rate * v.

    Keras' own SGD keeps the rate inside the velocity, which is another step while the rate changes. The last two are a
    single operation of TensorFlow's for each variable.
    """

    def __init__(self, learning_rate, momentum, decay, groups, name="SGD"):
        super().__init__(name=name, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum, self.decay, self.groups = momentum, decay, groups

    def build(self, var_list):
        super().build(var_list)
        if not getattr(self, "_built", False):
            self.groups.resolve(var_list)
            self.velocities = [self.add_variable_from_reference(v, "velocity") for v in var_list]
            self._built = True

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        rate, decay = self.groups.multipliers[index]
        gradient = tf.convert_to_tensor(gradient)
        if decay * self.decay:
            gradient += decay * self.decay * variable
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self.velocities[index].handle,
            lr=rate * tf.cast(self.learning_rate, variable.dtype),
            grad=gradient,
            momentum=self.momentum,
        )

    def get_config(self):
        rate = self._serialize_hyperparameter(self._learning_rate)
        return {**super().get_config(), "learning_rate": rate, "momentum": self.momentum, "decay": self.decay}


@gin.register
@check_ranges(
    momentum=number(0, below=1),
    decay=FRACTION,
)
class SGD:
    """SGD with momentum and coupled decay, as mmdetection and Paddle step."""

    def __init__(self, schedule=None, momentum=0.9, decay=1e-4, groups=()):
        """groups: triples for `training.groups.ParameterGroups`."""
        self.schedule, self.momentum, self.decay = schedule or learning_rate(), momentum, decay
        self.groups = ParameterGroups(groups, "SGD.groups")

    def build(self):
        return equip(CoupledSGD(self.schedule, self.momentum, self.decay, self.groups), self.schedule)


class FusedAdamW(tf.keras.optimizers.Adam):
    """Keras' AdamW in TensorFlow's single operation for each variable, a third of the cost on a CPU; and its groups."""

    def __init__(self, learning_rate, decay, beta_1, beta_2, epsilon, groups, name="AdamW"):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, jit_compile=False, name=name)
        self.decay, self.groups = decay, groups

    def build(self, var_list):
        if not getattr(self, "_built", False):
            self.groups.resolve(var_list)
        super().build(var_list)

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate_multiplier, decay_multiplier = self.groups.multipliers[index]
        rate = rate_multiplier * tf.cast(self.learning_rate, variable.dtype)
        if decay_multiplier * self.decay:
            variable.assign_sub(decay_multiplier * self.decay * rate * variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.convert_to_tensor(gradient),
        )


@gin.register
@check_ranges(
    decay=number(0, 10),
    beta_1=number(0, below=1),
    beta_2=number(0, below=1),
    epsilon=number(above=0, maximum=1),
)
class AdamW:
    """AdamW (arXiv:1711.05101): decay is decoupled and scaled by the rate."""

    def __init__(self, schedule=None, decay=0.05, beta_1=0.9, beta_2=0.999, epsilon=1e-8, groups=None):
        """groups: triples for `training.groups.ParameterGroups`; by default norms and biases do not decay."""
        self.schedule, self.decay = schedule or learning_rate(), decay
        self.betas, self.epsilon = (beta_1, beta_2), epsilon
        self.groups = ParameterGroups(groups, "AdamW.groups", SPARED)

    def build(self):
        return equip(FusedAdamW(self.schedule, self.decay, *self.betas, self.epsilon, self.groups), self.schedule)


@gin.register
@check_ranges(
    momentum=number(0, below=1),
    decay=FRACTION,
)
class SGDW:
    """tensorflow-addons' SGD with momentum and decoupled decay (arXiv:1711.05101).

    w -= decay * s * w, where s is the rate's share of its peak: the paper's schedule multiplier, which leaves out the
    base rate. Keras' velocity has the rate inside: v = momentum * v - rate * g; w += v.
    """

    def __init__(self, schedule=None, momentum=0.9, decay=1e-4, groups=None):
        """groups: triples for `training.groups.ParameterGroups`; by default norms and biases do not decay."""
        self.schedule, self.momentum, self.decay = schedule or learning_rate(), momentum, decay
        self.groups = ParameterGroups(groups, "SGDW.groups", SPARED)

    def build(self):
        addons = import_addons()

        def make(rate, decay):
            decayed = Scaled(self.schedule, decay * self.decay / (self.schedule.peak or 1.0))
            return addons.SGDW(weight_decay=decayed, learning_rate=Scaled(self.schedule, rate), momentum=self.momentum)

        return equip(GroupedOptimizers(make, self.groups, "SGDW"), self.schedule)


@gin.register
@check_ranges(
    decay=number(0, 10),
    beta_1=number(0, below=1),
    beta_2=number(0, below=1),
    epsilon=number(above=0, maximum=1),
)
class LAMB:
    """tensorflow-addons' LAMB (arXiv:1904.00962): Adam whose step is as long as the weight, layer by layer.

    What does not decay (a multiplier of 0) is not adapted to the weight's length either, as in the paper's code.
    """

    def __init__(self, schedule=None, decay=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-6, groups=None):
        """groups: triples for `training.groups.ParameterGroups`; by default norms and biases do not decay."""
        self.schedule, self.decay = schedule or learning_rate(), decay
        self.betas, self.epsilon = (beta_1, beta_2), epsilon
        self.groups = ParameterGroups(groups, "LAMB.groups", SPARED)

    def build(self):
        addons = import_addons()

        def make(rate, decay):
            exclude = None if decay else ["."]
            return addons.LAMB(
                Scaled(self.schedule, rate), *self.betas, self.epsilon, decay * self.decay, exclude, exclude
            )

        return equip(GroupedOptimizers(make, self.groups, "LAMB"), self.schedule)


class Scaled(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor."""

    def __init__(self, schedule, factor):
        self.schedule, self.scale = schedule, factor

    def __call__(self, step):
        return self.scale * self.schedule(step)


def import_addons():
    """tensorflow-addons' optimisers, imported only where one is used, without its note on its end of life."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflow_addons import optimizers
    return optimizers
