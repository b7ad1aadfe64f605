"""Loss scaling: what keeps float16's small gradients from vanishing and lets its overflows pass.

`training.optim` gives one to an optimiser where the precision is float16; `training.step` multiplies the loss by it,
divides the gradients by it, and tells it whether they were finite.
"""

import tensorflow as tf


class LossScale(tf.Module):
    """A dynamic loss scale (Micikevicius et al., arXiv:1710.03740, section 3.2), saved with the optimiser.

    Keras' LossScaleOptimizer decides inside of `apply_gradients` whether to apply; here the step alone decides, for
    weights, slots and averages at once, whatever the optimiser.
    """

    def __init__(self, initial=2.0**15, patience=2000, name="loss_scale"):
        """
        Args:
            initial: scale of the first step.
            patience: steps without an overflow after which the scale doubles.
        """
        super().__init__(name=name)
        self.patience = patience
        self.value = tf.Variable(initial, dtype=tf.float32, trainable=False, name="value")
        self.good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")

    def update(self, finite):
        """Halves, not below 1, after gradients that were not finite; in cross-replica context."""
        good = tf.where(finite, self.good_steps + 1, tf.zeros_like(self.good_steps))
        full = good >= self.patience
        grown = tf.where(full, 2.0 * self.value, self.value)
        self.value.assign(tf.where(finite, grown, tf.maximum(0.5 * self.value, 1.0)))
        self.good_steps.assign(tf.where(full, tf.zeros_like(good), good))
