"""What this machine can do at most: products of matrices, and copies in memory, for a CPU second.

Found in the same run as the measurement that they are held against, since neighbours slow both down. After it: a mode
says in its details what share of the limit it reaches.
"""

import time

import numpy as np
import tensorflow as tf

from htc_tf.benchmarks.measure import measure

SIDE = 2048  # of the matrices; those of the network's own products are of about that size
COPIED = 2**28  # bytes, far beyond any cache
ATTEMPTS = 8


def run(work):
    """Mode `machine`: Work -> Measurement of one product of two matrices in its precision; details have the limits."""
    details = {"machine": Rates(work.precision)}
    return measure(product(work.precision), "product", 1, work.repeats, warmup=1, details=details)


def matmul_rate(precision, side=SIDE):
    """FLOP per CPU second of a product of two square matrices, by TensorFlow, the best of several.

    Args:
        precision: "float32" or "bfloat16"; where the CPU has no bfloat16 it is emulated, and no faster.
        side: of the matrices.
    """
    return 2 * side**3 / best_seconds(product(precision, side))


def product(precision, side=SIDE):
    """-> a function that multiplies two square matrices and returns when that is done."""
    left, right = (tf.cast(tf.random.stateless_normal([side, side], [0, i]), precision) for i in range(2))
    # Reading a number waits for the product, wherever it is computed.
    multiply = tf.function(lambda a, b: tf.matmul(a, b)[0, 0], autograph=False)
    return lambda: multiply(left, right).numpy()


def copy_rate(size=COPIED):
    """Bytes per CPU second, read and written ones together, of copying so many bytes, the best of several."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return 2 * size / best_seconds(lambda: np.copyto(target, source))


def best_seconds(function):
    """The fewest CPU seconds of a call, after a first one."""
    function()
    found = []
    for _ in range(ATTEMPTS):
        before = time.process_time()
        function()
        found.append(time.process_time() - before)
    return min(found)


class Rates(dict):
    """Both limits, for the JSON; as text, a line of the table."""

    def __init__(self, precision):
        super().__init__(matmul_rate=matmul_rate(precision), copy_rate=copy_rate())

    def __str__(self):
        products, copies = self["matmul_rate"] / 1e9, self["copy_rate"] / 1e9
        return f"products {products:.1f} GFLOP, copies {copies:.1f} GB read and written a CPU second"


class Share(dict):
    """How near a measurement comes to the machine's limit, for the JSON; as text, a line of the table."""

    def __init__(self, unit, amount, rate, seconds):
        """
        Args:
            unit: of the amount: "FLOP" or "B".
            amount: the work.
            rate: the most of it that a CPU second can do, by `matmul_rate` or `copy_rate`.
            seconds: that it took, CPU seconds.
        """
        limit = amount / rate
        super().__init__(unit=unit, amount=amount, rate=rate, limit_seconds=limit, share=limit / seconds)

    def __str__(self):
        unit, amount, rate = self["unit"], self["amount"] / 1e9, self["rate"] / 1e9
        text = f"{amount:.3f} G{unit} at {rate:.1f} G{unit} a CPU second take {1e3 * self['limit_seconds']:.1f} ms"
        return f"{100 * self['share']:.1f} %: {text}"
