"""python -m htc_tf.export: writes a trained run as a SavedModel that takes encoded image bytes."""

import argparse
from pathlib import Path

from htc_tf import command_line, config
from htc_tf.errors import UserError, command
from htc_tf.run import Run

EPILOG = """
EXPORT/N is a SavedModel of core TensorFlow operations, for TensorFlow Serving or any program with TensorFlow; what goes
in and comes out is told in docs/serving.md. Without --xla it runs on any server; with it every padded shape and batch
size is compiled as one computation, which wants a server with XLA and pays on GPUs.
"""


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.export", description=__doc__, epilog=EPILOG)
    config.add_flags(parser, reads_run=True)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="the --workdir of a training run")
    parser.add_argument(
        "--output", required=True, metavar="EXPORT", help="the model is written to EXPORT/1, the next time to EXPORT/2"
    )
    parser.add_argument(
        "--masks",
        action="append",
        metavar="NAME,...",
        help="masks_rle_bytes (COCO run lengths; default), masks_28 (probabilities in the box), masks_png_bytes; "
        "several by comma or repeated; or none",
    )
    parser.add_argument("--semantic", action="store_true", help="also semantic_png_bytes, the label of every pixel")
    parser.add_argument(
        "--roi_align", choices=("crop_and_resize", "xla"), help="(default: xla with --xla, else the former)"
    )
    parser.add_argument("--xla", action="store_true", help="compile the model, for each padded shape and batch size")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--onnx", action="store_true", help="the network alone as ONNX, in EXPORT/onnx (extra onnx)")
    form.add_argument("--tflite", action="store_true", help="the network alone as TFLite, in EXPORT/tflite")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="(default: the run's)")
    parser.add_argument(
        "--batch_sizes",
        default="1,4",
        metavar="N,...",
        help="ascending; with --xla the batches that are compiled; the last is the most pictures at a time; a server "
        "warms up with each (default: 1,4)",
    )
    parser.add_argument(
        "--max_pixels",
        type=command_line.whole(1, 2**31 - 1),
        default=50_000_000,
        metavar="N",
        help="a file whose header promises more is refused (default: 50000000)",
    )
    return parser.parse_args()


def gin_params(flags):
    """The flags that change how the run's model is built, as gin bindings."""
    if flags.xla and flags.roi_align == "crop_and_resize":
        raise UserError("--roi_align crop_and_resize: XLA has no such operation; leave it out, or --xla")
    if flags.xla and (flags.onnx or flags.tflite):
        raise UserError("--xla is for the SavedModel: leave it out, or --onnx and --tflite")
    align = flags.roi_align or ("xla" if flags.xla else "crop_and_resize")
    nms = "xla" if flags.xla or flags.onnx else "combined"  # as serving.portable.BINDINGS wants it
    params = [f"XLA = {flags.xla}", f"RoIPooler.implementation = '{align}'", f"RPN.nms = '{nms}'"]
    params.append(f"Postprocess.nms = '{nms}'")
    if flags.precision:
        params.append(f"PRECISION = '{flags.precision}'")
    return params


def read_masks(values, has_masks):
    """--masks, as given, -> names of outputs."""
    if values is None:
        return ("masks_rle_bytes",) if has_masks else ()
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    return () if names == ["none"] else tuple(dict.fromkeys(names))


def read_batch_sizes(value):
    try:
        sizes = tuple(command_line.batch(size) for size in value.split(","))
    except argparse.ArgumentTypeError:
        sizes = ()
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise UserError(f"--batch_sizes {value}: give whole numbers from 1 to 1024, ascending, such as 1,4")
    return sizes


@command
def main():
    flags = parse()
    batch_sizes = read_batch_sizes(flags.batch_sizes)
    run = Run(flags.checkpoint)
    experiment, _ = config.load(flags.gin_file, [*gin_params(flags), *flags.gin_param], run, flags.trust_config)
    from htc_tf.inference.detector import restore
    from htc_tf.serving.module import Options
    from htc_tf.serving.write import export

    detector = restore(experiment, run)
    if flags.onnx or flags.tflite:
        from htc_tf.serving.onnx import export_portable

        form = "onnx" if flags.onnx else "tflite"
        print(f"exported to {export_portable(detector, run.read_categories(), Path(flags.output), form)}")
        return
    masks = read_masks(flags.masks, detector.model.masks)
    options = Options(masks, flags.semantic, batch_sizes, flags.max_pixels, flags.xla)
    print(f"exported to {export(detector, run.read_categories(), Path(flags.output), options)}")


if __name__ == "__main__":
    main()
