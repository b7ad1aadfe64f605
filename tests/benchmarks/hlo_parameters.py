"""python -m tests.benchmarks.hlo_parameters FILE.json OUT.npz: draws the parameters p0, p1, ... of a dumped program.

`tests.benchmarks.hlo` writes FILE.json. Only NumPy is needed: the machine that runs the program may have no TensorFlow.
"""

import json
import sys
from pathlib import Path

import numpy as np


def draw(number, parameter):
    """Returns the array of one parameter of FILE.json, the same in every call."""
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
    """Returns the arrays of all parameters of FILE.json, in order."""
    parameters = json.loads(Path(path).read_text())["parameters"]
    return [draw(number, parameter) for number, parameter in enumerate(parameters)]


if __name__ == "__main__":
    arrays = draw_all(sys.argv[1])
    np.savez(sys.argv[2], **{f"p{number}": array for number, array in enumerate(arrays)})
    print(f"wrote {sys.argv[2]}: {len(arrays)} arrays, in the order of the program's parameters")
