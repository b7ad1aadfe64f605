"""Training: the loop, its step, its optimizer, and what guards and records them."""

from htc_tf.keras_version import check_keras_2

check_keras_2()  # its classes derive from Keras 2's
