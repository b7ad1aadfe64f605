"""python -m htc_tf.predict: draws what a trained model finds in pictures and videos, and writes it in COCO's format.

From Python the same is `htc_tf.load(RUN)(picture)`.
"""

import os
import sys
from pathlib import Path

from htc_tf import command_line, config
from htc_tf.errors import UserError, command, printable
from htc_tf.inference.inputs import find_inputs
from htc_tf.inference.video import check_decoder
from htc_tf.run import Run

EPILOG = """
DIR gets NAME.png for each picture (an MP4, or WebP for an animation, for each video) and predictions.json, a list of
COCO results with the file's name beside: all that was found, whatever --threshold says. A file that cannot be read, or
on which the model fails, is named on standard error with the reason and left out. Exit status: 0, also where some files
were left out; 2 where all were, or for a mistake in what was asked; 1 for anything else.
"""


def load(source, gin_file=(), gin_param=(), trust_config=False):
    """A trained model, ready for pictures.

        model = htc_tf.load("RUN")
        detections = model("photo.jpg")
        detections.draw("out.jpg")

    Args:
        source: the --workdir of a training run (or what `htc_tf.convert` wrote), or the --output of `htc_tf.export`,
            which needs no gin; a path.
        gin_file, gin_param: more configuration, as the commands' flags of these names; only for a run.
        trust_config: whether the run's config.gin may import modules, which runs their code. Without it the
            configuration may name only htc_tf's parts, and those of modules that a `gin_file` imports.
    Returns:
        An `inference.predictor.Predictor`: called with a picture or a list of them it gives an
        `inference.prediction.Prediction` for each.
    Raises:
        UserError: there is no model, or it does not fit its configuration.
    """
    run = Run(source)
    if run.config.exists() or not is_export(run.folder):
        categories = run.read_categories()
        experiment, _ = config.load(list(gin_file), list(gin_param), run, trust_config)
        from htc_tf.inference.detector import restore
        from htc_tf.inference.predictor import Predictor

        return Predictor(restore(experiment, run), categories)
    if gin_file or gin_param:
        raise UserError(
            f"{source} is an exported model, whose configuration is fixed: it takes no gin files and no bindings"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow starts: no notes about the build
    from htc_tf.inference.exported import ExportedDetector
    from htc_tf.inference.predictor import Predictor

    detector = ExportedDetector(source)
    return Predictor(detector, detector.categories)


def is_export(folder):
    return any(path.is_file() for path in (folder / "saved_model.pb", *folder.glob("[0-9]*/saved_model.pb")))


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
