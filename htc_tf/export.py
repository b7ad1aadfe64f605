"""python -m htc_tf.export: writes a trained run as a SavedModel that takes encoded image bytes."""

import argparse
from pathlib import Path

from htc_tf import command_line, config
from htc_tf.errors import UserError, command, shell_word
from htc_tf.named_runs import open_run

EPILOG = """
EXPORT/N is a SavedModel of core TensorFlow operations, for TensorFlow Serving or any program with TensorFlow; its
inputs and outputs are described in docs/serving.md, the model in EXPORT/N/assets.extra/model_card.md. Without
--xla it runs on any server; with it every padded shape and batch size is compiled as one computation, which needs a
server with XLA and pays off on GPUs.
"""
# Flags that say nothing about an ONNX file of the network alone.
SAVED_MODEL = ("masks", "semantic", "roi_align", "xla", "batch_sizes", "max_pixels", "license", "precision")


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.export", description=__doc__, epilog=EPILOG)
    config.add_flags(parser, reads_run=True)
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="--workdir of a training run, or name of public weights"
    )
    parser.add_argument(
        "--output", required=True, metavar="EXPORT", help="the model is written to EXPORT/1, the next time to EXPORT/2"
    )
    parser.add_argument(
        "--masks",
        action="append",
        metavar="NAME,...",
        help="masks_rle_bytes (COCO run lengths; default), masks_28 (probabilities inside the box), several separated "
        "by commas or repeated, or none",
    )
    parser.add_argument("--semantic", action="store_true", help="also semantic_png_bytes, the label of every pixel")
    parser.add_argument(
        "--roi_align",
        choices=("crop_and_resize", "xla"),
        help="RoIAlign implementation (default: xla with --xla, else crop_and_resize)",
    )
    parser.add_argument("--xla", action="store_true", help="compile the model for each padded shape and batch size")
    parser.add_argument(
        "--onnx", action="store_true", help="write the network alone as ONNX to EXPORT/onnx (needs the extra onnx)"
    )
    precisions = ("float32", "bfloat16")
    parser.add_argument("--precision", choices=precisions, help="of convolutions and products (default: the run's)")
    parser.add_argument(
        "--batch_sizes",
        default="1,4",
        metavar="N,...",
        help="numbers of images, ascending: the last is the largest number at a time, a server warms up with each, and "
        "with --xla each is compiled (default: 1,4)",
    )
    parser.add_argument(
        "--max_pixels",
        type=command_line.whole(1, 2**31 - 1),
        default=50_000_000,
        metavar="N",
        help="files whose header announces more pixels are refused (default: 50000000)",
    )
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="license of the weights for the model card, such as Apache-2.0 (default: that of public weights)",
    )
    flags = parser.parse_args()
    given = parser.given(flags, SAVED_MODEL)
    if flags.onnx and given:
        parser.error(f"{given}: only for the SavedModel; leave it out, or --onnx")
    return flags


def gin_params(flags):
    """Returns the gin bindings of the flags that change how the run's model is built."""
    if flags.xla and flags.roi_align == "crop_and_resize":
        raise UserError("--roi_align crop_and_resize: XLA has no such operation; leave it out, or --xla")
    if flags.onnx:
        from htc_tf.serving.onnx import BINDINGS  # it imports TensorFlow

        params = ["XLA = False", *BINDINGS]
    else:
        align = flags.roi_align or ("xla" if flags.xla else "crop_and_resize")
        nms = "xla" if flags.xla else "combined"
        params = [f"XLA = {flags.xla}", f"RoIPooler.implementation = '{align}'", f"RPN.nms = '{nms}'"]
        params.append(f"Postprocess.nms = '{nms}'")
    if flags.precision:
        params.append(f"PRECISION = '{flags.precision}'")
    fixed = {name_of(param) for param in params}
    for param in flags.gin_param:
        if name_of(param) in fixed:
            raise UserError(f"--gin_param {param}: the other flags of this command set it; leave it out")
    return params


def name_of(binding):
    return binding.partition("=")[0].strip()


def read_masks(values, has_masks):
    """Returns the names of the mask outputs, from the values of --masks."""
    if values is None:
        return ("masks_rle_bytes",) if has_masks else ()
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if not names:
        raise UserError(f"--masks {','.join(values)}: names no output; give masks_rle_bytes, masks_28 or none")
    return () if names == ["none"] else tuple(dict.fromkeys(names))


def read_batch_sizes(value):
    try:
        sizes = tuple(command_line.batch(size) for size in value.split(","))
    except argparse.ArgumentTypeError:
        sizes = ()
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise UserError(f"--batch_sizes {value}: give whole numbers from 1 to 1024, ascending, like 1,4")
    return sizes


@command
def main():
    flags = parse()
    batch_sizes = read_batch_sizes(flags.batch_sizes)
    run = open_run(flags.checkpoint)
    experiment, resolved = config.load(flags.gin_file, [*flags.gin_param, *gin_params(flags)], run, flags.trust_config)
    from htc_tf.checkpoint_files import check_path
    from htc_tf.inference.detector import restore
    from htc_tf.serving.model_card import write_card
    from htc_tf.serving.module import Options
    from htc_tf.serving.write import export
    from htc_tf.weights.public_weights import WEIGHTS

    if not flags.onnx:
        check_path(flags.output, "a SavedModel")
    detector, folder = restore(experiment, run), Path(flags.output)
    if flags.onnx:
        from htc_tf.serving.onnx import export_onnx

        place = export_onnx(detector, run.read_categories(), folder)
    else:
        masks = read_masks(flags.masks, detector.model.masks)
        options = Options(masks, flags.semantic, batch_sizes, flags.max_pixels, flags.xla)
        place = export(detector, run.read_categories(), folder, options)
        public = None if Path(flags.checkpoint).exists() else WEIGHTS.get(flags.checkpoint)
        write_card(place, run, resolved, run.read_categories(), flags.license, public)
    print(f"exported to {place}")
    if not flags.onnx:
        print(f"next: python -m htc_tf.client --export {shell_word(flags.output)} --input photo.jpg")


if __name__ == "__main__":
    main()
