"""The program that XLA would compile, in a file: to run and to time it on another device, without TensorFlow.

Before it: mode `inference` or `train` makes a Program. After it: `benchmarks.hlo_parameters` draws what the program
takes, by the JSON beside it, and whatever reads an HloModuleProto compiles it, such as jaxlib. It is HLO as TensorFlow
hands it to XLA, before anything that is a CPU's own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from htc_tf.errors import UserError
from htc_tf.training.guard import flatten

# A parameter of no more numbers is spelt out in the JSON.
SPELT_OUT = 4096


class Program(NamedTuple):
    """A function of tensors, which is compiled with the variables that it reads."""

    function: Callable
    arguments: dict[str, Any]  # in the function's order: tensors, or named tuples of them
    work: dict[str, Any]  # what was asked for
    flop: float  # of a call


def dump(program, path):
    """Writes PATH, the serialised HloModuleProto, and PATH.json, the parameters in their order. -> a line that says so.

    Raises:
        UserError: a shape is left open, or the files cannot be written.
    """
    arguments = list(program.arguments.values())
    # Of tensors themselves, TensorFlow may write the values into the program; of a structure it makes no parameters.
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tf.nest.flatten(arguments)]

    @tf.function(jit_compile=True, autograph=False)
    def compiled(*tensors):
        return program.function(*tf.nest.pack_sequence_as(arguments, tensors))

    serialized = compiled.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    module = hlo_pb2.HloModuleProto.FromString(serialized)
    dynamic = find_dynamic(module)
    if dynamic:
        raise UserError(f"--dump_hlo: XLA cannot tell {len(dynamic)} shapes, the first of them that of {dynamic[0]}")
    parameters = name_arguments(program.arguments) + name_captured(compiled.get_concrete_function(*specs))
    shapes = [tuple(shape.dimensions) for shape in module.host_program_shape.parameters]
    if shapes != [array.shape for _, array in parameters]:
        raise RuntimeError("the program's parameters are not its arguments and what it captures, in this order")
    calls = {i.custom_call_target for i in instructions(module) if i.opcode == "custom-call"}
    content = {
        "work": program.work,
        "flop": program.flop,
        "custom_calls": sorted(calls),
        "parameters": [{"name": name, **describe(array)} for name, array in parameters],
    }
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(serialized)
        path.with_name(path.name + ".json").write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--dump_hlo {path} cannot be written: {error.strerror or error}") from None
    count = sum(1 for _ in instructions(module))
    return (
        f"{path}: {len(serialized) / 1e6:.1f} MB, {count} instructions, {len(parameters)} parameters, no dynamic shape"
    )


def name_arguments(arguments):
    """-> [(name, array), ...]"""
    named = []
    for name, value in arguments.items():
        tensors = flatten(value, f"{name}.") if hasattr(value, "_asdict") else {name: value}
        named += [(key, np.asarray(tensor)) for key, tensor in tensors.items()]
    return named


def name_captured(concrete):
    """-> [(name, array), ...] of the variables that a traced function reads, and of other tensors."""
    variables = {variable.handle.ref(): variable for variable in concrete.variables}
    named = []
    for number, tensor in enumerate(concrete.captured_inputs):
        variable = variables.get(tensor.ref())
        name, value = (f"constant {number}", tensor) if variable is None else (variable.name, variable)
        named.append((name, value.numpy()))
    return named


def describe(array):
    """How `hlo_parameters.draw` makes an array that is as good: the same shape and dtype, and the like in numbers."""
    said = {"shape": list(array.shape), "dtype": array.dtype.name}
    if array.size and (array == array.flat[0]).all():
        return {**said, "fill": array.flat[0].item()}
    if array.size <= SPELT_OUT:
        return {**said, "values": array.tolist()}
    if array.dtype.kind == "f":
        return {**said, "normal": [float(array.mean()), float(array.std())]}
    return {**said, "integers": [int(array.min()), int(array.max()) + 1]}


def instructions(module):
    return (instruction for computation in module.computations for instruction in computation.instructions)


def find_dynamic(module):
    """The names of instructions whose shape depends on values, or is asked for where XLA runs.

    A set-dimension-size whose result is static is no such: TensorFlow writes it, with a constant, after every TopK.
    """

    def is_dynamic(shape):
        return any(shape.is_dynamic_dimension) or any(map(is_dynamic, shape.tuple_shapes))

    return [i.name for i in instructions(module) if i.opcode == "get-dimension-size" or is_dynamic(i.shape)]
