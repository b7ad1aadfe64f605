"""Moving averages: equal to NumPy, saved in checkpoints, assigned to a model."""

import numpy as np
import tensorflow as tf

from htc_tf.moving_averages import MovingAverages


def make(decay=0.5):
    variables = [tf.Variable([1.0, 2.0], name="kernel"), tf.Variable([[3.0]], name="bias")]
    return variables, MovingAverages(variables, decay)


def test_averages_equal_numpy_during_and_after_warm_up():
    variables, averages = make(decay=0.3)
    wanted = [v.numpy() for v in variables]
    for number in range(1, 9):
        for variable in variables:
            variable.assign_add(tf.fill(variable.shape, float(number)))
        averages.update()
        decay = min(0.3, (1 + number) / (10 + number))  # warm until the 3rd update
        wanted = [decay * a + (1 - decay) * v.numpy() for a, v in zip(wanted, variables, strict=True)]
        for average, value in zip(averages.averages, wanted, strict=True):
            np.testing.assert_allclose(average, value, rtol=1e-6)
    assert averages.updates.numpy() == 8


def test_assigning_averages_does_not_change_them():
    variables, averages = make()
    for variable in variables:
        variable.assign(variable + 1)
    others = [tf.Variable(tf.zeros_like(v)) for v in variables]
    averages.assign_to(others)
    np.testing.assert_array_equal(others[0], [1.0, 2.0])
    np.testing.assert_array_equal(others[1], [[3.0]])
    np.testing.assert_array_equal(variables[0], [2.0, 3.0])


def test_a_checkpoint_saves_averages(tmp_path):
    variables, averages = make()
    variables[0].assign([5.0, 5.0])
    averages.update()
    path = tf.train.Checkpoint(averages=averages).save(str(tmp_path / "ckpt"))
    _, other = make()
    tf.train.Checkpoint(averages=other).restore(path).assert_existing_objects_matched()
    assert other.updates.numpy() == 1
    np.testing.assert_array_equal(other.averages[0], averages.averages[0])
    assert (other.averages[0].numpy() != [1.0, 2.0]).all()


def test_weights_that_compute_in_bfloat16_are_averaged_in_float32():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            layer = tf.keras.layers.Dense(2)
            layer(tf.zeros([1, 3]))
            averages = MovingAverages(layer.trainable_variables, 0.0)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    layer.kernel.assign(tf.fill([3, 2], 1 + 2.0**-12))
    tf.function(averages.update, autograph=False)()
    assert {average.dtype for average in averages.averages} == {tf.float32}
    np.testing.assert_allclose(averages.averages[0].numpy(), np.full([3, 2], 1 + 2.0**-12), rtol=1e-6)
