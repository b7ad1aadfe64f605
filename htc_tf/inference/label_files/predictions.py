"""predictions.json: all detections in COCO's results format."""

import json

from htc_tf.inference.label_files.list_file import ListFile

RESULTS = "predictions.json"


class Writer:
    """Each result has the `file_name` of its image, and its `frame` in a video."""

    def __init__(self, output, categories, tolerance=0):
        self.file = ListFile(output / RESULTS, "[\n", "\n]\n")

    def add(self, file, prediction):
        """Appends the detections."""
        origin = {"file_name": file.path.name}
        if file.frame is not None:
            origin["frame"] = file.frame
        self.file.write(json.dumps({**entry, **origin}) for entry in prediction.to_coco(file.image_id))

    def close(self):
        self.file.close()
