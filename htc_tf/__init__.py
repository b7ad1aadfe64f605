"""Hybrid Task Cascade (arXiv:1901.07518) for instance segmentation on TensorFlow.

    import htc_tf

    model = htc_tf.load("htc_r50_fpn_1x_coco")  # or the folder of a run or of an exported model
    detections = model("photo.jpg")
    detections.draw("out.jpg")

`htc_tf.load` restores a trained model, and downloads a published one at its first use; `htc_tf.build` makes a new one.
Importing the package alone loads no TensorFlow: commands answer `--help` at once, and a Beam worker needs only the
record's schema. With TensorFlow 2.16 and later, the import makes `tf.keras` Keras 2 (`htc_tf.keras_version`).
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from htc_tf.keras_version import choose_keras_2

if TYPE_CHECKING:
    from htc_tf.api import build as build
    from htc_tf.api import load as load

__version__ = "1.0.0rc1"

choose_keras_2()


def __getattr__(name: str) -> Any:
    """Imports `load` and `build` from `htc_tf.api` at their first use."""
    if name in ("load", "build"):
        return getattr(importlib.import_module("htc_tf.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if getattr(sys, "argv", None) and sys.argv[0] == "-m":  # while `python -m htc_tf.COMMAND` looks for its module
    importlib.import_module("htc_tf.errors").start_command()
    importlib.import_module("htc_tf.tensorflow_notes").hide_notes()


def __dir__() -> list[str]:
    return [*globals(), "load", "build"]
