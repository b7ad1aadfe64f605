"""Optimisers and learning-rate schedules: the references' SGD, AdamW, steps and cosine, all with warm-up.

An optimiser is a recipe until `build`, which the trainer calls under its strategy and then hands gradients that are
summed over replicas and clipped.
"""

import math

import gin
import tensorflow as tf

REFERENCE_BATCH = 16


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
class CosineSchedule(Schedule):
    """Half a cosine, down to `final` of the rate at the last step (Loshchilov and Hutter, arXiv:1608.03983)."""

    def __init__(self, base, batch_size, steps, warmup_steps=500, warmup_factor=0.001, final=0.01):
        super().__init__(base, batch_size, steps, warmup_steps, warmup_factor)
        self.final = final

    def factor(self, progress):
        return self.final + (1 - self.final) * 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))


class CoupledSGD(tf.keras.optimizers.Optimizer):
    """g += decay * w; v = momentum * v + g; w -= rate * v.

    Keras' own SGD keeps the rate inside the velocity, which is another step while the rate changes. The last two are a
    single operation of TensorFlow's for each variable.
    """

    def __init__(self, learning_rate, momentum, decay, name="SGD"):
        super().__init__(name=name, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum, self.decay = momentum, decay

    def build(self, var_list):
        super().build(var_list)
        if not getattr(self, "_built", False):
            self.velocities = [self.add_variable_from_reference(v, "velocity") for v in var_list]
            self._built = True

    def update_step(self, gradient, variable):
        velocity = self.velocities[self._index_dict[self._var_key(variable)]]
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=tf.cast(self.learning_rate, variable.dtype),
            grad=tf.convert_to_tensor(gradient) + self.decay * variable,
            momentum=self.momentum,
        )

    def get_config(self):
        rate = self._serialize_hyperparameter(self._learning_rate)
        return {**super().get_config(), "learning_rate": rate, "momentum": self.momentum, "decay": self.decay}


@gin.register
class SGD:
    """SGD with momentum and coupled decay, as mmdetection and Paddle step."""

    def __init__(self, schedule, momentum=0.9, decay=1e-4):
        self.schedule, self.momentum, self.decay = schedule, momentum, decay

    def build(self):
        return CoupledSGD(self.schedule, self.momentum, self.decay)


class FusedAdamW(tf.keras.optimizers.AdamW):
    """Keras' AdamW in TensorFlow's single operation for each variable, a third of the cost on a CPU."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, jit_compile=False, **kwargs)

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.convert_to_tensor(gradient),
        )


@gin.register
class AdamW:
    """AdamW (arXiv:1711.05101): decay is decoupled, scaled by the rate, and spares norms and biases."""

    def __init__(self, schedule, decay=0.05, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
        self.schedule, self.decay, self.betas, self.epsilon = schedule, decay, (beta_1, beta_2), epsilon

    def build(self):
        optimizer = FusedAdamW(self.schedule, self.decay, *self.betas, epsilon=self.epsilon)
        optimizer.exclude_from_weight_decay(var_names=["norm", "bias"])
        return optimizer
