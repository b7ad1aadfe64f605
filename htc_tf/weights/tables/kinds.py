"""Variables of the common kinds of layers, with their names and layouts in mmdetection and in Paddle.

A row has our name, then mmdetection's name and layout, then Paddle's, or None where Paddle's network lacks the layer.
"""

from htc_tf.weights.layouts import KERNEL, MATRIX, VECTOR, deltas, flattened, transposed

# fmt: off
CONVOLUTION = (
    ("kernel",          ("weight", KERNEL),            ("weight", KERNEL)),
    ("bias",            ("bias", VECTOR),              ("bias", VECTOR)),
)
DELTA_CONVOLUTION = (
    ("kernel",          ("weight", deltas(KERNEL)),    ("weight", deltas(KERNEL))),
    ("bias",            ("bias", deltas(VECTOR)),      ("bias", deltas(VECTOR))),
)
LINEAR = (
    ("kernel",          ("weight", MATRIX),            ("weight", transposed(MATRIX))),
    ("bias",            ("bias", VECTOR),              ("bias", VECTOR)),
)
POOLED_LINEAR = (
    ("kernel",          ("weight", flattened(KERNEL)), ("weight", transposed(flattened(KERNEL)))),
    ("bias",            ("bias", VECTOR),              ("bias", VECTOR)),
)
DELTA_LINEAR = (
    ("kernel",          ("weight", deltas(MATRIX)),    ("weight", transposed(deltas(MATRIX)))),
    ("bias",            ("bias", deltas(VECTOR)),      ("bias", deltas(VECTOR))),
)
NORM = (
    ("gamma",           ("weight", VECTOR),            ("weight", VECTOR)),
    ("beta",            ("bias", VECTOR),              ("bias", VECTOR)),
    ("moving_mean",     ("running_mean", VECTOR),      ("_mean", VECTOR)),
    ("moving_variance", ("running_var", VECTOR),       ("_variance", VECTOR)),
)
# fmt: on
