"""SGDW and LAMB as legacy Keras optimizers, used where tensorflow-addons is not installed.

They are legacy optimizers because tensorflow-addons' are: slots and hyperparameters then have the same names in a
checkpoint, so a training resumes with either implementation.
"""

import tensorflow as tf


class DecoupledSGD(tf.keras.optimizers.legacy.SGD):
    """SGDW (arXiv:1711.05101, algorithm 1): w -= decay * w; v = momentum * v - rate * g; w += v."""

    def __init__(self, learning_rate, weight_decay, momentum=0.0, name="SGDW"):
        """
        Args:
            learning_rate: float or schedule.
            weight_decay: float or schedule, the share of each weight that a step subtracts. It is not multiplied by the
                learning rate.
            momentum: float.
        """
        super().__init__(learning_rate, momentum, name=name)
        self._set_hyper("weight_decay", weight_decay)

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        decay = self._get_hyper("weight_decay", var_dtype)
        if isinstance(decay, tf.keras.optimizers.schedules.LearningRateSchedule):
            decay = tf.cast(decay(self.iterations), var_dtype)
        apply_state[var_device, var_dtype]["weight_decay"] = tf.identity(decay)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        decay = coefficients(self, var, apply_state)["weight_decay"]
        with tf.control_dependencies([var.assign_sub(decay * var, use_locking=self._use_locking)]):
            return super()._resource_apply_dense(grad, var, apply_state)

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        refuse_sparse()


class LayerwiseAdam(tf.keras.optimizers.legacy.Adam):
    """LAMB (arXiv:1904.00962, algorithm 2): w -= rate * |w| / |u| * u, where u is Adam's step plus decay * w."""

    def __init__(self, learning_rate, beta_1, beta_2, epsilon, weight_decay, adapt=True, name="LAMB"):
        """
        Args:
            learning_rate: float or schedule.
            beta_1, beta_2: floats, decay rates of the moments of the gradient.
            epsilon: float, added to the root of the second moment.
            weight_decay: float.
            adapt: bool, False for weights that neither decay nor are scaled to their norm: w -= rate * u.
        """
        super().__init__(learning_rate, beta_1, beta_2, epsilon, name=name)
        self._set_hyper("weight_decay", weight_decay)
        self.adapt = adapt

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        apply_state[var_device, var_dtype]["weight_decay"] = tf.identity(self._get_hyper("weight_decay", var_dtype))

    def _resource_apply_dense(self, grad, var, apply_state=None):
        now = coefficients(self, var, apply_state)
        first, second = self.get_slot(var, "m"), self.get_slot(var, "v")
        mean = first.assign(now["beta_1_t"] * first + now["one_minus_beta_1_t"] * grad, self._use_locking)
        square = second.assign(now["beta_2_t"] * second + now["one_minus_beta_2_t"] * (grad * grad), self._use_locking)
        mean = mean / (1.0 - now["beta_1_power"])  # without the bias toward the zeros that the moments begin with
        square = square / (1.0 - now["beta_2_power"])
        update = mean / (tf.sqrt(square) + now["epsilon"])
        rate = now["lr_t"]
        if self.adapt:
            update += now["weight_decay"] * var
            norm, update_norm = tf.norm(var), tf.norm(update)
            rate *= tf.where((norm > 0) & (update_norm > 0), norm / update_norm, 1.0)
        return var.assign(var - rate * update, self._use_locking)

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        refuse_sparse()


def coefficients(optimizer, variable, apply_state):
    """Returns {name: tensor}, the step's rate, decay and other numbers in the variable's dtype and on its device."""
    place = variable.device, variable.dtype.base_dtype
    return (apply_state or {}).get(place) or optimizer._fallback_apply_state(*place)


def refuse_sparse():
    """Refuses tf.IndexedSlices, which the base classes would apply without decay; `training.gradients` makes none."""
    raise NotImplementedError("SGDW and LAMB take dense gradients: pass tf.convert_to_tensor(gradient)")
