"""python -m htc_tf.export: writes a trained run as a SavedModel that takes encoded image bytes."""

import argparse
from pathlib import Path

from htc_tf import config
from htc_tf.errors import command
from htc_tf.run import Run


def parse():
    parser = argparse.ArgumentParser(prog="python -m htc_tf.export", description=__doc__)
    config.add_flags(parser)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="the --workdir of a training run")
    parser.add_argument(
        "--output", required=True, metavar="EXPORT", help="the model is written to EXPORT/1, the next time to EXPORT/2"
    )
    return parser.parse_args()


@command
def main():
    flags = parse()
    run = Run(flags.checkpoint)
    experiment, _ = config.load(flags.gin_file, flags.gin_param, run)
    from htc_tf.engine.inference import restore
    from htc_tf.engine.serving import export

    print(f"exported to {export(restore(experiment, run), run.read_categories(), Path(flags.output))}")


if __name__ == "__main__":
    main()
