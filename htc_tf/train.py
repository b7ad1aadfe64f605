"""python -m htc_tf.train: trains a model from records, and resumes an earlier run in the same folder."""

import argparse
import functools
import sys

from htc_tf import command_line, config
from htc_tf.errors import UserError, command
from htc_tf.freed_memory import share_arena
from htc_tf.run import Run
from htc_tf.tensorflow_notes import without_xla_notes
from htc_tf.training.stop import MISTAKEN, STOPPED, StopRequest, end_process

EPILOG = """
The first weights come from the first of these sources that exists:
  1. the newest checkpoint of --workdir: the run continues
  2. --init_from: the weights of a run or a detector, as far as they fit. Layers of classes start anew, except for
     classes with the same name; a table says which. gin/options/fine_tune.gin has the schedule for it
  3. --backbone_weights, by default BACKBONE_WEIGHTS of the configuration: a backbone trained on ImageNet
  4. the download of a KerasCVBackbone
  5. initial values, drawn by --seed

SOURCE is the folder of a run (also RUN/best), the checkpoint file of a detector of mmdetection, Paddle or detectron2 or
of a classifier of torchvision, open-mmlab, Caffe2 or the authors of Swin, ConvNeXt or ViT, or a name such as
htc_r50_fpn_1x_coco, whose file is downloaded once; docs/weights.md lists the files and the names.

Frozen layers, and batch norms on stored statistics, need trained weights: training refuses to start without them.
gin/options/from_scratch.gin freezes nothing in a ResNet.

exit status:
  0   all steps are done, or Experiment.patience ended the training early
  1   a step was not finite, or an internal error
  2   a mistake in a flag, a file or the configuration, named in one line; a full disk; too little memory; a --workdir
      in use
  75  SIGTERM or Ctrl-C: the step was finished and saved; the same command continues from there. Also if another worker
      has ended: the same command on all workers continues from the last checkpoint
  130 a second Ctrl-C: ended at once; the same command continues from the last checkpoint

Several machines: run the same command on each, with TensorFlow's environment variable TF_CONFIG and with --workdir on
storage that all machines share. docs/training.md has more.
"""


def parse():
    parser = command_line.Parser(
        prog="python -m htc_tf.train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config.add_flags(parser)
    parser.add_argument("--train_records", required=True, metavar="DIR", help="records to train on")
    parser.add_argument("--val_records", metavar="DIR", help="records to evaluate on, by default once an epoch")
    parser.add_argument(
        "--workdir", required=True, metavar="RUN", help="the run's folder; an earlier run in it is resumed"
    )
    parser.add_argument(
        "--seed", type=command_line.seed, default=0, help="seed of weights, order, sampling (default: 0)"
    )
    parser.add_argument(
        "--devices",
        nargs="+",
        help="devices to use, such as GPU:0 GPU:1 (default: all GPUs); CPU:0 CPU:1 splits a CPU, to rehearse",
    )
    first_weights = parser.add_mutually_exclusive_group()
    first_weights.add_argument(
        "--init_from",
        metavar="SOURCE",
        help="weights to start from: a run, a checkpoint file or a name of public weights, see below",
    )
    first_weights.add_argument(
        "--backbone_weights",
        metavar="SOURCE",
        help="weights of the backbone: a checkpoint file or a name such as resnet50; none for initial values "
        "(default: BACKBONE_WEIGHTS of the configuration)",
    )
    parser.add_argument("--profile", metavar="FIRST:LAST", help="steps to profile, for TensorBoard's profiler")
    parser.add_argument(
        "--ignore_memory",
        action="store_true",
        help="train even if the estimate of the memory that is needed exceeds what is free",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="train nothing: print length, memory of each device, FLOPs, parameters, shapes of the first batch, "
        "configuration and variables; weights are not read",
    )
    return parser.parse_args()


@command
def main():
    flags = parse()
    profile = read_profile(flags.profile)
    load = functools.partial(
        config.load,
        flags.gin_file,
        flags.gin_param,
        train_records=flags.train_records,
        val_records=flags.val_records,
    )
    if flags.dry_run:
        experiment, resolved = load()
        from htc_tf.training.dry_run import dry_run

        records, run = (flags.train_records, flags.val_records), Run(flags.workdir)
        print(dry_run(experiment, resolved, *records, run, seed=flags.seed, devices=flags.devices))
        return
    share_arena()
    with StopRequest(own_process=True) as stop, without_xla_notes():
        experiment, resolved = load()
        from htc_tf.training.guard import WorkerLost
        from htc_tf.training.trainer import train

        try:
            stopped = train(
                experiment,
                resolved,
                flags.train_records,
                flags.val_records,
                Run(flags.workdir),
                seed=flags.seed,
                devices=flags.devices,
                init_from=flags.init_from,
                backbone_weights=flags.backbone_weights,
                profile=profile,
                ignore_memory=flags.ignore_memory,
                stop=stop,
            )
        except FloatingPointError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except WorkerLost as error:
            print(f"error: {error}", file=sys.stderr)
            end_process(STOPPED)  # TensorFlow's own end would wait for the lost worker
        except UserError as error:
            if stop.alone:
                raise
            print(f"error: {error}", file=sys.stderr)
            end_process(MISTAKEN)  # it would wait for the others too
    if stopped:
        (end_process if stop.alone else sys.exit)(STOPPED)


def read_profile(text):
    """Returns (3, 5) for "3:5", or None for None."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile {text}: give the first and the last step, such as 10:12")
    return int(first), int(last)


if __name__ == "__main__":
    main()
