"""python -m htc_tf.predict: draws what a trained run finds in pictures, and writes it in COCO's results format."""

import argparse
import glob
import json
import sys
from pathlib import Path

from htc_tf import config
from htc_tf.errors import UserError, command
from htc_tf.run import Run

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif"}


def parse():
    parser = argparse.ArgumentParser(prog="python -m htc_tf.predict", description=__doc__)
    config.add_flags(parser)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="the --workdir of a training run")
    parser.add_argument(
        "--input", required=True, action="append", metavar="GLOB", help="picture, folder or quoted glob; repeatable"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where pictures and predictions.json go")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score to draw (default: 0.3)")
    return parser.parse_args()


def find_pictures(patterns):
    """The pictures that files, folders and globs name, in order, each once."""
    found = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
        else:
            matches = [Path(name) for name in sorted(glob.glob(pattern))]
        if not matches:
            raise UserError(f"--input {pattern}: no picture there")
        found += [match for match in matches if match not in found]
    return found


@command
def main():
    flags = parse()
    pictures = find_pictures(flags.input)
    run = Run(flags.checkpoint)
    experiment, _ = config.load(flags.gin_file, flags.gin_param, run)
    from htc_tf.engine.inference import restore
    from htc_tf.engine.pictures import predict_pictures

    categories = run.read_categories()
    output = Path(flags.output)
    results, skipped = predict_pictures(restore(experiment, run), categories, pictures, output, flags.threshold)
    (output / "predictions.json").write_text(json.dumps(results) + "\n")
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{len(pictures) - len(skipped)} pictures and predictions.json in {flags.output}, {len(skipped)} skipped")
    if len(skipped) == len(pictures):
        raise UserError("no picture could be read")


if __name__ == "__main__":
    main()
