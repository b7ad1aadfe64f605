"""python -m htc_tf.predict: draws what a trained model finds in pictures and videos, and writes it in COCO's format.

From Python the same is `htc_tf.load(RUN)(picture)`.
"""

import sys
from pathlib import Path

from htc_tf import command_line, config
from htc_tf.api import load
from htc_tf.errors import UserError, command, printable
from htc_tf.inference.inputs import find_inputs
from htc_tf.inference.video import check_decoder

EPILOG = """
DIR gets NAME.png for each picture (an MP4, or WebP for an animation, for each video) and predictions.json, a list of
COCO results with the file's name beside: all that was found, whatever --threshold says. A file that cannot be read, or
on which the model fails, is named on standard error with the reason and left out. Exit status: 0, also where some files
were left out; 2 where all were, or for a mistake in what was asked; 1 for anything else.
"""


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.predict", description=__doc__, epilog=EPILOG)
    config.add_flags(parser, reads_run=True)
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="the --workdir of a training run, or an export's folder"
    )
    parser.add_argument(
        "--input",
        required=True,
        action="extend",
        nargs="+",
        metavar="PATH",
        help="pictures, videos, folders, globs ('**' reaches into folders), or - for a list of paths on standard input",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where pictures and predictions.json go")
    parser.add_argument(
        "--threshold", type=command_line.fraction, default=0.3, help="lowest score to draw (default: 0.3)"
    )
    parser.add_argument("--format", choices=("png", "jpg"), default="png", help="of the pictures (default: png)")
    parser.add_argument(
        "--cutouts", action="store_true", help="also each object as PNG with alpha, in DIR/cutouts (pictures only)"
    )
    parser.add_argument(
        "--semantic", action="store_true", help="also NAME_semantic.png: what the semantic branch sees (pictures only)"
    )
    parser.add_argument(
        "--batch",
        type=command_line.batch,
        default=1,
        metavar="N",
        help="pictures detected at once, which fills a GPU (default: 1)",
    )
    parser.add_argument(
        "--every", type=command_line.positive, default=1, metavar="N", help="of a video every N-th frame (default: 1)"
    )
    return parser.parse_args()


@command
def main():
    flags = parse()
    paths = find_inputs(flags.input, sys.stdin)
    check_decoder(paths)
    model = load(flags.checkpoint, flags.gin_file, flags.gin_param, flags.trust_config)
    from htc_tf.inference.predict_files import predict_pictures

    done, skipped = predict_pictures(
        model.detector,
        model.categories,
        paths,
        Path(flags.output),
        flags.threshold,
        ending=f".{flags.format}",
        cutouts=flags.cutouts,
        semantic=flags.semantic,
        every=flags.every,
        batch=flags.batch,
    )
    for path, reason in skipped:
        print(printable(f"skipped {path}: {reason}"), file=sys.stderr)
    print(f"{done} pictures and predictions.json in {flags.output}, {len(skipped)} skipped")
    if not done:
        raise UserError("nothing was predicted: every input was skipped, for the reason given above")


if __name__ == "__main__":
    main()
