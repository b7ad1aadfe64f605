"""python -m htc_tf.convert: makes a run of weights that mmdetection, Paddle, torchvision or Swin's authors trained."""

import argparse

from htc_tf import command_line, config
from htc_tf.errors import command
from htc_tf.run import Run

EPILOG = """
sources:
  mmdet        a .pth of mmdetection's HTC, Cascade (Mask) R-CNN, Mask R-CNN or Faster R-CNN, version 1, 2 or 3, for
               the run file of the same name; averaged (EMA) weights where they are the ones to use
  paddle       a .pdparams of the Paddle port; with --gin_file gin/options/paddle.gin its own numbers come out
  torchvision  a .pth of an ImageNet ResNet or ResNeXt: the backbone alone, the rest is to be trained
  swin         a .pth of a Swin Transformer's authors, trained on ImageNet: as torchvision, with
               --gin_file gin/options/swin_t.gin

The file is read as data: it runs no code, and is refused where it holds anything but arrays, or makes arrays of more
than four times the bytes that it stores. Training with
--workdir RUN starts from the new run's weights. For classes of your own:

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
        "--source", required=True, choices=("mmdet", "paddle", "torchvision", "swin"), help="who wrote the file"
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="the checkpoint: .pth or .pdparams")
    config.add_flags(parser)
    parser.add_argument("--output", required=True, metavar="RUN", help="the new run's folder")
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO annotation file that names the classes (default: COCO's own 80)"
    )
    parser.add_argument(
        "--allow_partial",
        action="append",
        default=[],
        metavar="PATTERN",
        help="a regular expression; names in which it is found may be missing, left over or of another shape, and "
        "variables without a fitting array keep their initial values; repeatable (default: every name must match)",
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
