"""Predictor: the model that `htc_tf.load` returns, which maps images in any common form to Predictions."""

from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.inputs import as_image
from htc_tf.inference.prediction import Prediction


class Predictor:
    """Detects objects in one image or a list of images.

    Attributes:
        categories: K dicts {"id", "name"} by class index; the ids are the data set's.
        class_names: K strings.
    """

    def __init__(self, detector, categories):
        """
        Args:
            detector: `inference.detector.Detector` of a run or `inference.exported.ExportedDetector` of an export.
            categories: K dicts {"id", "name"} by class index.
        """
        self.detector, self.categories = detector, list(categories)
        self.class_names = [category["name"] for category in self.categories]

    def __call__(self, images, batch=1):
        """Detects objects.

        Args:
            images: Path (JPEG, PNG, GIF, BMP, WebP, TIFF ...; its EXIF orientation is applied), PIL image, or array
                [H, W, 3] uint8 RGB; or a list of them, of any sizes.
            batch: int, images of a list that are detected at once, to fill a GPU. The results differ only by float32
                rounding. An export processes one image at a time.
        Returns:
            A Prediction, or a list of them in the order of the images.
        Raises:
            UserError: A file cannot be read, or an image has another type.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        arrays = ((None, as_image(image)) for image in images)
        detected = detect_in_batches(self.detector, arrays, batch)
        return [Prediction(image, result, self.categories) for _, image, result in detected]

    def semantic(self, image):
        """Returns the semantic branch's label of each pixel of an image, [H, W] uint8.

        Labels are the training data's; in COCO's stuff-thing maps a label is a category's id minus 1.

        Raises:
            UserError: As for a call; or the model has no semantic branch, or was exported without --semantic.
        """
        return self.detector.label_map(as_image(image))
