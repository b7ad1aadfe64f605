"""python -m htc_tf.convert: makes a run from public weights by name, or from a file of another framework."""

import argparse

from htc_tf import command_line, config
from htc_tf.errors import command, shell_word
from htc_tf.run import Run
from htc_tf.weights import model_zoo

# What each --source is; the keys are those of `weights.sources.SOURCES`, which needs TensorFlow.
SOURCES = {
    "mmdet": "mmdetection 1, 2 or 3: HTC, Cascade (Mask) R-CNN, Mask R-CNN or Faster R-CNN",
    "paddle": "the Paddle port of HTC; --gin_file gin/options/paddle.gin reproduces its numbers",
    "detectron2": "Mask or Cascade R-CNN with an FPN or ViTDet, with a --gin_file of gin/detectron2 or gin/vitdet",
    "torchvision": "an ImageNet ResNet, ResNeXt, Res2Net or HRNet: the backbone only",
    "caffe2": "an ImageNet ResNet or ResNeXt that detectron2 trains from: the backbone only",
    "swin": "a Swin Transformer by its authors: the backbone only, with --gin_file gin/options/swin_t.gin",
    "convnext": "a ConvNeXt by its authors: the backbone only, with --gin_file gin/options/convnext_t.gin",
    "vit": "a plain ViT of MAE or timm: the backbone only, with a --gin_file of gin/vitdet",
}
TABLE = "".join(f"  {name:12} {file}\n" for name, file in SOURCES.items())
EPILOG = f"""
A name, such as htc_r50_fpn_1x_coco, is downloaded to the cache and brings its gin files: docs/weights.md has the names.
A file needs the experiment config of its model. Its source is detected from the names in it, or given by --source:

{TABLE}
With a backbone only, the rest of the model keeps its initial values. The file is read as data and runs no code. It is
refused if it needs more than four times the bytes that it stores.
Training with --workdir RUN starts from the weights of the new run.
"""


def parse():
    parser = command_line.Parser(
        prog="python -m htc_tf.convert",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", required=True, metavar="NAME", help="name of public weights, or path of a checkpoint file"
    )
    parser.add_argument(
        "--source",
        choices=SOURCES,
        help="origin of the file (default: detected from the names in it)",
    )
    parser.add_argument(
        "--ema",
        choices=("yes", "no"),
        help="take the moving averages of the weights, or the last weights, from a file with both (default: those that "
        "its framework loads)",
    )
    config.add_flags(parser)
    parser.add_argument("--output", required=True, metavar="RUN", help="folder of the new run")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="COCO annotation file with the class names (default: those in the file, or COCO's 80)",
    )
    parser.add_argument(
        "--allow_partial",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression; names that it matches may be missing, unexpected or of another shape, and variables "
        "without a matching array keep their initial values; repeatable (default: every name must match)",
    )
    return parser.parse_args()


@command
def main():
    flags = parse()
    named = model_zoo.find(flags.weights, "--weights")
    experiment, resolved = config.load(flags.gin_file or (named.gin_files if named else ()), flags.gin_param)
    from htc_tf.weights.conversion import check_new, convert

    run = Run(flags.output)
    check_new(run)
    path, source = model_zoo.locate(flags.weights, "--weights")
    matched, count = convert(
        experiment,
        resolved,
        path,
        run,
        flags.source or source,
        ema=None if flags.ema is None else flags.ema == "yes",
        annotations=flags.annotations,
        allow_partial=flags.allow_partial,
    )
    print(f"{run.folder}: {matched} of {count} variables from {path}, {count - matched} keep their initial values")
    folder = shell_word(run.folder)
    print(f"next: python -m htc_tf.predict --checkpoint {folder} --input photo.jpg --output pictures")


if __name__ == "__main__":
    main()
