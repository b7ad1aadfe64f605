# PYTHON_ARGCOMPLETE_OK
"""htc-tf COMMAND, also `python -m htc_tf COMMAND`: runs a command, exactly as `python -m htc_tf.COMMAND` does.

It imports nothing slow, so that `htc-tf --help` and the completion of words in a shell stay fast.
"""

import argparse
import importlib.util
import os
import runpy
import sys

import htc_tf
from htc_tf import command_line, errors
from htc_tf.tensorflow_notes import hide_notes

NAME = "htc-tf"
HERE = {
    "train": "train a model from records, or resume an earlier run",
    "eval": "evaluate a run, or predictions, by COCO's metrics",
    "predict": "detect objects in images and videos, and draw them",
    "explain": "follow one image through a model on one page",
    "export": "write a run as a SavedModel",
    "client": "send images to an exported model",
    "convert": "make a run from public weights or another framework's file",
    "benchmark": "measure inference, training, input or serving",
    "serve_demo": "show detections on a web page",
    "browse": "show a dataset on a web page",
    "preview": "draw augmented training images as a grid",
    "doctor": "print what an issue report needs",
    "platforms": "say which TensorFlow this machine and Python get",
}
PREPARATION = {
    "to_coco": "make COCO's annotations of another tool's files",
    "coco_to_tfrecord": "prepare records from annotations and images",
    "inspect_records": "count, draw and verify records",
    "shapes": "draw a demo dataset",
}
COMMANDS = HERE | PREPARATION


def list_commands():
    """Returns a line per command, for --help."""
    return "\n".join(f"  {name:<18}{about}" for name, about in COMMANDS.items())


def make_parser():
    """Returns the parser of what comes before a command's own flags."""
    parser = command_line.Parser(
        prog=NAME,
        description="Hybrid Task Cascade for instance segmentation on TensorFlow.",
        epilog=f"commands:\n{list_commands()}\n\n`{NAME} COMMAND --help` lists a command's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {htc_tf.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    return parser


def find_module(command):
    """Returns the name of a command's module."""
    if command in HERE:
        return f"htc_tf.{command}"
    # A checkout that is not installed, only on Python's path, has the preparation beside htc_tf.
    package = "htc_tf.pipelines" if importlib.util.find_spec("htc_tf.pipelines") else "pipelines"
    return f"{package}.{command}"


def read_words():
    """Returns the words after the name of the program; where a shell asks for completions, those before the cursor."""
    if "_ARGCOMPLETE" not in os.environ:
        return sys.argv[1:]
    from argcomplete import lexers

    _, _, _, words, _ = lexers.split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    return words[int(os.environ["_ARGCOMPLETE"]) :]


@errors.command
def main():
    if sys.excepthook is sys.__excepthook__:  # `python -m htc_tf` has done it
        errors.start_command()
        hide_notes()
    words = read_words()
    command = words[0] if words else None
    if command not in COMMANDS:
        make_parser().parse_args(words[:1] or ["--help"])
    command_line.Parser.program = f"{NAME} {command}"
    if "_ARGCOMPLETE" in os.environ:  # the number of words before the flags, which argcomplete leaves out
        os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + 1)
    sys.argv = sys.argv[:1] + sys.argv[2:]
    runpy.run_module(find_module(command), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
