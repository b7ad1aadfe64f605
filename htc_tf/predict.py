"""python -m htc_tf.predict: detects objects in images and videos, draws them, and saves them for other programs.

The same from Python: `htc_tf.load(RUN)(image)`.
"""

import sys
from pathlib import Path

from htc_tf import command_line, config
from htc_tf.api import load
from htc_tf.errors import UserError, command
from htc_tf.inference.inputs import MAX_PIXELS, find_inputs
from htc_tf.inference.label_files import FORMATS
from htc_tf.inference.tile_plan import MAX_OVERLAP, MIN_TILE, OVERLAP
from htc_tf.inference.tracking import check_tracker
from htc_tf.inference.video import check_decoder, is_video
from htc_tf.ops.polygons import TOLERANCE

EPILOG = """
DIR receives NAME.png for each image (for each video an MP4, or a WebP for an animation) and predictions.json, a list of
COCO results with the file's name: all detections, independent of --threshold. With --save it receives the labels of
images, too: coco.json, labelme/NAME.json, labelstudio.json and .xml, cvat.xml, yolo/labels/NAME.txt and yolo/data.yaml.
A file that cannot be read, or on which the model fails, is named on standard error with the reason and left out. Exit
status: 0, even if some files were left out; 2 if all were, or for a user's mistake; 1 for anything else.
"""


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.predict", description=__doc__, epilog=EPILOG)
    config.add_flags(parser, reads_run=True)
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="RUN",
        help="--workdir of a training run, folder of an export, or name of public weights",
    )
    parser.add_argument(
        "--input",
        required=True,
        action="extend",
        nargs="+",
        metavar="PATH",
        help="images, videos, folders, globs ('**' matches nested folders), https URLs of images, or - for a list of "
        "paths and URLs on standard input",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the drawings and predictions.json")
    parser.add_argument(
        "--threshold", type=command_line.fraction, default=0.3, help="lowest score to draw or save (default: 0.3)"
    )
    parser.add_argument("--format", choices=("png", "jpg"), default="png", help="format of the drawings (default: png)")
    parser.add_argument(
        "--cutouts", action="store_true", help="also save each object as PNG with alpha in DIR/cutouts (images only)"
    )
    parser.add_argument(
        "--semantic", action="store_true", help="also draw the semantic branch's map in DIR/semantic (images only)"
    )
    parser.add_argument(
        "--save",
        choices=FORMATS,
        action="extend",
        nargs="+",
        default=[],
        help="also save the objects for annotation tools, in one or several of these formats (images only)",
    )
    parser.add_argument(
        "--tolerance",
        type=command_line.number(0),
        default=TOLERANCE,
        metavar="PIXELS",
        help=f"how far saved polygons may be from the masks' outlines; 0 for exact ones (default: {TOLERANCE})",
    )
    parser.add_argument(
        "--batch",
        type=command_line.batch,
        default=1,
        metavar="N",
        help="images detected at once, to fill a GPU; an export detects one at a time (default: 1)",
    )
    parser.add_argument(
        "--every",
        type=command_line.positive,
        default=1,
        metavar="N",
        help="step between frames of a video (default: 1)",
    )
    parser.add_argument(
        "--track",
        action="store_true",
        help="give each object of a video a number that it keeps over the frames, from a score of --threshold on, at "
        "least 0.1 (needs supervision)",
    )
    parser.add_argument(
        "--max_pixels",
        type=command_line.positive,
        default=MAX_PIXELS,
        metavar="N",
        help=f"largest image to decode: a small file may decode to very many pixels (default: {MAX_PIXELS})",
    )
    parser.add_argument(
        "--tile",
        type=command_line.whole(MIN_TILE),
        metavar="PIXELS",
        help="detect in overlapping tiles of this side, for images much larger than those of the training; give about "
        "the side of the training's images",
    )
    parser.add_argument(
        "--overlap",
        type=command_line.number(0, MAX_OVERLAP),
        default=OVERLAP,
        metavar="SHARE",
        help=f"least share of a tile's side that neighboring tiles have in common (default: {OVERLAP})",
    )
    flags = parser.parse_args()
    for name, needed in (("overlap", "tile"), ("tolerance", "save")):
        if parser.given(flags, [name]) and not getattr(flags, needed):
            parser.error(f"--{name}: only with --{needed}; leave it out")
    return flags


def check_kinds(flags, paths):
    """Raises UserError for flags about videos without a video, and for flags about images without an image."""
    if (flags.every > 1 or flags.track) and not any(map(is_video, paths)):
        raise UserError("--every and --track are for videos, and no input is one: leave them out")
    if (flags.cutouts or flags.semantic or flags.save) and all(map(is_video, paths)):
        raise UserError("--cutouts, --semantic and --save are for images, and no input is one: leave them out")


@command
def main():
    flags = parse()
    if flags.tile and (flags.semantic or flags.cutouts):
        raise UserError("--tile is for detections alone: leave --semantic and --cutouts out")
    paths = find_inputs(flags.input, sys.stdin)
    check_kinds(flags, paths)
    check_decoder(paths)
    if flags.track:
        check_tracker()
    model = load(flags.checkpoint, flags.gin_file, flags.gin_param, flags.trust_config)
    from htc_tf.inference.predict_files import Options, predict_files

    options = Options(
        threshold=flags.threshold,
        ending=f".{flags.format}",
        cutouts=flags.cutouts,
        semantic=flags.semantic,
        formats=tuple(dict.fromkeys(flags.save)),
        tolerance=flags.tolerance,
        every=flags.every,
        batch=flags.batch,
        track=flags.track,
        max_pixels=flags.max_pixels,
        tile=flags.tile,
        overlap=flags.overlap,
    )
    outcome = predict_files(model.detector, model.categories, paths, Path(flags.output), options)
    done, skipped = outcome.done, len(outcome.skipped)
    print(f"{done} image{'s' * (done != 1)} and predictions.json in {flags.output}, {skipped} skipped")
    if not done:
        raise UserError("nothing was predicted: every input was skipped, for the reason given above")


if __name__ == "__main__":
    main()
