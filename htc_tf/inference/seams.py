"""Seams between tiles: detections of one object in several tiles are found and merged.

An object that a tile's border cuts, and that lies whole in another tile, is the other tile's to detect: the piece is
dropped. What remains is compared in the part of the image that two tiles both see. Detections of one class are one
object if they agree there: at least half of the larger, within that part, lies in the other; of the smaller, if one of
them is cut. Two pieces that are both cut are united, and so from tile to tile an object larger than a tile; of others
the better one stays.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from htc_tf.inference.results import ImageResult
from htc_tf.inference.tile_plan import Window
from htc_tf.ops.runs import clip_runs, count_common_pixels, count_pixels, encode_runs, place_runs, unite_runs

AGREEMENT = 0.5  # lowest share of a detection, within the common part of two tiles, that lies in the other
MARGIN = 0.02  # share of a tile's side: an object is cut if its box ends nearer to a border inside the image


class Piece(NamedTuple):
    """An object as one tile shows it, in pixels of the whole image."""

    tile: Window  # the tile's part of the image
    box: np.ndarray  # [4] float32
    score: np.float32
    label: int  # class index
    cut: bool  # True if a border of the tile cuts it
    runs: np.ndarray | None  # [k, 2] int64, its mask as `ops.runs` describes it; None without mask heads

    def rank(self) -> tuple[Any, ...]:
        """Returns the key that sorts pieces, the best first; among equal scores it does not depend on any order."""
        return -self.score, *self.box.tolist(), self.label, self.tile


class Seams:
    """Collects the detections of an image's tiles, which come row after row, and merges them."""

    def __init__(self, height: int, width: int, agreement: float = AGREEMENT, margin: float = MARGIN) -> None:
        self.height, self.width, self.agreement, self.margin = height, width, agreement, margin
        self.result: ImageResult  # of the latest tile
        self.tiles = 0
        self.pieces = []  # of all tiles
        self.dropped = set()  # indices of pieces that another tile shows whole
        self.pairs = {}  # index of a piece: indices of those that agree with it
        self.recent = []  # (Window, indices of its pieces) of each tile that another may yet overlap

    def add(self, window: Window, result: ImageResult) -> None:
        """Adds the ImageResult of a tile, in the tile's own pixels; `window` is the tile's Window of the image."""
        self.result = result
        boxes = result.boxes + np.array([window.top, window.left] * 2, np.float32)
        cuts = self._depths(boxes, window) < self._margin(window)
        masks: Sequence[dict[str, Any] | None] = [None] * len(boxes) if result.masks is None else result.masks
        added = np.arange(len(boxes)) + len(self.pieces)
        for box, score, label, cut, mask in zip(boxes, result.scores, result.classes, cuts, masks, strict=True):
            runs = None if mask is None else place_runs(mask, window.top, window.left, self.height)
            self.pieces.append(Piece(window, box, score, int(label), bool(cut), runs))
        self.tiles += 1
        self.recent = [row for row in self.recent if row[0].top + row[0].height > window.top]
        for other, indices in self.recent:
            self._pair(other, indices, window, added)
        self.recent.append((window, added))

    def _depths(self, boxes, window):
        """Returns how deep boxes [n, 4] lie in a window: [n], the distance to its nearest border inside the image."""
        start, sides = np.float32(window[:2]), np.float32(window[2:])
        end = start + sides
        before = np.where(start > 0, boxes[:, :2] - start, np.inf)
        behind = np.where(end < (self.height, self.width), end - boxes[:, 2:], np.inf)
        return np.minimum(before, behind).min(axis=1)

    def _margin(self, window):
        return self.margin * max(window.height, window.width)

    def _pair(self, window, indices, other, others):
        """Compares the pieces of two tiles, given by their windows and the indices of their pieces."""
        common = intersect(window, other)
        if min(common.height, common.width) <= 0 or not len(indices) or not len(others):
            return
        boxes, other_boxes = (np.stack([self.pieces[index].box for index in group]) for group in (indices, others))
        labels, other_labels = ([self.pieces[index].label for index in group] for group in (indices, others))
        cuts, other_cuts = ([self.pieces[index].cut for index in group] for group in (indices, others))
        either_cut = np.logical_or.outer(cuts, other_cuts)  # [n, m]
        depths = [[self._depths(part, one) for one in (window, other)] for part in (boxes, other_boxes)]
        self._drop(indices, *depths[0], self._margin(window))
        self._drop(others, *depths[1][::-1], self._margin(window))
        shares = box_agreement(boxes, other_boxes, common, either_cut) * np.equal.outer(labels, other_labels)  # [n, m]
        for row, column in np.argwhere(shares > 0):
            pair, share = (int(indices[row]), int(others[column])), shares[row, column]
            if not self.dropped.isdisjoint(pair):
                continue
            one, another = (self.pieces[index] for index in pair)
            if one.runs is not None:
                share = mask_agreement(one.runs, another.runs, common, self.height, either_cut[row, column])
            if share >= self.agreement:
                self.pairs.setdefault(pair[0], []).append(pair[1])
                self.pairs.setdefault(pair[1], []).append(pair[0])

    def _drop(self, indices, depths, depths_there, margin):
        """Drops the cut pieces that another tile shows whole; depths are [n], in their own and in the other tile."""
        self.dropped.update(indices[(depths < margin) & (depths_there >= margin)].tolist())

    def merge(self) -> ImageResult:
        """Returns the ImageResult of the whole image. An object unites the boxes and masks of its pieces."""
        if self.tiles == 1:
            return self.result
        groups = self._group()
        boxes = [[*np.min([p.box[:2] for p in group], 0), *np.max([p.box[2:] for p in group], 0)] for group in groups]
        masks = None
        if self.result.masks is not None:
            masks = encode_runs([unite_runs([p.runs for p in group]) for group in groups], self.height, self.width)
        return ImageResult(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array([group[0].score for group in groups], np.float32),
            np.array([group[0].label for group in groups], np.int32),
            masks,
        )

    def _group(self):
        """Returns lists of the Pieces of one object each, the best piece and the best object first."""
        groups = {}  # index of a piece: the group that it is in, {Window of a tile: the piece from there}
        ranks = [piece.rank() for piece in self.pieces]
        for index in sorted(set(range(len(ranks))) - self.dropped, key=ranks.__getitem__):
            piece = self.pieces[index]
            group, absorbed = {piece.tile: index}, False
            for other in sorted(self.pairs.get(index, ()), key=ranks.__getitem__):
                if other not in groups:
                    continue  # dropped or absorbed, or its score is lower
                if not (piece.cut and self.pieces[other].cut):
                    absorbed = True
                # Two pieces of one tile are two objects, as the tile's own suppression has decided.
                elif groups[other].keys().isdisjoint(group):
                    group = groups[other] | group
            if not absorbed:
                groups.update(dict.fromkeys(group.values(), group))
        unique = {id(group): group for group in groups.values()}.values()
        found = [sorted((self.pieces[index] for index in group.values()), key=Piece.rank) for group in unique]
        return sorted(found, key=lambda group: group[0].rank())


def intersect(window: Window, other: Window) -> Window:
    """Returns the Window that two Windows have in common; its height or width may be negative."""
    top, left = max(window.top, other.top), max(window.left, other.left)
    bottom = min(window.top + window.height, other.top + other.height)
    right = min(window.left + window.width, other.left + other.width)
    return type(window)(top, left, bottom - top, right - left)


def box_agreement(boxes: np.ndarray, others: np.ndarray, window: Window, of_smaller: np.ndarray) -> np.ndarray:
    """Returns how much boxes agree within a window.

    Args:
        boxes, others: [n, 4] and [m, 4] float32.
        window: Window.
        of_smaller: [n, m] bool. True for the share of the smaller box that lies in the other, False of the larger.
    Returns:
        [n, m] float32, 0 to 1.
    """
    start = np.array([window.top, window.left], np.float32)
    end = start + np.array([window.height, window.width], np.float32)
    corners, other_corners = np.split(boxes[:, None], 2, axis=-1), np.split(others[None], 2, axis=-1)  # [n, 1, 2] ...
    (low, high), (other_low, other_high) = np.clip(corners, start, end), np.clip(other_corners, start, end)
    common = np.prod(np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0), axis=-1)  # [n, m]
    areas = np.prod(high - low, axis=-1), np.prod(other_high - other_low, axis=-1)
    divisor = np.where(of_smaller, np.minimum(*areas), np.maximum(*areas))
    return common / np.where(divisor > 0, divisor, np.inf)


def mask_agreement(runs: np.ndarray, others: np.ndarray, window: Window, height: int, of_smaller: bool) -> float:
    """Returns the same of two masks, by their runs in an image of that height; 0 if one is empty in the window."""
    runs, others = clip_runs(runs, window, height), clip_runs(others, window, height)
    areas = count_pixels(runs), count_pixels(others)
    return count_common_pixels(runs, others) / (min(areas) if of_smaller else max(areas)) if min(areas) else 0.0
