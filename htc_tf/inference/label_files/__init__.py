"""Label files: predictions in the formats of annotation tools, ready to import and correct.

`htc_tf.predict --save` writes them. Each module has the class `Writer` of one format:

- `Writer(output, categories, tolerance)`: makes the files in an output folder; polygons may differ from the masks'
  outlines by `tolerance` pixels.
- `add(file, prediction)`: saves the objects of a `Prediction` of an `output_names.InputFile`; raises NotSaved if the
  format cannot hold them.
- `close()`: completes the files, even after an interruption.
- `paths(files)`: static; the paths in the output folder that are written for InputFiles.
"""

import importlib

from htc_tf.errors import UserError

FORMATS = ("coco", "labelme", "labelstudio", "cvat", "yolo")  # modules of this package


class NotSaved(UserError):
    """Objects that a format cannot hold."""


def with_polygons(prediction, tolerance):
    """Returns an iterator of (DetectedObject, its Polygons or, without mask heads, None) of a Prediction."""
    return zip(prediction, prediction.polygons(tolerance) or [None] * len(prediction), strict=True)


def find_writer(name):
    """Returns the class Writer of a format."""
    return importlib.import_module(f"htc_tf.inference.label_files.{name}").Writer
