"""Hybrid Task Cascade (arXiv:1901.07518) for instance segmentation on TensorFlow.

    import htc_tf

    model = htc_tf.load("RUN or EXPORT")
    detections = model("photo.jpg")
    detections.draw("out.jpg")

Importing the package alone loads no TensorFlow: the commands must answer `--help` at once, and a
Beam worker needs only `htc_tf.data.schema`.
"""

import importlib
import sys

__version__ = "0.1.0"


def __getattr__(name):
    """`htc_tf.load` is `htc_tf.predict.load`, imported when it is first asked for."""
    if name == "load":
        return importlib.import_module("htc_tf.predict").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if getattr(sys, "argv", None) and sys.argv[0] == "-m":  # as long as `python -m htc_tf.COMMAND` looks for its module
    importlib.import_module("htc_tf.errors").start_command()


def __dir__():
    return [*globals(), "load"]
