"""One scene of the demo data: textured shapes that overlap on patterned ground, with the truth about each pixel.

Before it: `pipelines.shapes`, which hands every scene a random stream of its own. After it: the same command writes
the scene as COCO does. A scene is painted back to front; whatever is painted also takes its pixels from the masks of
what lies beneath, so that picture and truth cannot disagree.

Lengths are pixels, colours RGB in [0, 1], coordinates y then x.
"""

from typing import NamedTuple

import numpy as np

from pipelines.textures import TEXTURES, draw_colours, draw_light, draw_texture, mix

THINGS = ("circle", "square", "triangle", "star", "ring", "cross", "crescent", "hexagon")  # labels 0 ... 7
STUFF = TEXTURES  # labels 8 ... 12
UNLABELLED = 255

SIDES = (144, 192)  # of an image
DIAMETERS = (10, 110)  # of the circle around a shape, log-uniform
CROWD_DIAMETERS = (9, 16)
MAX_THINGS = 8
EMPTY, CROWDED = 0.03, 0.03  # shares of the images
MAX_HIDDEN = 0.65  # of a shape, by the shapes painted after it
MIN_INSIDE = 0.55  # of a shape, inside the image
MIN_PIXELS = 24  # to be seen of a shape
SUPERSAMPLING = 4
CONTRAST = 0.3  # least distance between a shape's colour and the mean of what it covers


class Thing(NamedTuple):
    """A shape, or a crowd of one class of shapes."""

    label: int
    crowd: bool
    whole: np.ndarray  # [H, W] bool, its pixels inside the image before anything hid them
    mask: np.ndarray  # [H, W] bool, the pixels that are seen


class Scene(NamedTuple):
    image: np.ndarray  # [H, W, 3] uint8
    semantic: np.ndarray  # [H, W] uint8, 0 ... 7 things, 8 ... 12 stuff, 255 unlabelled
    things: list  # of Thing, back to front


def draw_population(rng):
    """(number of single shapes, whether there is a crowd too): the first thing that a scene's stream decides."""
    kind = rng.random()
    if kind < EMPTY:
        return 0, False
    return int(rng.integers(1, MAX_THINGS + 1)), kind < EMPTY + CROWDED


def draw_scene(rng):
    """One scene from one `np.random.Generator`: the same stream gives the same bytes."""
    count, crowded = draw_population(rng)
    canvas, semantic = draw_ground(rng, *rng.integers(SIDES[0], SIDES[1] + 1, 2))
    things = []
    crowd_turn = rng.integers(count + 1) if crowded else -1
    for turn in range(count + crowded):
        add_thing(rng, canvas, things, crowd=turn == crowd_turn)
    for thing in things:
        semantic[thing.mask] = thing.label
    canvas += rng.uniform(0, 0.02) * rng.standard_normal(semantic.shape, np.float32)  # a camera's noise
    image = np.uint8(np.clip(canvas, 0, 1) * 255 + 0.5).transpose(1, 2, 0)
    return Scene(np.ascontiguousarray(image), semantic, things)


# The ground


def draw_ground(rng, height, width):
    """Regions of two to four stuffs between winding borders: ([3, H, W] float32 canvas, [H, W] uint8 labels)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bend_y, bend_x = (rng.uniform(2, 7) * np.sin(t * rng.uniform(0.04, 0.1) + rng.uniform(0, 6.3)) for t in (x, y))
    labels = [*(len(THINGS) + rng.permutation(len(STUFF))[: rng.integers(2, 5)]), UNLABELLED]
    distances, paints = [], []
    for label in labels:
        away = np.hypot(y + bend_y - rng.uniform(0, height), x + bend_x - rng.uniform(0, width))
        plain = label == UNLABELLED
        distances.append(away + plain * rng.uniform(30, 90))  # a handicap, so that little remains unlabelled
        texture = draw_texture(rng, None if plain else STUFF[label - len(THINGS)], y, x, rng.uniform(7, 20))
        paints.append(mix(draw_colours(rng, 0.5), texture))
    nearness = np.exp(2 * (np.min(distances, 0) - distances))
    shares = nearness / nearness.sum(0)  # a softmax, which blends over about a pixel at the borders
    canvas = sum(share * paint for share, paint in zip(shares, paints, strict=True))
    semantic = np.uint8(labels)[np.argmax(shares, 0)]
    semantic[shares.max(0) < 0.8] = UNLABELLED
    return canvas * draw_light(rng, height, width, 0.3), semantic


# The shapes


def add_thing(rng, canvas, things, crowd):
    """Paints one more shape, or a crowd of small ones, where it hides no other too much; none if there is no room."""
    label = int(rng.integers(len(THINGS)))
    diameter = np.exp(rng.uniform(*np.log(DIAMETERS)))
    pieces = draw_crowd(rng, THINGS[label]) if crowd else [(draw_outline(rng, THINGS[label], diameter), (0, 0))]
    sides = canvas.shape[1:]
    full = sum(outline.sum() for outline, _ in pieces)
    for _ in range(40):
        corner = rng.integers(0, sides) - len(pieces[0][0]) // 2
        placed = [place(outline, corner + offset, sides) for outline, offset in pieces]
        if sum(coverage.sum() for coverage, _ in placed) < MIN_INSIDE * full:
            continue
        whole = np.zeros(sides, bool)
        for coverage, window in placed:
            whole[window] |= coverage >= 0.5
        remains = [thing.mask & ~whole for thing in things]
        if whole.sum() >= MIN_PIXELS and all(map(enough_is_seen, things, remains)):
            break
    else:
        return
    for coverage, window in placed:
        if coverage.size:
            paint(rng, canvas[window], coverage)
    things[:] = [thing._replace(mask=mask) for thing, mask in zip(things, remains, strict=True)]
    things.append(Thing(label, crowd, whole, whole))


def enough_is_seen(thing, mask):
    """Whether `mask` leaves of a thing what a viewer, and a fair metric, need to know it by."""
    return mask.sum() >= max(MIN_PIXELS, (1 - MAX_HIDDEN) * thing.whole.sum())


def draw_crowd(rng, name):
    """Small shapes of one class, close together: a list of (outline, [dy, dx])."""
    spread = rng.uniform(10, 20)
    return [
        (draw_outline(rng, name, rng.uniform(*CROWD_DIAMETERS)), np.int64(rng.normal(0, spread, 2).round()))
        for _ in range(rng.integers(7, 16))
    ]


def draw_outline(rng, name, diameter):
    """Coverage of each pixel by a turned and stretched shape: [h, w] float32 in [0, 1]."""
    radius = diameter / 2
    size = int(np.ceil(diameter)) + 2
    steps = (np.arange(size * SUPERSAMPLING, dtype=np.float32) + 0.5) / SUPERSAMPLING - size / 2
    dy, dx = (steps - rng.uniform(-0.5, 0.5) for _ in "yx")
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.float32([np.cos(angle), np.sin(angle)]) / np.float32(radius)
    u = c * dx + s * dy[:, None]
    v = (c * dy[:, None] - s * dx) / np.float32(rng.uniform(0.7, 1))
    inside = SHAPES[name](rng, u, v) <= 0
    cells = inside.view(np.uint8).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING)
    return np.einsum("iajb->ij", cells) / np.float32(SUPERSAMPLING**2)


def place(outline, corner, sides):
    """(part, window): what of an outline with its top left at `corner` is inside the canvas, and where there."""
    starts = np.clip(corner, 0, sides)
    ends = np.clip(corner + np.array(outline.shape), starts, sides)
    part = outline[tuple(map(slice, starts - corner, ends - corner))]
    return part, (..., *map(slice, starts, ends))


def paint(rng, canvas, coverage):
    """Blends a textured, softly lit shape into its window of the canvas [3, h, w], in place."""
    beneath = (canvas * coverage).sum((1, 2)) / max(coverage.sum(), 1)
    for _ in range(20):
        colours = draw_colours(rng, 1)
        if min(np.linalg.norm(colours - beneath, axis=1)) >= CONTRAST:
            break
    y, x = np.mgrid[: coverage.shape[0], : coverage.shape[1]].astype(np.float32)
    period = max(4, rng.uniform(0.12, 0.4) * max(coverage.shape))
    texture = draw_texture(rng, rng.choice([None, None, *TEXTURES]), y, x, period)
    colour = mix(colours, texture) * draw_light(rng, *coverage.shape, 0.4)
    canvas += coverage * (colour - canvas)


def ring(rng, u, v):
    r = np.hypot(u, v)
    return np.maximum(r - 1, rng.uniform(0.4, 0.6) - r)


def star(rng, u, v):
    # Folded into one of its ten equal wedges, a star is one straight edge, from the tip to the inner corner.
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(v, u) + fifth / 2) % fifth - fifth / 2)
    r = np.hypot(u, v)
    inner = rng.uniform(0.38, 0.5)
    edge = 1 - inner * np.cos(fifth / 2), inner * np.sin(fifth / 2)
    return (r * np.cos(angle) - 1) * edge[1] + r * np.sin(angle) * edge[0]


def cross(rng, u, v):
    u, v = np.abs(u), np.abs(v)
    half = rng.uniform(0.24, 0.36)
    return np.maximum(np.maximum(u, v) - np.sqrt(1 - half**2), np.minimum(u, v) - half)


def crescent(rng, u, v):
    return np.maximum(np.hypot(u, v) - 1, rng.uniform(0.7, 0.85) - np.hypot(u - rng.uniform(0.4, 0.55), v))


def polygon(corners):
    """A regular polygon in the unit circle: the half-planes of all its sides."""
    angles = 2 * np.pi * np.arange(corners) / corners

    def outline(_, u, v):
        sides = [np.float32(np.cos(a)) * u + np.float32(np.sin(a)) * v for a in angles]
        return np.maximum.reduce(sides) - np.cos(np.pi / corners)

    return outline


# Each is at most 0 inside the shape, which reaches to the unit circle.
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
