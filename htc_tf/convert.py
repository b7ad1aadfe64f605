"""python -m htc_tf.convert: makes a run from weights of mmdetection, Paddle, torchvision or the authors of Swin."""

import argparse

from htc_tf import command_line, config
from htc_tf.errors import command
from htc_tf.run import Run

EPILOG = """
sources:
  mmdet        .pth of mmdetection 1, 2 or 3: HTC, Cascade (Mask) R-CNN, Mask R-CNN or Faster R-CNN, with the
               experiment config of the same name; averaged (EMA) weights if the file has them
  paddle       .pdparams of the Paddle port; --gin_file gin/options/paddle.gin reproduces its numbers
  torchvision  .pth of an ImageNet ResNet or ResNeXt: the backbone only; the rest keeps its initial values
  swin         .pth of a Swin Transformer by its authors, trained on ImageNet: the backbone only, with
               --gin_file gin/options/swin_t.gin

The file is read as data and runs no code. It is refused if it holds anything but arrays, or if its arrays need more
than four times the bytes that it stores. Training with --workdir RUN starts from the weights of the new run. For your
own classes:

  --gin_param NUM_CLASSES=20 --annotations mine.json --allow_partial 'fc_cls|mask_head.*conv_logits'
"""


def parse():
    parser = command_line.Parser(
        prog="python -m htc_tf.convert",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source", required=True, choices=("mmdet", "paddle", "torchvision", "swin"), help="origin of the checkpoint"
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint file, .pth or .pdparams")
    config.add_flags(parser)
    parser.add_argument("--output", required=True, metavar="RUN", help="folder of the new run")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="COCO annotation file with the class names (default: the 80 of COCO)",
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
    experiment, resolved = config.load(flags.gin_file, flags.gin_param)
    from htc_tf.weights.conversion import convert

    convert(
        experiment,
        resolved,
        flags.source,
        flags.weights,
        Run(flags.output),
        annotations=flags.annotations,
        allow_partial=flags.allow_partial,
    )


if __name__ == "__main__":
    main()
