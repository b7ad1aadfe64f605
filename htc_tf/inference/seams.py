"""Seams between tiles: detections of one object in several tiles are found and merged.

Two tiles see the same pixels where they overlap, and so the same parts of an object. Detections of one class are one
object if they agree there: the smaller of the two, within the overlap, lies in the other for the most part. An object
larger than a tile is merged from tile to tile.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from htc_tf.inference.results import ImageResult
from htc_tf.ops.runs import clip_runs, count_common_pixels, count_pixels, encode_runs, place_runs, unite_runs

AGREEMENT = 0.5  # lowest share of the smaller detection that lies in the other, within the overlap


class Piece(NamedTuple):
    """An object as one tile shows it, in pixels of the whole image."""

    tile: int  # number of the tile
    box: np.ndarray  # [4] float32
    score: np.float32
    label: int  # class index
    runs: np.ndarray | None  # [k, 2] int64, its mask as `ops.runs` describes it; None without mask heads


class Seams:
    """Collects the detections of an image's tiles, which come row after row, and merges them."""

    def __init__(self, height, width, agreement=AGREEMENT):
        self.height, self.width, self.agreement = height, width, agreement
        self.result = None  # of the latest tile
        self.pieces = []  # of all tiles
        self.pairs = []  # (score, index of a piece, index of another): two that agree, and the lower of their scores
        self.recent = []  # (Window, indices of its pieces) of each tile that another may yet overlap
        self.tiles = 0

    def add(self, window, result):
        """Adds the ImageResult of a tile, in the tile's own pixels; `window` is the tile's Window of the image."""
        self.result = result
        first = len(self.pieces)
        corner = np.float32([window.top, window.left] * 2)
        masks = result.masks or [None] * len(result.boxes)
        for box, score, label, mask in zip(result.boxes + corner, result.scores, result.classes, masks, strict=True):
            runs = None if mask is None else place_runs(mask, window.top, window.left, self.height)
            self.pieces.append(Piece(self.tiles, box, score, int(label), runs))
        self.tiles += 1
        added = np.arange(first, len(self.pieces))
        self.recent = [row for row in self.recent if row[0].top + row[0].height > window.top]
        for other, indices in self.recent:
            self._pair(indices, added, intersect(window, other))
        self.recent.append((window, added))

    def _pair(self, indices, others, window):
        """Finds the pieces of two tiles that agree in the window [top, left, height, width] that both see."""
        if min(window.height, window.width) <= 0 or not len(indices) or not len(others):
            return
        boxes, other_boxes = (np.stack([self.pieces[index].box for index in group]) for group in (indices, others))
        labels, other_labels = ([self.pieces[index].label for index in group] for group in (indices, others))
        shares = box_agreement(boxes, other_boxes, window) * np.equal.outer(labels, other_labels)  # [n, m]
        for row, column in np.argwhere(shares > 0):
            one, other, share = self.pieces[indices[row]], self.pieces[others[column]], shares[row, column]
            if one.runs is not None:
                share = mask_agreement(one.runs, other.runs, window, self.height)
            if share >= self.agreement:
                self.pairs.append((min(one.score, other.score), indices[row], others[column]))

    def merge(self):
        """Returns the ImageResult of the whole image. An object unites the boxes and masks of its pieces."""
        if self.tiles == 1:
            return self.result
        groups = self._group()
        groups.sort(key=lambda group: -max(piece.score for piece in group))
        boxes = [[*np.min([p.box[:2] for p in group], 0), *np.max([p.box[2:] for p in group], 0)] for group in groups]
        masks = None
        if self.result.masks is not None:
            masks = encode_runs([unite_runs([p.runs for p in group]) for group in groups], self.height, self.width)
        return ImageResult(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array([max(piece.score for piece in group) for group in groups], np.float32),
            np.array([group[0].label for group in groups], np.int32),
            masks,
        )

    def _group(self):
        """Returns lists of the Pieces of one object each."""
        parents = list(range(len(self.pieces)))

        def find(index):
            while parents[index] != index:
                parents[index] = parents[parents[index]]
                index = parents[index]
            return index

        for _, one, other in self.pairs:
            parents[find(other)] = find(one)
        groups = defaultdict(list)
        for index, piece in enumerate(self.pieces):
            groups[find(index)].append(piece)
        return list(groups.values())


def intersect(window, other):
    """Returns the Window that two Windows have in common; its height or width may be negative."""
    top, left = max(window.top, other.top), max(window.left, other.left)
    bottom = min(window.top + window.height, other.top + other.height)
    right = min(window.left + window.width, other.left + other.width)
    return type(window)(top, left, bottom - top, right - left)


def box_agreement(boxes, others, window):
    """Returns the share of the smaller box, within a window, that lies in the other: [n, m] for [n, 4] and [m, 4]."""
    start = np.float32([window.top, window.left])
    end = start + np.float32([window.height, window.width])
    boxes, others = np.split(boxes[:, None], 2, axis=-1), np.split(others[None], 2, axis=-1)  # corners, [n, 1, 2] ...
    (low, high), (other_low, other_high) = np.clip(boxes, start, end), np.clip(others, start, end)
    common = np.prod(np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0), axis=-1)  # [n, m]
    smaller = np.minimum(np.prod(high - low, axis=-1), np.prod(other_high - other_low, axis=-1))
    return common / np.where(smaller > 0, smaller, np.inf)


def mask_agreement(runs, others, window, height):
    """Returns the share of the smaller of two masks, within a window, that lies in the other; 0 if it is empty."""
    runs, others = clip_runs(runs, window, height), clip_runs(others, window, height)
    smaller = min(count_pixels(runs), count_pixels(others))
    return count_common_pixels(runs, others) / smaller if smaller else 0.0
