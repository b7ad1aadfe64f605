"""python -m htc_tf.eval: COCO's box and mask AP of a trained run on a folder of records."""

import argparse
import json
from pathlib import Path

from htc_tf import config
from htc_tf.errors import command
from htc_tf.run import Run


def parse():
    parser = argparse.ArgumentParser(prog="python -m htc_tf.eval", description=__doc__)
    config.add_flags(parser)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="the --workdir of a training run")
    parser.add_argument("--records", required=True, metavar="DIR", help="records to detect in")
    parser.add_argument("--annotations", metavar="FILE", help="COCO's annotation file (default: the records' truth)")
    parser.add_argument("--output", required=True, metavar="FILE", help="where the metrics go, as JSON")
    return parser.parse_args()


@command
def main():
    flags = parse()
    run = Run(flags.checkpoint)
    experiment, _ = config.load(flags.gin_file, flags.gin_param, run)
    from htc_tf.engine.evaluator import format_table
    from htc_tf.engine.inference import evaluate_records, load_fitting, restore

    info = load_fitting(experiment, flags.records)
    metrics, _, _ = evaluate_records(restore(experiment, run), info, flags.annotations)
    output = Path(flags.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(metrics, indent=1) + "\n")
    print(format_table(metrics))


if __name__ == "__main__":
    main()
