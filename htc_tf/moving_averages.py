"""Moving averages of the weights, which evaluation and export use if a run's configuration has `ema_decay`.

`training.step` updates them after each update of the weights; `checkpoint` saves both.
"""

import tensorflow as tf


class MovingAverages(tf.Module):
    """average += (1 - decay) * (weight - average), after each update (Polyak and Juditsky, 1992).

    The decay warms up as min(decay, (1 + t) / (10 + t)) over updates t = 1, 2, ..., so that the initial weights soon
    lose their influence (TensorFlow's ExponentialMovingAverage with `num_updates`).
    """

    def __init__(self, variables, decay, name="averages"):
        """Creates the averages, under the strategy of the variables.

        Args:
            variables: Trainable variables of a model. The statistics of batch norm are moving averages already.
            decay: float, 0 ... 1, such as 0.9998.
        """
        super().__init__(name=name)
        self.strategy = tf.distribute.get_strategy()
        self.sources, self.decay = list(variables), decay
        self.averages = [tf.Variable(v, trainable=False, name=v.name.partition(":")[0]) for v in self.sources]
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")

    def update(self):
        """Moves the averages after an update, in cross-replica context: each device's copy from its own weights."""
        self.updates.assign_add(1)
        number = tf.cast(self.updates, tf.float32)
        rest = 1.0 - tf.minimum(self.decay, (1.0 + number) / (10.0 + number))

        def move(average, variable):
            average.assign_sub(rest * (average - variable))

        with self.strategy.scope():
            for average, variable in zip(self.averages, self.sources, strict=True):
                self.strategy.extended.update(average, move, args=(variable,), group=False)

    def assign_to(self, variables):
        """Sets a model's weights, in the order of the averaged ones, to the averages."""
        for variable, average in zip(variables, self.averages, strict=True):
            variable.assign(average)
