"""A plate: one photo of the page at its final size, with boxes and masks drawn on it.

Before: `explanation.trace` recorded boxes and masks. After: `explanation.panels` makes its pictures of plates. Boxes are
drawn larger and scaled down for smooth lines; a mask's outline is where its probability crosses one half.
"""

import itertools

import numpy as np
from PIL import Image, ImageDraw

from htc_tf.visualization.drawing import PAPER

FINE = 3  # boxes are drawn so many times larger
DASH = 5  # of a dashed line, in its widths
# From nothing to much, even in lightness, for colour-blind eyes too.
HEAT = np.array([[18, 20, 48], [52, 44, 110], [120, 50, 128], [196, 72, 104], [240, 126, 72], [252, 214, 130]], float)


class Plate:
    """A photo to draw on, in pixels of the photo as the network sees it."""

    def __init__(self, photo, size, scale, dimmed=0.0):
        """
        Args:
            photo: [H, W, 3] uint8.
            size: (width, height) of the plate in pixels.
            scale: pixels of the plate by those of the network's image.
            dimmed: 0 ... 1, how much the photo stands back behind what is drawn on it.
        """
        self.size, self.scale = size, scale
        self.photo = subdued(Image.fromarray(photo).resize(self.size, Image.Resampling.BICUBIC), dimmed)
        self.lines = []

    def box(self, box, colour, width, opacity=1.0, dashed=False):
        """A rectangle: y1, x1, y2, x2; `width` in pixels of the plate."""
        self.lines.append((np.asarray(box, float) * self.scale, colour, width, opacity, dashed))

    def finish(self):
        """-> a PIL image with the boxes, the first ones beneath."""
        fine = self.photo.resize([FINE * side for side in self.size], Image.Resampling.BILINEAR)
        pen = ImageDraw.Draw(fine, "RGBA")
        for box, colour, width, opacity, dashed in self.lines:
            inset = np.array([1, 1, -1, -1]) * width / 2
            limits = np.array([self.size[1], self.size[0]] * 2) + np.minimum(inset, 0)
            y1, x1, y2, x2 = np.clip(box, np.maximum(inset, 0), limits) * FINE
            fill = (*(int(value) for value in colour), round(255 * opacity))
            line = max(1, round(width * FINE))
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


def subdued(picture, amount):
    """A picture with less colour and less light, 0 ... 1."""
    if not amount:
        return picture
    grey = Image.merge("RGB", [picture.convert("L")] * 3)
    return Image.blend(Image.blend(picture, grey, 0.85 * amount), Image.new("RGB", picture.size, (16, 18, 30)), amount)


def heat(values, size):
    """[h, w] of 0 ... 1 as a PIL image of that size (width, height), every cell a square of one colour."""
    at = np.clip(values, 0, 1) * (len(HEAT) - 1)
    colours = np.stack([np.interp(at, range(len(HEAT)), HEAT[:, c]) for c in range(3)], axis=-1)
    return Image.fromarray(colours.round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def window(photo, frame, size):
    """What of a photo is in a square frame, y1, x1, y2, x2 in its pixels: [size, size, 3] uint8. Beyond is paper."""
    scale = size / (frame[3] - frame[1])
    inside = np.clip(frame, 0, np.tile(photo.shape[:2], 2))
    top, left, bottom, right = np.round((inside - np.tile(frame[:2], 2)) * scale).astype(int).tolist()
    part = Image.new("RGB", (size, size), PAPER)
    if bottom > top and right > left:
        seen = Image.fromarray(photo).resize(
            (right - left, bottom - top), Image.Resampling.BICUBIC, inside[[1, 0, 3, 2]]
        )
        part.paste(seen, (left, top))
    return np.asarray(part)


def spread(mask, box, frame, size):
    """A mask as it lies in a frame, pasted as `ops.paste` does.

    Args:
        mask: [M, M] float32 probabilities.
        box: that it spans, in the same pixels as the frame.
        frame: y1, x1, y2, x2, of the proportions of `size`.
        size: (width, height) of the result.
    Returns:
        [height, width] float32, 0 outside of the box.
    """
    scale = (frame[3] - frame[1]) / size[0]
    cells = np.maximum([box[2] - box[0], box[3] - box[1]], 1e-3) / mask.shape
    mask, box = np.pad(mask, 1), box - np.tile(cells, 2) * [1, 1, -1, -1]
    # Pillow asks, for a pixel of the result, for its place in the mask: a x + b y + c.
    place = (scale / cells[1], 0, (frame[1] - box[1]) / cells[1], 0, scale / cells[0], (frame[0] - box[0]) / cells[0])
    source = Image.fromarray(mask.astype(np.float32))
    return np.asarray(source.transform(size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR))


def tint(photo, probabilities, colour, line):
    """A photo whose mask is coloured as far as it is likely, and outlined where it is cut; the rest is grey.

    Args:
        photo: [h, w, 3] uint8.
        probabilities: [h, w] float32.
        colour: (r, g, b).
        line: width of the outline in pixels.
    Returns:
        A PIL image.
    """
    grey = 0.55 * photo.mean(axis=-1, keepdims=True) + 0.45 * 226
    return _painted(grey, photo, probabilities, colour, probabilities, line)


def cut(photo, probabilities, colour, line):
    """As `tint`, but the mask as it is in the end, cut at one half, and the rest as it was."""
    inside = np.clip(_distance(probabilities) + 0.5, 0, 1)
    return _painted(photo, photo, probabilities, colour, 0.75 * inside, line)


def _painted(ground, photo, probabilities, colour, share, line):
    colour, share = np.asarray(colour, np.float32), share[..., None]
    drawn = (1 - share) * ground + share * (0.45 * photo + 0.55 * colour)
    edge = np.clip(line / 2 + 0.5 - np.abs(_distance(probabilities)), 0, 1)[..., None]
    drawn = (1 - edge) * drawn + edge * 0.72 * colour
    return Image.fromarray(np.clip(drawn.round(), 0, 255).astype(np.uint8))


def _distance(probabilities):
    """Pixels from where the probability is one half, told by the slope; positive within the mask."""
    return (probabilities - 0.5) / np.maximum(np.hypot(*np.gradient(probabilities)), 1e-4)
