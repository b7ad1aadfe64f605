"""The demo's side of the server: a picture comes in, what the model finds in it goes out.

Before: `htc_tf.serve_demo` loads the model. After: `pages/demo.js` draws the answer, and asks nothing again when the
threshold moves: it is given all that was found. Nothing of a picture is kept.
"""

import base64
import io
import threading
from http import HTTPStatus

from PIL import Image

from htc_tf.data import image_io
from htc_tf.inference.prediction import THRESHOLD
from htc_tf.visualization.palette import palette, readable_on
from htc_tf.web.server import Refusal

JPEG_QUALITY = 90


class Demo:
    """A model behind a web page."""

    def __init__(self, model, name, largest_picture, largest_body):
        """
        Args:
            model: a Predictor.
            name: what the page calls it.
            largest_picture: pixels.
            largest_body: bytes of a file, for the page to say before it sends one.
        """
        self.model, self.name = model, name
        self.largest_picture, self.largest_body = largest_picture, largest_body
        self.lock = threading.Lock()
        self.routes = {
            ("GET", "/api/model"): self.describe,
            ("POST", "/api/detect"): self.detect,
            ("POST", "/api/picture"): self.show,
        }

    def describe(self, request):
        """-> what the page needs to know of the model: its classes with their colours, and the limits."""
        return {
            "name": self.name,
            "classes": coloured(self.model.categories),
            "threshold": THRESHOLD,
            "largest_picture": self.largest_picture,
            "largest_body": self.largest_body,
        }

    def detect(self, request):
        """A picture file -> {"width", "height", "objects"}: COCO results in pixels of the upright picture."""
        with self.lock:  # one picture at a time: two would each take twice as long, and twice the memory
            image = self.read(request.body)
            found = self.model(image)
        return {"height": image.shape[0], "width": image.shape[1], "objects": found.to_coco()}

    def show(self, request):
        """A picture file -> {"picture"}: the same upright, as a browser can show it that does not know the format."""
        file = io.BytesIO()
        with self.lock:
            Image.fromarray(self.read(request.body)).save(file, "JPEG", quality=JPEG_QUALITY)
        return {"picture": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}

    def read(self, body):
        """The bytes of a picture file -> [H, W, 3] uint8 RGB, upright.

        Raises:
            Refusal: they are no picture, or one of too many pixels.
        """
        try:
            # Before a pixel is decoded: a few bytes may stand for very many.
            limit = f"{self.largest_picture / 1e6:g} megapixels (--max_megapixels): make it smaller"
            return image_io.decode(body, self.largest_picture, limit)
        except image_io.ImageError as error:
            too_large = error.kind == "too_large"
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            raise Refusal(str(error), status) from None

    def finish(self):
        """Waits for the picture at hand: TensorFlow must not be at work when the program ends."""
        self.lock.acquire()


def coloured(categories):
    """[{"id", "name"}, ...] by class index -> the same, each with its colour and the ink to write on it, for CSS."""
    colours = palette(len(categories))
    return [
        {"id": category["id"], "name": category["name"], "colour": css(colour), "ink": css(readable_on(colour))}
        for category, colour in zip(categories, colours, strict=True)
    ]


def css(colour):
    return "#" + "".join(f"{int(channel):02x}" for channel in colour)
