"""Moving averages of the weights: what evaluation and export use where a run's configuration has `ema_decay`.

Called by `training.step` after each update; saved beside the weights that they average (`checkpoint`).
"""

import tensorflow as tf


class MovingAverages(tf.Module):
    """average += (1 - decay) * (weight - average), after each update (Polyak and Juditsky, 1992).

    The decay warms up as min(decay, (1 + t) / (10 + t)) over updates t = 1, 2, ..., so that the first weights, which
    know nothing, are soon forgotten (TensorFlow's ExponentialMovingAverage with `num_updates`).
    """

    def __init__(self, variables, decay, name="averages"):
        """Under the strategy whose variables these are.

        Args:
            variables: a model's trainable variables. The statistics of batch norm are moving averages already.
            decay: 0 ... 1, such as 0.9998.
        """
        super().__init__(name=name)
        self.strategy = tf.distribute.get_strategy()
        self.sources, self.decay = list(variables), decay
        self.averages = [tf.Variable(v, trainable=False, name=v.name.partition(":")[0]) for v in self.sources]
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")

    def update(self):
        """After an update of the weights, in cross-replica context: on every device, from the weights there."""
        self.updates.assign_add(1)
        number = tf.cast(self.updates, tf.float32)
        rest = 1.0 - tf.minimum(self.decay, (1.0 + number) / (10.0 + number))

        def move(average, variable):
            average.assign_sub(rest * (average - variable))

        with self.strategy.scope():
            for average, variable in zip(self.averages, self.sources, strict=True):
                self.strategy.extended.update(average, move, args=(variable,), group=False)

    def assign_to(self, variables):
        """Sets the weights of a model, in the order of those averaged, to the averages."""
        for variable, average in zip(variables, self.averages, strict=True):
            variable.assign(average)
