"""python -m tests.benchmarks.hlo: writes the program that XLA would compile, to run and time it without TensorFlow.

FILE is a serialized HloModuleProto, HLO as TensorFlow hands it to XLA, before any step that is specific to a device:
any XLA, such as jaxlib's, compiles it. FILE.json describes its parameters, from which
`python -m tests.benchmarks.hlo_parameters FILE.json OUT.npz` draws arrays with NumPy alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from htc_tf import benchmark
from htc_tf.errors import UserError, command
from htc_tf.measurement import Mode, configure, make_parser, parse

SPELLED_OUT = 4096  # FILE.json lists the values of a parameter of no more elements


class Program(NamedTuple):
    """A function of tensors, which is compiled together with the variables that it reads."""

    function: Callable
    arguments: dict[str, Any]  # in the function's order: tensors, or named tuples of them
    work: dict[str, Any]  # the flags
    flop: float  # per call


def detection_program(flags):
    """Returns the Program of detection, without decoding, resizing and pasting."""
    from tests.benchmarks.network import inference_flop, prepare_batch

    _, detector, images = benchmark.prepare_inference(flags)
    pixels, sizes = prepare_batch(detector, images)
    flop = sum(part.forward for part in inference_flop(detector, flags).values())

    def detect(images, sizes):
        return detector.model.infer(images, sizes)._replace(stage_masks=None)

    return Program(detect, {"images": pixels, "sizes": sizes}, vars(flags), flop)


def gradient_program(flags):
    """Returns the Program of forward and backward."""
    import tensorflow as tf

    from htc_tf.structures import Batch
    from htc_tf.training.gradients import make_gradients
    from tests.benchmarks.network import SEED, training_flop

    experiment, _, model, batch = benchmark.prepare_training(flags)
    learn = make_gradients(experiment, model, replicas=1)
    rois = [flags.batch * model.roi_sampler.limit] * len(model.stages)
    parts = training_flop(model, batch, rois, model.roi_sampler.expected_positives(flags.batch))

    def gradients(images, sizes, truth, seed):
        ids = tf.zeros(images.shape[:1], tf.int64)
        return learn(Batch(images, sizes, tf.cast(sizes, tf.int32), ids, truth), seed, None, tf.constant(False))

    # The fields of a Batch that a step does not read are no parameters.
    arguments = {"images": batch.images, "sizes": batch.sizes, "truth": batch.truth, "seed": tf.constant(SEED)}
    return Program(gradients, arguments, vars(flags), sum(map(sum, parts.values())))


def pooling_program(flags, with_gradient):
    """Returns the Program of RoIAlign on four maps, 1000 RoIs an image at 7 x 7, adaptive sampling."""
    import tensorflow as tf

    from htc_tf.ops import roi_align
    from tests.benchmarks import operations

    def pool(p2, p3, p4, p5, boxes):
        maps = [p2, p3, p4, p5]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(maps if with_gradient else [])
            prepared = roi_align.prepare(maps, "xla")
            levels = roi_align.levels(boxes, count=len(maps))
            pooled = roi_align.roi_align(prepared, operations.STRIDES, boxes, levels, 7, 0, "xla")
        return [pooled, *(tape.gradient(pooled, maps, pooled) if with_gradient else [])]

    maps = operations.draw_maps(flags.batch, flags.height, flags.width)
    arguments = {f"p{level}": one for level, one in enumerate(maps, start=2)}
    boxes = operations.draw_rois(flags.batch, 1000, flags.height, flags.width)
    return Program(pool, {**arguments, "boxes": boxes}, vars(flags), 0.0)


MODES = {
    "inference": Mode("detection in a batch of images", detection_program, gin=benchmark.PAPER),
    "train": Mode(
        "forward and backward of a training step",
        gradient_program,
        gin=benchmark.PAPER,
        reads=benchmark.MODES["train"].reads,
    ),
    "roi_align": Mode("RoIAlign of 1000 RoIs an image", lambda flags: pooling_program(flags, False)),
    "roi_align_gradient": Mode("the same, forward and backward", lambda flags: pooling_program(flags, True)),
}


def dump(program, path):
    """Writes PATH, the serialized HloModuleProto, and PATH.json, the parameters in their order.

    Returns:
        A line about both files.
    Raises:
        UserError: A shape is dynamic, or a file cannot be written.
    """
    import tensorflow as tf
    from tensorflow.compiler.xla.service import hlo_pb2

    arguments = list(program.arguments.values())
    # Specs of the flat tensors: values could be compiled in as constants, and a structure makes no parameters.
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tf.nest.flatten(arguments)]

    @tf.function(jit_compile=True, autograph=False)
    def compiled(*tensors):
        return program.function(*tf.nest.pack_sequence_as(arguments, tensors))

    with as_with_gpu():
        serialized = compiled.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    module = hlo_pb2.HloModuleProto.FromString(serialized)
    dynamic = find_dynamic(module)
    if dynamic:
        raise UserError(f"--output: XLA cannot infer {len(dynamic)} shapes, the first one of {dynamic[0]}")
    parameters = name_arguments(program.arguments) + name_captured(compiled.get_concrete_function(*specs))
    shapes = [tuple(shape.dimensions) for shape in module.host_program_shape.parameters]
    if shapes != [array.shape for _, array in parameters]:
        raise RuntimeError("the program's parameters are not its arguments followed by the captured tensors")
    calls = {i.custom_call_target for i in instructions(module) if i.opcode == "custom-call"}
    content = {
        "work": {name: value for name, value in program.work.items() if not isinstance(value, Path)},
        "flop": program.flop,
        "instructions": sum(1 for _ in instructions(module)),
        "custom_calls": sorted(calls),
        "parameters": [{"name": name, **describe(array)} for name, array in parameters],
    }
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(serialized)
        path.with_name(path.name + ".json").write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror or error}") from None
    size = f"{len(serialized) / 1e6:.1f} MB, {content['instructions']} instructions, {len(parameters)} parameters"
    return f"{path}: {size}, no dynamic shape; next: python -m tests.benchmarks.hlo_parameters {path}.json OUT.npz"


def as_with_gpu():
    """Makes `tf.config` report a GPU, so that operations with a form of their own for CPUs are traced in the other."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices
    gpu = tf.config.LogicalDevice("/device:GPU:0", "GPU")
    return mock.patch.object(
        tf.config, "list_logical_devices", lambda kind=None: [gpu] if kind == "GPU" else devices(kind)
    )


def name_arguments(arguments):
    """Returns [(name, array), ...] of the arguments' tensors."""
    from htc_tf.training.guard import flatten

    named = []
    for name, value in arguments.items():
        tensors = flatten(value, f"{name}.") if hasattr(value, "_asdict") else {name: value}
        named += [(key, np.asarray(tensor)) for key, tensor in tensors.items()]
    return named


def name_captured(concrete):
    """Returns [(name, array), ...] of the variables and other tensors that a traced function captures."""
    variables = {variable.handle.ref(): variable for variable in concrete.variables}
    named = []
    for number, tensor in enumerate(concrete.captured_inputs):
        variable = variables.get(tensor.ref())
        name, value = (f"constant {number}", tensor) if variable is None else (variable.name, variable)
        named.append((name, value.numpy()))
    return named


def describe(array):
    """Returns what `hlo_parameters.draw` needs for an equivalent array: shape, dtype and values or distribution."""
    described = {"shape": list(array.shape), "dtype": array.dtype.name}
    if array.size and (array == array.flat[0]).all():
        return {**described, "fill": array.flat[0].item()}
    if array.size <= SPELLED_OUT:
        return {**described, "values": array.tolist()}
    if array.dtype.kind == "f":
        return {**described, "normal": [float(array.mean()), float(array.std())]}
    return {**described, "integers": [int(array.min()), int(array.max()) + 1]}


def instructions(module):
    return (instruction for computation in module.computations for instruction in computation.instructions)


def find_dynamic(module):
    """Returns the names of instructions whose shape depends on values or is queried at run time.

    A set-dimension-size with a static result is not dynamic: TensorFlow writes one, of a constant, after every TopK.
    """

    def is_dynamic(shape):
        return any(shape.is_dynamic_dimension) or any(map(is_dynamic, shape.tuple_shapes))

    return [i.name for i in instructions(module) if i.opcode == "get-dimension-size" or is_dynamic(i.shape)]


@command
def main():
    parser = make_parser("python -m tests.benchmarks.hlo", __doc__, MODES)
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="HLO module; FILE.json describes its parameters"
    )
    flags = parse(parser, MODES)
    configure(flags, MODES[flags.mode], "XLA=True")
    print(dump(MODES[flags.mode].run(flags), flags.output))


if __name__ == "__main__":
    main()
