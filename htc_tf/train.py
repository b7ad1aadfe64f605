"""python -m htc_tf.train: trains a model from records, resuming where an earlier run in the same folder stopped."""

import argparse

from htc_tf import config
from htc_tf.errors import command
from htc_tf.run import Run


def parse():
    parser = argparse.ArgumentParser(prog="python -m htc_tf.train", description=__doc__)
    config.add_flags(parser)
    parser.add_argument("--train_records", required=True, metavar="DIR", help="records to learn from")
    parser.add_argument("--val_records", metavar="DIR", help="records to evaluate on, every EVALUATE_EVERY steps")
    parser.add_argument("--workdir", required=True, metavar="RUN", help="the run's folder; an earlier run is resumed")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and sampling (default: 0)")
    parser.add_argument("--devices", nargs="+", help="devices to use, such as GPU:0 GPU:1 (default: all GPUs)")
    return parser.parse_args()


@command
def main():
    flags = parse()
    experiment, resolved = config.load(flags.gin_file, flags.gin_param)
    from htc_tf.engine.trainer import train

    train(
        experiment,
        resolved,
        flags.train_records,
        flags.val_records,
        Run(flags.workdir),
        seed=flags.seed,
        devices=flags.devices,
    )


if __name__ == "__main__":
    main()
