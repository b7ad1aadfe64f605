"""Surfaces of drawn scenes: pairs of colors, the texture that mixes them, and the light."""

import colorsys

import numpy as np
from PIL import Image

TEXTURES = ("stripes", "checker", "dots", "noise", "waves")


def mix(colors, share):
    """Blends two colors: [3, h, w], from the first to the second by its share [h, w]."""
    first, second = colors[..., None, None]
    return first + (second - first) * share


def draw_light(rng, height, width, most):
    """Returns factors [h, w] around 1 that rise linearly across the area by up to `most`."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-0.5, 0.5, size, dtype=np.float32) for size in (height, width))
    return 1 + np.float32(rng.uniform(0, most)) * (
        np.float32(np.sin(angle)) * y[:, None] + np.float32(np.cos(angle)) * x
    )


def draw_colors(rng, vivid):
    """Returns two related but distinguishable colors: [2, 3] float32, saturation up to `vivid`."""
    while True:
        hue = rng.random()
        pair = [
            colorsys.hsv_to_rgb((hue + shift) % 1, rng.uniform(0.05, vivid), rng.uniform(0.25, 1))
            for shift in (0, rng.normal(0, 0.12))
        ]
        if 0.25 < np.linalg.norm(np.subtract(*pair)) < 0.6:
            return np.float32(pair)


def draw_texture(rng, name, y, x, period):
    """Returns the second color's share of each pixel, [h, w] in [0, 1]; zeros if `name` is None (plain)."""
    angle = rng.uniform(0, 2 * np.pi)
    scale = 2 * np.pi / period
    u, v = (
        (float(np.cos(a)) * x + float(np.sin(a)) * y) * scale + rng.uniform(0, 2 * np.pi)
        for a in (angle, angle + np.pi / 2)
    )

    def harden(wave):  # a transition of about one pixel between the colors
        return np.clip(0.5 + wave / scale, 0, 1)

    if name is None:
        return np.zeros(y.shape, np.float32)
    if name == "stripes":
        return harden(np.sin(u))
    if name == "checker":
        return harden(np.sin(u) * np.sin(v))
    if name == "dots":
        return harden(np.cos(u) + np.cos(v) - rng.uniform(0.2, 0.8))
    if name == "waves":
        return 0.5 + 0.5 * np.sin(u + rng.uniform(1.2, 2) * np.sin(v * rng.uniform(0.35, 0.7)))
    cells = [max(1, round(side / period * 2.5)) + 1 for side in y.shape]
    coarse = Image.fromarray(rng.random(cells, np.float32)).resize(y.shape[::-1], Image.Resampling.BICUBIC)
    return np.clip(0.6 * np.asarray(coarse) + 0.4 * rng.random(y.shape, np.float32), 0, 1)
