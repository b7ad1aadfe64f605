"""python -m htc_tf.benchmarks.hlo_parameters FILE.json OUT.npz: what a dumped program takes: p0, p1, ...

Before it: `benchmark --dump_hlo FILE` wrote the program and FILE.json. After it: the program runs wherever there is a
compiler for it. Needs NumPy alone: where the other device is, there may be no TensorFlow.
"""

import json
import sys
from pathlib import Path

import numpy as np


def draw(number, parameter):
    """The parameter of that number, as the JSON describes it -> its array, the same each time."""
    shape, dtype = parameter["shape"], parameter["dtype"]
    generator = np.random.default_rng(number)
    if "fill" in parameter:
        return np.full(shape, parameter["fill"], dtype)
    if "values" in parameter:
        return np.array(parameter["values"], dtype).reshape(shape)
    if "normal" in parameter:
        mean, deviation = parameter["normal"]
        return (mean + deviation * generator.standard_normal(shape, np.float32)).astype(dtype)
    return generator.integers(*parameter["integers"], shape).astype(dtype)


def draw_all(path):
    """-> a list of arrays."""
    parameters = json.loads(Path(path).read_text())["parameters"]
    return [draw(number, parameter) for number, parameter in enumerate(parameters)]


if __name__ == "__main__":
    arrays = draw_all(sys.argv[1])
    np.savez(sys.argv[2], **{f"p{number}": array for number, array in enumerate(arrays)})
