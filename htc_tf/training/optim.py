"""Optimizers: the references' SGD, AdamW, SGDW and LAMB as recipes, and the loss scale of float16.

A recipe creates no variable before `build`, which `training.trainer` calls under its strategy, with the precision set.
`training.step` then passes the optimizer gradients that are already summed over replicas and clipped. Besides what
Keras' optimizers have, each has its `schedule` and, under float16, a `loss_scale`.
"""

import gin
import tensorflow as tf

from htc_tf import addons
from htc_tf.ranges import FRACTION, check_ranges, number
from htc_tf.training.legacy_optimizers import DecoupledSGD, LayerwiseAdam
from htc_tf.training.parameter_groups import NO_DECAY, GroupedOptimizers, ParameterGroups
from htc_tf.training.schedules import learning_rate


class LossScale(tf.Module):
    """Dynamic loss scale (Micikevicius et al., arXiv:1710.03740, section 3.2), checkpointed with the optimizer.

    It keeps small float16 gradients from vanishing. Keras' LossScaleOptimizer decides inside `apply_gradients` whether
    to apply them; here `training.step` alone decides, for weights, slots and averages at once, with any optimizer.
    """

    def __init__(self, initial=2.0**15, patience=2000, name="loss_scale"):
        """
        Args:
            initial: float, scale of the first step.
            patience: int, steps without an overflow after which the scale doubles.
        """
        super().__init__(name=name)
        self.patience = patience
        self.value = tf.Variable(initial, dtype=tf.float32, trainable=False, name="value")
        self.good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")

    def update(self, finite):
        """Halves the scale, not below 1, after gradients that are not finite; called in cross-replica context."""
        good = tf.where(finite, self.good_steps + 1, tf.zeros_like(self.good_steps))
        full = good >= self.patience
        grown = tf.where(full, 2.0 * self.value, self.value)
        self.value.assign(tf.where(finite, grown, tf.maximum(0.5 * self.value, 1.0)))
        self.good_steps.assign(tf.where(full, tf.zeros_like(good), good))


def attach_schedule(optimizer, schedule):
    """Attaches what `training.step` reads: the schedule, and a loss scale if the precision is float16."""
    optimizer.schedule = schedule
    half = tf.keras.mixed_precision.global_policy().compute_dtype == "float16"
    optimizer.loss_scale = LossScale() if half else None
    return optimizer


class FusedOptimizer(tf.keras.optimizers.Optimizer):
    """Base of optimizers with parameter groups and one TensorFlow operation per variable.

    `make_update` computes what the updates of all variables share, and returns a function that updates one, given its
    gradient and its index. There are hundreds of variables, and it takes about a millisecond to trace an operation.
    """

    def __init__(self, *arguments, groups, **options):
        """groups: ParameterGroups; the other arguments are those of the next class."""
        super().__init__(*arguments, jit_compile=False, **options)
        self.groups = groups

    def build(self, var_list):
        if not getattr(self, "_built", False):
            self.groups.resolve(var_list)
        super().build(var_list)

    def _distributed_apply_gradients_fn(self, distribution, grads_and_vars, **options):
        self.update = self.make_update()
        return super()._distributed_apply_gradients_fn(distribution, grads_and_vars, **options)

    def update_step(self, gradient, variable):
        self.update(tf.convert_to_tensor(gradient), variable, self._index_dict[self._var_key(variable)])

    def group_rates(self):
        """Returns {pair of multipliers: its learning rate, [] float32}."""
        rate = tf.cast(self.learning_rate, tf.float32)
        return {pair: pair[0] * rate for pair in self.groups.pairs()}


class CoupledSGD(FusedOptimizer):
    """SGD with momentum and coupled decay: g += decay * w; v = momentum * v + g; w -= rate * v.

    Keras' own SGD keeps the rate inside the velocity, which differs while the rate changes. The last two assignments
    are one TensorFlow operation per variable.
    """

    def __init__(self, learning_rate, momentum, decay, groups, name="SGD"):
        super().__init__(name=name, groups=groups)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum, self.decay = momentum, decay

    def build(self, var_list):
        super().build(var_list)
        if not getattr(self, "_built", False):
            self.velocities = [self.add_variable_from_reference(v, "velocity") for v in var_list]
            self._built = True

    def make_update(self):
        rates, momentum = self.group_rates(), tf.constant(self.momentum, tf.float32)

        def update(gradient, variable, index):
            pair = self.groups.multipliers[index]
            if pair[1] * self.decay:
                gradient += pair[1] * self.decay * variable
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle,
                accum=self.velocities[index].handle,
                lr=rates[pair],
                grad=gradient,
                momentum=momentum,
            )

        return update

    def get_config(self):
        rate = self._serialize_hyperparameter(self._learning_rate)
        return {**super().get_config(), "learning_rate": rate, "momentum": self.momentum, "decay": self.decay}


@gin.register
@check_ranges(
    momentum=number(0, below=1),
    decay=FRACTION,
)
class SGD:
    """SGD with momentum and coupled decay, with the update of mmdetection and Paddle."""

    def __init__(self, schedule=None, momentum=0.9, decay=1e-4, groups=()):
        """groups: triples for `ParameterGroups`."""
        self.schedule, self.momentum, self.decay = schedule or learning_rate(), momentum, decay
        self.groups = ParameterGroups(groups, "SGD.groups")

    def build(self):
        return attach_schedule(CoupledSGD(self.schedule, self.momentum, self.decay, self.groups), self.schedule)


class FusedAdamW(FusedOptimizer, tf.keras.optimizers.Adam):
    """Keras' AdamW with parameter groups, as one TensorFlow operation per variable: a third of the cost on a CPU."""

    def __init__(self, learning_rate, decay, beta_1, beta_2, epsilon, groups, name="AdamW"):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, groups=groups, name=name)
        self.decay = decay

    def make_update(self):
        rates, step = self.group_rates(), tf.cast(self.iterations + 1, tf.float32)
        decays = {pair: pair[1] * self.decay * rate for pair, rate in rates.items() if pair[1] * self.decay}
        constants = self.beta_1, self.beta_2, self.epsilon
        beta_1, beta_2, epsilon = (tf.constant(constant, tf.float32) for constant in constants)
        beta1_power, beta2_power = tf.pow(beta_1, step), tf.pow(beta_2, step)

        def update(gradient, variable, index):
            pair = self.groups.multipliers[index]
            if pair in decays:
                variable.assign_sub(decays[pair] * variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].handle,
                v=self._velocities[index].handle,
                beta1_power=beta1_power,
                beta2_power=beta2_power,
                lr=rates[pair],
                beta1=beta_1,
                beta2=beta_2,
                epsilon=epsilon,
                grad=gradient,
            )

        return update


@gin.register
@check_ranges(
    decay=number(0, 10),
    beta_1=number(0, below=1),
    beta_2=number(0, below=1),
    epsilon=number(above=0, maximum=1),
)
class AdamW:
    """AdamW (arXiv:1711.05101): decay is decoupled from the gradient and scaled by the rate."""

    def __init__(self, schedule=None, decay=0.05, beta_1=0.9, beta_2=0.999, epsilon=1e-8, groups=None):
        """groups: triples for `ParameterGroups`; by default norms and biases do not decay."""
        self.schedule, self.decay = schedule or learning_rate(), decay
        self.betas, self.epsilon = (beta_1, beta_2), epsilon
        self.groups = ParameterGroups(groups, "AdamW.groups", NO_DECAY)

    def build(self):
        return attach_schedule(
            FusedAdamW(self.schedule, self.decay, *self.betas, self.epsilon, self.groups), self.schedule
        )


@gin.register
@check_ranges(
    momentum=number(0, below=1),
    decay=FRACTION,
)
class SGDW:
    """SGD with momentum and decoupled decay (arXiv:1711.05101), from tensorflow-addons if it is installed.

    w -= decay * s * w, where s is the rate divided by its peak: the paper's schedule multiplier, which excludes the
    base rate. Keras' velocity includes the rate: v = momentum * v - rate * g; w += v.
    """

    def __init__(self, schedule=None, momentum=0.9, decay=1e-4, groups=None):
        """groups: triples for `ParameterGroups`; by default norms and biases do not decay."""
        self.schedule, self.momentum, self.decay = schedule or learning_rate(), momentum, decay
        self.groups = ParameterGroups(groups, "SGDW.groups", NO_DECAY)

    def build(self):
        package = addons.load()
        kind = package.optimizers.SGDW if package else DecoupledSGD

        def make(rate, decay):
            decayed = Scaled(self.schedule, decay * self.decay / (self.schedule.peak or 1.0))
            return kind(weight_decay=decayed, learning_rate=Scaled(self.schedule, rate), momentum=self.momentum)

        return attach_schedule(GroupedOptimizers(make, self.groups, "SGDW"), self.schedule)


@gin.register
@check_ranges(
    decay=number(0, 10),
    beta_1=number(0, below=1),
    beta_2=number(0, below=1),
    epsilon=number(above=0, maximum=1),
)
class LAMB:
    """LAMB (arXiv:1904.00962), from tensorflow-addons if it is installed: Adam with a step scaled to the weight's norm.

    Weights that do not decay (a multiplier of 0) are not adapted to their norm either, as in the paper's code.
    """

    def __init__(self, schedule=None, decay=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-6, groups=None):
        """groups: triples for `ParameterGroups`; by default norms and biases do not decay."""
        self.schedule, self.decay = schedule or learning_rate(), decay
        self.betas, self.epsilon = (beta_1, beta_2), epsilon
        self.groups = ParameterGroups(groups, "LAMB.groups", NO_DECAY)

    def build(self):
        package = addons.load()

        def make(rate, decay):
            arguments = (Scaled(self.schedule, rate), *self.betas, self.epsilon, decay * self.decay)
            if not package:
                return LayerwiseAdam(*arguments, adapt=bool(decay))
            exclude = None if decay else ["."]  # a pattern that every name matches
            return package.optimizers.LAMB(*arguments, exclude, exclude)

        return attach_schedule(GroupedOptimizers(make, self.groups, "LAMB"), self.schedule)


class Scaled(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A schedule multiplied by a constant."""

    def __init__(self, schedule, factor):
        self.schedule, self.scale = schedule, factor

    def __call__(self, step):
        return self.scale * self.schedule(step)
