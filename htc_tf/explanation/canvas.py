"""Canvas: an image of the page with boxes and masks drawn on it.

Boxes are drawn larger and scaled down for smooth lines. A mask's outline is its contour at probability 0.5.
"""

import itertools

import numpy as np
from PIL import Image, ImageDraw

from htc_tf.visualization.labels import BACKGROUND_COLOR

OVERSAMPLING = 3  # boxes are drawn larger and scaled down, for smooth lines
DASH = 5  # length of a dash, in line widths
# Colors of `heat` from 0 to 1, even in lightness, and distinct for color-blind readers.
HEAT = np.array([[18, 20, 48], [52, 44, 110], [120, 50, 128], [196, 72, 104], [240, 126, 72], [252, 214, 130]], float)


class Canvas:
    """An image to draw on, in pixel coordinates of the network's input."""

    def __init__(self, image, size, scale, dimmed=0.0):
        """
        Args:
            image: [H, W, 3] uint8.
            size: (width, height) of the canvas in pixels.
            scale: Canvas pixels per pixel of the network's input.
            dimmed: 0 to 1, how far the image fades behind what is drawn on it.
        """
        self.size, self.scale = size, scale
        self.image = subdued(Image.fromarray(image).resize(self.size, Image.Resampling.BICUBIC), dimmed)
        self.lines = []

    def box(self, box, color, width, opacity=1.0, dashed=False):
        """Adds a rectangle: y1, x1, y2, x2 in the network's pixels; `width` in canvas pixels."""
        self.lines.append((np.asarray(box, float) * self.scale, color, width, opacity, dashed))

    def finish(self):
        """Returns a PIL image with the boxes, the first ones at the bottom."""
        fine = self.image.resize([OVERSAMPLING * side for side in self.size], Image.Resampling.BILINEAR)
        pen = ImageDraw.Draw(fine, "RGBA")
        for box, color, width, opacity, dashed in self.lines:
            inset = np.array([1, 1, -1, -1]) * width / 2
            limits = np.array([self.size[1], self.size[0]] * 2) + np.minimum(inset, 0)
            y1, x1, y2, x2 = np.clip(box, np.maximum(inset, 0), limits) * OVERSAMPLING
            fill = (*(int(value) for value in color), round(255 * opacity))
            line = max(1, round(width * OVERSAMPLING))
            if dashed:
                for start, end in _dashes([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)], DASH * line):
                    pen.line([start, end], fill=fill, width=line)
            elif x2 - x1 > line and y2 - y1 > line:
                half = line / 2
                corners = (x1 - half, y1 - half, x2 + half, y2 + half)
                pen.rounded_rectangle(corners, radius=1.6 * line, outline=fill, width=line)
        return fine.resize(self.size, Image.Resampling.BOX)


def _dashes(corners, length):
    for start, end in itertools.pairwise(corners):
        start, end = np.array(start), np.array(end)
        count = max(1, round(np.abs(end - start).sum() / length))
        for place in range(0, count, 2):
            yield tuple(start + (end - start) * place / count), tuple(start + (end - start) * (place + 1) / count)


def subdued(image, amount):
    """Returns an image with less color and less light; `amount` is 0 to 1."""
    if not amount:
        return image
    gray = Image.merge("RGB", [image.convert("L")] * 3)
    return Image.blend(Image.blend(image, gray, 0.85 * amount), Image.new("RGB", image.size, (16, 18, 30)), amount)


def heat(values, size):
    """Returns values [h, w] of 0 to 1 as a PIL image of a size (width, height), one flat color per cell."""
    at = np.clip(values, 0, 1) * (len(HEAT) - 1)
    colors = np.stack([np.interp(at, range(len(HEAT)), HEAT[:, c]) for c in range(3)], axis=-1)
    return Image.fromarray(colors.round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def window(image, frame, size):
    """Crops a square frame out of an image, padded with the background color.

    Args:
        image: [H, W, 3] uint8.
        frame: [4] float, y1, x1, y2, x2 in the image's pixels.
        size: Side of the result in pixels.
    Returns:
        [size, size, 3] uint8.
    """
    scale = size / float(frame[3] - frame[1])
    inside = np.clip(frame, 0, np.tile(image.shape[:2], 2))
    top, left, bottom, right = np.round((inside - np.tile(frame[:2], 2)) * scale).astype(int).tolist()
    part = Image.new("RGB", (size, size), BACKGROUND_COLOR)
    if bottom > top and right > left:
        seen = Image.fromarray(image).resize(
            (right - left, bottom - top), Image.Resampling.BICUBIC, inside[[1, 0, 3, 2]]
        )
        part.paste(seen, (left, top))
    return np.asarray(part)


def spread(mask, box, frame, size):
    """Resamples a mask into a frame, as evaluation pastes it into the image.

    Args:
        mask: [M, M] float32 probabilities.
        box: [4] float, the box that the mask spans, in the frame's coordinates.
        frame: [4] float, y1, x1, y2, x2, with the aspect ratio of `size`.
        size: (width, height) of the result.
    Returns:
        [height, width] float32 probabilities, 0 outside the box.
    """
    scale = float(frame[3] - frame[1]) / size[0]
    cells = np.maximum([box[2] - box[0], box[3] - box[1]], 1e-3) / mask.shape
    mask, box = np.pad(mask, 1), box - np.tile(cells, 2) * [1, 1, -1, -1]
    # Pillow maps a pixel (x, y) of the result to the mask: (a x + b y + c, d x + e y + f).
    place = (scale / cells[1], 0, (frame[1] - box[1]) / cells[1], 0, scale / cells[0], (frame[0] - box[0]) / cells[0])
    source = Image.fromarray(mask.astype(np.float32))
    return np.asarray(source.transform(size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR))


def tint(image, probabilities, color, line):
    """Returns an image with its mask colored by probability and outlined at the threshold; the rest is gray.

    Args:
        image: [h, w, 3] uint8.
        probabilities: [h, w] float32.
        color: (r, g, b).
        line: Width of the outline in pixels.
    Returns:
        A PIL image.
    """
    gray = 0.55 * image.mean(axis=-1, keepdims=True) + 0.45 * 226
    return _painted(gray, image, probabilities, color, probabilities, line)


def cut(image, probabilities, color, line):
    """Colors a mask thresholded at 0.5 and leaves the rest of the image as it is; arguments as in `tint`."""
    inside = np.clip(_distance(probabilities) + 0.5, 0, 1)
    return _painted(image, image, probabilities, color, 0.75 * inside, line)


def _painted(ground, image, probabilities, color, share, line):
    color, share = np.asarray(color, np.float32), share[..., None]
    drawn = (1 - share) * ground + share * (0.45 * image + 0.55 * color)
    edge = np.clip(line / 2 + 0.5 - np.abs(_distance(probabilities)), 0, 1)[..., None]
    drawn = (1 - edge) * drawn + edge * 0.72 * color
    return Image.fromarray(np.clip(drawn.round(), 0, 255).astype(np.uint8))


def _distance(probabilities):
    """Returns the signed distance to the 0.5 contour in pixels, estimated by the slope; positive inside the mask."""
    return (probabilities - 0.5) / np.maximum(np.hypot(*np.gradient(probabilities)), 1e-4)
