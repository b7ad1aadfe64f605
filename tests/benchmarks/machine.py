"""The machine's limits: matrix products and copies per CPU second, and what share of a limit a measurement reaches.

Both limits are measured in the same process as the figures they are compared with, because other programs slow down
both.
"""

import time

import numpy as np
import tensorflow as tf

from htc_tf.measurement import measure

SIDE = 2048  # of the matrices, about the size of the network's own products
COPIED = 2**28  # bytes, far beyond any cache
ATTEMPTS = 8


def run(flags):
    """Measures one product of two matrices; the details hold both limits, per CPU second."""
    limits = {"matmul_rate": matmul_rate(flags.precision), "copy_rate": copy_rate()}
    return measure(product(flags.precision), "product", 1, flags.repeats, 1, {"machine": limits})


def matmul_rate(precision, side=SIDE):
    """Returns the FLOP per CPU second of the best of several products of square matrices.

    Args:
        precision: "float32" or "bfloat16", which is emulated, and no faster, where the CPU does not have it.
        side: Side of the matrices.
    """
    return 2 * side**3 / best_seconds(product(precision, side))


def product(precision, side=SIDE):
    """Returns a function that multiplies two square matrices and returns when the product is computed."""
    left, right = (tf.cast(tf.random.stateless_normal([side, side], [0, i]), precision) for i in range(2))
    # Reading one number waits for the product on any device.
    multiply = tf.function(lambda a, b: tf.matmul(a, b)[0, 0], autograph=False)
    return lambda: multiply(left, right).numpy()


def copy_rate(size=COPIED):
    """Returns the bytes per CPU second, reads and writes together, of the best of several copies."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return 2 * size / best_seconds(lambda: np.copyto(target, source))


def best_seconds(function):
    """Returns the fewest CPU seconds of a call, after a first one."""
    function()
    found = []
    for _ in range(ATTEMPTS):
        before = time.process_time()
        function()
        found.append(time.process_time() - before)
    return min(found)


def share_of_limit(unit, amount, rate, seconds):
    """Compares a measurement with the machine's limit.

    Args:
        unit: "FLOP" or "B", the unit of the amount.
        amount: The least work that the computation requires.
        rate: The most of that work per CPU second, from `matmul_rate` or `copy_rate`.
        seconds: CPU seconds that the computation took.
    """
    limit = amount / rate
    return {"unit": unit, "amount": amount, "rate": rate, "limit_seconds": limit, "share": limit / seconds}
