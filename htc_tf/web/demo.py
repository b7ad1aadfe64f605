"""Demo: runs a model on images that a web page sends, and returns all detections.

The page moves its score threshold without asking again. No image is stored.
"""

import base64
import io
import threading
from http import HTTPStatus

from PIL import Image

from htc_tf.data import image_io
from htc_tf.inference.prediction import THRESHOLD
from htc_tf.visualization.palette import palette, readable_on
from htc_tf.visualization.saving import LONGEST
from htc_tf.web.server import HTTPError

JPEG_QUALITY = 90


class Demo:
    """The routes of the demo page."""

    def __init__(self, model, name, max_pixels, max_bytes):
        """Initializes the demo.

        Args:
            model: A Predictor.
            name: Name of the model, for the page.
            max_pixels: Limit on the pixels of an image.
            max_bytes: Limit on the bytes of a file, which the page checks before it sends one.
        """
        self.model, self.name = model, name
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.lock = threading.Lock()
        self.routes = {
            ("GET", "/api/model"): self.describe,
            ("POST", "/api/detect"): self.detect,
            ("POST", "/api/image"): self.show,
        }

    def describe(self, request):
        """Returns the model's classes with their colors, and the limits."""
        return {
            "name": self.name,
            "classes": add_colors(self.model.categories),
            "threshold": THRESHOLD,
            "max_pixels": self.max_pixels,
            "max_bytes": self.max_bytes,
        }

    def detect(self, request):
        """Returns {"height", "width", "objects"}: COCO results in pixels of the upright image of the request's body."""
        with self.lock:  # one image at a time: two would each take twice as long, and twice the memory
            image = self.read(request.body)
            prediction = self.model(image)
        return {"height": image.shape[0], "width": image.shape[1], "objects": prediction.to_coco()}

    def show(self, request):
        """Returns {"image"}: the upright image as a data URL of a JPEG, for a browser that cannot show its format."""
        file = io.BytesIO()
        with self.lock:
            image = self.read(request.body)
            if (side := max(image.shape)) > LONGEST[".jpg"]:
                reason = f"a side of {side} pixels, more than the {LONGEST['.jpg']} of a JPEG"
                raise HTTPError(f"the image is too large to be shown: {reason}", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
        return {"image": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}

    def read(self, body):
        """Decodes an image file to upright pixels, [H, W, 3] uint8 RGB.

        Raises:
            HTTPError: The file is not an image, or has too many pixels.
        """
        try:
            # Checked before any pixel is decoded: a few bytes may decode to very many pixels.
            limit = f"{self.max_pixels / 1e6:g} megapixels (--max_megapixels): make it smaller"
            return image_io.decode(body, self.max_pixels, limit)
        except image_io.ImageError as error:
            too_large = error.kind == "too_large"
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            raise HTTPError(str(error), status) from None

    def finish(self):
        """Waits for the current image: TensorFlow must not be running when the program ends."""
        self.lock.acquire()


def add_colors(categories):
    """Returns categories, [{"id", "name"}, ...] in class order, with "color" and "text_color" for CSS."""
    return [
        {"id": item["id"], "name": item["name"], "color": css(color), "text_color": css(readable_on(color))}
        for item, color in zip(categories, palette(len(categories)), strict=True)
    ]


def css(color):
    return "#" + "".join(f"{int(channel):02x}" for channel in color)
