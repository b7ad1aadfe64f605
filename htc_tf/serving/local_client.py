"""An exported SavedModel, asked in this process as a server would be.

Before it: `htc_tf.client` read the pictures. After it: `inference.exported_outputs` reads the arrays.
"""

import tensorflow as tf

from htc_tf.inference.exported import load_export
from htc_tf.inference.failures import model_errors


class LocalModel:
    def __init__(self, export):
        """
        Args:
            export: EXPORT, with its versions EXPORT/1, EXPORT/2, ..., or one of these.
        Raises:
            UserError: it cannot be loaded.
        """
        _, self.model, self.serve = load_export(export, "serving_default")

    def predict(self, pictures):
        """A list of encoded pictures -> {output: array [B, ...]}; strings are objects, bytes each.

        Raises:
            ModelFailed: on these images.
        """
        with model_errors():
            outputs = self.serve(image_bytes=tf.constant(pictures))
        return {name: value.numpy() for name, value in outputs.items()}
