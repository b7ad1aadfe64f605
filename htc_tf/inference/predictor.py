"""A model that takes pictures as people have them, one or a list, and answers with Predictions.

Before: a Detector of a run (`inference.detector`) or of an export (`inference.exported`). After: `inference.prediction`.
"""

from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.image_files import as_image
from htc_tf.inference.prediction import Prediction


class Predictor:
    """What `htc_tf.load` returns.

    Attributes:
        categories: [{"id", "name"}, ...] by class index; the ids are the data set's.
        class_names: the names alone.
    """

    def __init__(self, detector, categories):
        """
        Args:
            detector: an inference.Detector, or an exported.ExportedDetector: what has `detect_image`.
            categories: [{"id", "name"}, ...] by class index.
        """
        self.detector, self.categories = detector, list(categories)
        self.class_names = [category["name"] for category in self.categories]

    def __call__(self, pictures, batch=1):
        """Detects.

        Args:
            pictures: a path (JPEG, PNG, GIF, BMP, WebP, TIFF ...; its EXIF orientation is heeded), a PIL image, or an
                array [H, W, 3] uint8 RGB; or a list of any of them, of any sizes.
            batch: how many of a list are detected at once, which fills a GPU; the same answers but for float32's
                rounding. An export takes one at a time.
        Returns:
            A Prediction, or a list of them in the order of the pictures.
        Raises:
            UserError: a file cannot be read, or it is something else than that.
        """
        if not isinstance(pictures, (list, tuple)):
            return self([pictures])[0]
        images = ((None, as_image(picture)) for picture in pictures)
        found = detect_in_batches(self.detector, images, batch)
        return [Prediction(image, result, self.categories) for _, image, result in found]

    def semantic(self, picture):
        """What the semantic branch sees: [H, W] uint8, for each pixel of a picture its label.

        Labels are the training data's; of COCO's stuff-thing maps a category's id less 1.

        Raises:
            UserError: as for a call; or the model has no semantic branch, or was exported without --semantic.
        """
        from htc_tf.inference.semantic_map import label_map

        return label_map(self.detector, as_image(picture))
