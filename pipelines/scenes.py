"""Random scenes of the demo dataset: overlapping textured shapes on patterned ground, with masks and semantic map.

`pipelines.shapes` gives every scene its own random stream and writes the scenes in COCO's format. A scene is painted
back to front. Each shape that is painted also removes its pixels from the masks below it, so the masks always agree
with the image. The ground's classes differ in texture only; the texture of a shape means nothing.

Lengths are pixels, colors RGB in [0, 1], coordinates y before x. Arrays are float32. NumPy 2 makes a float64 array of a
float32 array and a float64 scalar, where NumPy 1 keeps float32; `float` around such a scalar keeps float32 in both.
"""

from typing import NamedTuple

import numpy as np

from .surfaces import TEXTURES, draw_colors, draw_light, draw_texture, mix

THINGS = ("circle", "square", "triangle", "star", "ring", "cross", "crescent", "hexagon")
LABELS = range(len(THINGS))  # the textures of the ground are stuff labels 8 ... 12
UNLABELED = 255

SIDES = (144, 192)  # range of an image's sides
DIAMETERS = (10, 110)  # range of the circle around a shape, log-uniform
CROWD_DIAMETERS = (9, 16)
MAX_THINGS = 8
EMPTY, CROWDED = 0.03, 0.03  # shares of the images
MAX_HIDDEN = 0.65  # share of a shape that later shapes may hide
MIN_INSIDE = 0.55  # share of a shape that lies inside the image
MIN_PIXELS = 24  # visible pixels of a shape
SUPERSAMPLING = 4
CONTRAST = 0.3  # minimum distance between a shape's colors and the mean color below it


class Thing(NamedTuple):
    """A shape, or a crowd region of small shapes of one class."""

    label: int
    crowd: bool
    whole: np.ndarray  # [H, W] bool, its pixels inside the image, hidden ones included
    mask: np.ndarray  # [H, W] bool, its visible pixels


class Scene(NamedTuple):
    image: np.ndarray  # [H, W, 3] uint8
    semantic: np.ndarray  # [H, W] uint8, 0 ... 7 things, 8 ... 12 stuff, 255 unlabeled
    things: list  # Things, back to front


def draw_population(rng):
    """Returns (number of single shapes, True if there is a crowd too): the first draws from a scene's stream."""
    kind = rng.random()
    if kind < EMPTY:
        return 0, False
    return int(rng.integers(1, MAX_THINGS + 1)), kind < EMPTY + CROWDED


def draw_scene(rng, labels=LABELS):
    """Draws one scene from a NumPy random generator; the same stream and labels of things give the same bytes."""
    count, crowded = draw_population(rng)
    canvas, semantic = draw_ground(rng, *rng.integers(SIDES[0], SIDES[1] + 1, 2))
    things = []
    crowd_index = rng.integers(count + 1) if crowded else -1
    for index in range(count + crowded):
        add_thing(rng, canvas, things, labels, crowd=index == crowd_index)
    return finish_scene(rng, canvas, semantic, things)


def finish_scene(rng, canvas, semantic, things):
    """Returns the Scene of a painted canvas [3, H, W], the semantic map of its ground [H, W] and its things."""
    for thing in things:
        semantic[thing.mask] = thing.label
    canvas += rng.uniform(0, 0.02) * rng.standard_normal(semantic.shape, np.float32)  # camera noise
    image = np.uint8(np.clip(canvas, 0, 1) * 255 + 0.5).transpose(1, 2, 0)
    return Scene(np.ascontiguousarray(image), semantic, things)


# The ground


def draw_ground(rng, height, width):
    """Draws regions of two to four stuff classes with wavy borders.

    Returns:
        canvas: [3, H, W] float32.
        semantic: [H, W] uint8 labels.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bend_y, bend_x = (rng.uniform(2, 7) * np.sin(t * rng.uniform(0.04, 0.1) + rng.uniform(0, 6.3)) for t in (x, y))
    labels = [*(len(THINGS) + rng.permutation(len(TEXTURES))[: rng.integers(2, 5)]), UNLABELED]
    distances, paints = [], []  # [H, W] and [3, H, W] each
    for label in labels:
        away = np.hypot(y + bend_y - rng.uniform(0, height), x + bend_x - rng.uniform(0, width))
        plain = label == UNLABELED
        distances.append(away + float(plain * rng.uniform(30, 90)))  # pushed away, so that little remains unlabeled
        texture = draw_texture(rng, None if plain else TEXTURES[label - len(THINGS)], y, x, rng.uniform(7, 20))
        paints.append(mix(draw_colors(rng, 0.5), texture))
    nearness = np.exp(2 * (np.min(distances, 0) - distances))
    shares = nearness / nearness.sum(0)  # [labels, H, W], a softmax that blends over about one pixel at the borders
    canvas = sum(share * paint for share, paint in zip(shares, paints, strict=True))  # [3, H, W]
    semantic = np.uint8(labels)[np.argmax(shares, 0)]
    semantic[shares.max(0) < 0.8] = UNLABELED
    return canvas * draw_light(rng, height, width, 0.3), semantic


# The shapes


def add_thing(rng, canvas, things, labels, crowd):
    """Paints one more shape, or a crowd of small ones, unless it would hide the others too much or has no room."""
    label = labels[rng.integers(len(labels))]
    diameter = np.exp(rng.uniform(*np.log(DIAMETERS)))
    pieces = draw_crowd(rng, THINGS[label]) if crowd else [(draw_outline(rng, THINGS[label], diameter), (0, 0))]
    place_thing(rng, canvas, things, label, pieces, paint, crowd)


def place_thing(rng, canvas, things, label, pieces, paint, crowd=False):
    """Paints a thing where there is room for it, and removes its pixels from the masks of the things below it.

    Args:
        rng: NumPy random generator.
        canvas: [3, H, W] float32, changed in place.
        things: list of Things so far, back to front, changed in place.
        label: int, or a function from the thing's pixels, [H, W] bool with hidden ones included, to its label, or to
            None for a thing that is not wanted.
        pieces: list of (coverage of the pixels [h, w], offset [y, x] from the first one), the parts of the thing.
        paint: Function of rng, a window [3, h, w] of the canvas, and the coverage [h, w]; paints a piece in place.
        crowd: as in Thing.
    """
    sides = canvas.shape[1:]
    full = sum(float(outline.sum()) for outline, _ in pieces)
    for _ in range(40):
        corner = rng.integers(0, sides) - len(pieces[0][0]) // 2
        placed = [place(outline, corner + offset, sides) for outline, offset in pieces]
        if sum(float(coverage.sum()) for coverage, _ in placed) < MIN_INSIDE * full:
            continue
        whole = np.zeros(sides, bool)
        for coverage, window in placed:
            whole[window] |= coverage >= 0.5
        remains = [thing.mask & ~whole for thing in things]
        if whole.sum() >= MIN_PIXELS and all(map(enough_is_seen, things, remains)):
            break
    else:
        return
    if callable(label) and (label := label(whole)) is None:
        return
    for coverage, window in placed:
        if coverage.size:
            paint(rng, canvas[window], coverage)
    things[:] = [thing._replace(mask=mask) for thing, mask in zip(things, remains, strict=True)]
    things.append(Thing(label, crowd, whole, whole))


def enough_is_seen(thing, mask):
    """True if `mask` leaves enough of a thing to recognize it, for a viewer and for a fair metric."""
    return mask.sum() >= max(MIN_PIXELS, (1 - MAX_HIDDEN) * thing.whole.sum())


def draw_crowd(rng, name):
    """Draws small shapes of one class close together: a list of (outline, [dy, dx])."""
    spread = rng.uniform(10, 20)
    return [
        (draw_outline(rng, name, rng.uniform(*CROWD_DIAMETERS)), np.int64(rng.normal(0, spread, 2).round()))
        for _ in range(rng.integers(7, 16))
    ]


def draw_outline(rng, name, diameter):
    """Returns the pixels' coverage by a rotated and stretched shape: [h, w] float32 in [0, 1]."""
    radius = diameter / 2
    size = int(np.ceil(diameter)) + 2
    # Centers of the subpixels along a side, from the shape's center: [size * SUPERSAMPLING].
    steps = (np.arange(size * SUPERSAMPLING, dtype=np.float32) + 0.5) / SUPERSAMPLING - size / 2
    dy, dx = (steps - rng.uniform(-0.5, 0.5) for _ in "yx")
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.float32([np.cos(angle), np.sin(angle)]) / np.float32(radius)
    # In the shape's own frame, where it fills the unit circle: [size * SUPERSAMPLING, size * SUPERSAMPLING].
    u = c * dx + s * dy[:, None]
    v = (c * dy[:, None] - s * dx) / np.float32(rng.uniform(0.7, 1))
    inside = SHAPES[name](rng, u, v) <= 0
    # Mean over the subpixels of each pixel: [size, SUPERSAMPLING, size, SUPERSAMPLING] to [size, size].
    cells = inside.view(np.uint8).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING)
    return np.einsum("iajb->ij", cells) / np.float32(SUPERSAMPLING**2)


def place(outline, corner, sides):
    """Clips an outline to the canvas.

    Args:
        outline: [h, w] coverage.
        corner: (y, x) of its upper left corner on the canvas, may be negative.
        sides: (height, width) of the canvas.
    Returns:
        (part, window): the part of the outline inside the canvas, and its index into a [..., H, W] canvas.
    """
    starts = np.clip(corner, 0, sides)
    ends = np.clip(corner + np.array(outline.shape), starts, sides)
    part = outline[tuple(map(slice, starts - corner, ends - corner))]
    return part, (..., *map(slice, starts, ends))


def paint(rng, canvas, coverage):
    """Blends a textured, softly lit shape into its window of the canvas, [3, h, w], in place."""
    # The mean color below the shape: [3].
    beneath = (canvas * coverage).sum((1, 2)) / max(coverage.sum(), 1)
    for _ in range(20):
        colors = draw_colors(rng, 1)
        if min(np.linalg.norm(colors - beneath, axis=1)) >= CONTRAST:
            break
    y, x = np.mgrid[: coverage.shape[0], : coverage.shape[1]].astype(np.float32)
    period = max(4, rng.uniform(0.12, 0.4) * max(coverage.shape))
    texture = draw_texture(rng, rng.choice([None, None, *TEXTURES]), y, x, period)
    color = mix(colors, texture) * draw_light(rng, *coverage.shape, 0.4)
    canvas += coverage * (color - canvas)


def ring(rng, u, v):
    r = np.hypot(u, v)
    return np.maximum(r - 1, rng.uniform(0.4, 0.6) - r)


def star(rng, u, v):
    # Folded into one of its ten equal wedges, a star has one straight edge, from the tip to the inner corner.
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(v, u) + fifth / 2) % fifth - fifth / 2)
    r = np.hypot(u, v)
    inner = rng.uniform(0.38, 0.5)
    edge = float(1 - inner * np.cos(fifth / 2)), float(inner * np.sin(fifth / 2))
    return (r * np.cos(angle) - 1) * edge[1] + r * np.sin(angle) * edge[0]


def cross(rng, u, v):
    u, v = np.abs(u), np.abs(v)
    half = rng.uniform(0.24, 0.36)
    return np.maximum(np.maximum(u, v) - float(np.sqrt(1 - half**2)), np.minimum(u, v) - half)


def crescent(rng, u, v):
    return np.maximum(np.hypot(u, v) - 1, rng.uniform(0.7, 0.85) - np.hypot(u - rng.uniform(0.4, 0.55), v))


def polygon(corners):
    """Returns the outline function of a regular polygon in the unit circle: the intersection of half-planes."""
    angles = 2 * np.pi * np.arange(corners) / corners

    def outline(_, u, v):
        sides = [np.float32(np.cos(a)) * u + np.float32(np.sin(a)) * v for a in angles]
        return np.maximum.reduce(sides) - float(np.cos(np.pi / corners))

    return outline


# Functions that are at most 0 inside the shape; each shape touches the unit circle.
SHAPES = {
    "circle": lambda _, u, v: np.hypot(u, v) - 1,
    "square": polygon(4),
    "triangle": polygon(3),
    "star": star,
    "ring": ring,
    "cross": cross,
    "crescent": crescent,
    "hexagon": polygon(6),
}
