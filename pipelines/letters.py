"""Random scenes of overlapping letters on cloudy ground: a second generator, which shares no surface with the first.

`pipelines.scenes` draws outlines by formulas and tells the ground's classes apart by periodic textures. Here the
outlines are a typeface's, tilted and slanted, filled with a gradient and a rim, and the ground is fractal noise. What
helps on both kinds of scenes is not a habit of one generator.

Units and types are those of `pipelines.scenes`.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .scenes import CONTRAST, MAX_THINGS, UNLABELED, finish_scene, place_thing

THINGS = tuple("ABCEFGHKLMPRSTUY")  # none is another one's mirror image
LABELS = range(len(THINGS))
GROUNDS = ("clouds", "sand", "clay", "bark")  # stuff labels 16 ... 19

SIDES = (128, 192)  # range of an image's sides
HEIGHTS = (16, 100)  # range of a letter's height, log-uniform
TILT = 25.0  # largest rotation, degrees
SLANT = 0.25  # largest shear
TEMPLATE = 128  # side of the square in which a letter is rendered


def draw_scene(rng, labels=LABELS):
    """Draws one scene from a NumPy random generator; the same stream and labels give the same bytes."""
    canvas, semantic = draw_ground(rng, *rng.integers(SIDES[0], SIDES[1] + 1, 2))
    things = []
    for _ in range(rng.integers(0, MAX_THINGS + 1)):
        label = labels[rng.integers(len(labels))]
        outline = draw_letter(rng, THINGS[label], float(np.exp(rng.uniform(*np.log(HEIGHTS)))))
        place_thing(rng, canvas, things, label, [(outline, (0, 0))], paint)
    return finish_scene(rng, canvas, semantic, things)


# The ground


def draw_ground(rng, height, width):
    """Draws two or three grounds side by side; one of them has no label in one scene of five.

    Returns:
        canvas: [3, H, W] float32.
        semantic: [H, W] uint8 labels.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    kinds = rng.permutation(len(GROUNDS))[: rng.integers(2, 4)]
    nearest, canvas = np.full((height, width), np.inf, np.float32), np.zeros((3, height, width), np.float32)
    semantic = np.zeros((height, width), np.uint8)
    for kind in kinds:
        away = np.abs(y - rng.uniform(0, height)) + np.abs(x - rng.uniform(0, width))
        here = away + 14 * draw_noise(rng, height, width, 40) < nearest
        nearest = np.where(here, away, nearest)
        canvas = np.where(here, draw_surface(rng, GROUNDS[kind], height, width), canvas)
        semantic[here] = len(THINGS) + kind
    if rng.random() < 0.2:
        semantic[semantic == len(THINGS) + kinds[0]] = UNLABELED
    return canvas, semantic


def draw_surface(rng, name, height, width):
    """Returns [3, H, W] float32: one ground's noise between two colors."""
    if name == "clouds":
        noise = draw_noise(rng, height, width, 48)
    elif name == "sand":
        noise = draw_noise(rng, height, width, 3)
    elif name == "clay":  # sharp borders
        noise = np.clip(4 * draw_noise(rng, height, width, 20), -1, 1)
    else:  # bark: stretched along one axis
        noise = draw_noise(rng, height, 4 * width, 14)[:, ::4]
    share = (noise + 1) / 2
    first, second = draw_pair(rng)[..., None, None]
    return first + (second - first) * share


def draw_noise(rng, height, width, period):
    """Returns [H, W] float32 in [-1, 1]: three octaves of smooth noise, the coarsest with cells of `period` pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        cells = [max(1, round(side * 2**octave / period)) + 1 for side in (height, width)]
        coarse = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return np.clip(total, -1, 1)


def draw_pair(rng):
    """Returns two colors, [2, 3] float32, of which the second is a shift of the first."""
    color = rng.uniform(0.1, 0.9, 3)
    return np.float32([color, np.clip(color + rng.normal(0, 0.12, 3), 0, 1)])


# The letters


@functools.cache
def render(letter):
    """Returns a letter, white on black, in the middle of a square image of TEMPLATE pixels."""
    image = Image.new("L", (TEMPLATE, TEMPLATE))
    font = ImageFont.load_default(TEMPLATE * 0.8)
    ImageDraw.Draw(image).text((TEMPLATE / 2, TEMPLATE / 2), letter, 255, font, anchor="mm", stroke_width=4)
    return image


def draw_letter(rng, letter, height):
    """Returns the pixels' coverage by a tilted and slanted letter: [h, w] float32 in [0, 1], cut to its extent."""
    angle, slant = np.deg2rad(rng.uniform(-TILT, TILT)), rng.uniform(-SLANT, SLANT)
    side = round(height * 2)  # of a window with room for the tilted letter
    scale = TEMPLATE * 0.65 / height  # template pixels per pixel: a capital fills about 0.65 of the template
    # From the window to the template: rotate, shear and scale about the centers.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * np.array([[1, slant], [0, 1]]) @ turn  # of (x, y)
    offset = TEMPLATE / 2 - matrix @ np.full(2, side / 2)
    # Drawn at four times the size and averaged, so that its edges are smooth at any size.
    fine = np.column_stack([matrix / 4, offset]).ravel()
    large = render(letter).transform((side * 4,) * 2, Image.Transform.AFFINE, tuple(fine), Image.Resampling.BILINEAR)
    coverage = np.asarray(large.reduce(4), np.float32) / 255
    rows, columns = (np.flatnonzero(coverage.any(axis)) for axis in (1, 0))
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paint(rng, canvas, coverage):
    """Blends a letter into its window of the canvas, [3, h, w], in place: a gradient of two colors and a darker rim."""
    beneath = (canvas * coverage).sum((1, 2)) / max(float(coverage.sum()), 1.0)  # [3], the mean color below
    for _ in range(20):
        colors = draw_pair(rng)
        if min(np.linalg.norm(colors - beneath, axis=1)) >= CONTRAST:
            break
    height, width = coverage.shape
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    share = (1 + float(np.sin(angle)) * y + float(np.cos(angle)) * x) / 2
    first, second = colors[..., None, None]
    blurred = Image.fromarray(np.uint8(coverage * 255)).resize((max(width // 4, 1), max(height // 4, 1)))
    inner = np.asarray(blurred.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    color = (first + (second - first) * share) * (float(rng.uniform(0.5, 1)) * (1 - inner) + inner)
    canvas += coverage * (color - canvas)
