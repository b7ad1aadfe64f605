"""The network, its targets and its losses. Start with `models.htc`."""

from htc_tf.keras_version import check_keras_2

check_keras_2()  # its classes derive from Keras 2's
