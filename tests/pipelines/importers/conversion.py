"""Conversion of a folder of a tool's files by the command, for tests; images; masks of what it writes."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines import to_coco


def convert(tool, folder, *flags):
    """Returns {split: content} of what the command writes, and the entries of left_out.txt."""
    output = folder.parent / "coco"
    to_coco.main(["--from", tool, "--input", str(folder), "--output", str(output), *flags])
    files = {split: output / "annotations" / f"instances_{split}.json" for split in to_coco.SPLITS}
    return (
        {split: json.loads(path.read_text()) for split, path in files.items() if path.exists()},
        read_left_out(output) if (output / to_coco.LEFT_OUT).exists() else [],
    )


def read_left_out(output):
    """Returns the entries of left_out.txt, below the line that names the command."""
    first, *entries = (output / to_coco.LEFT_OUT).read_text().splitlines()
    assert first == "left out by python -m pipelines.to_coco:"
    return entries


def add_image(path, width=60, height=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def draw(segmentation, height=40, width=60):
    """Returns the [H, W] mask of polygons or run lengths."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(segmentation).astype(bool)


def masks(content, height=40, width=60):
    """Returns {file name: [(class, mask), ...]}."""
    names = {row["id"]: row["name"] for row in content["categories"]}
    files = {row["id"]: row["file_name"] for row in content["images"]}
    found = {name: [] for name in files.values()}
    for row in content["annotations"]:
        label = names[row["category_id"]]
        found[files[row["image_id"]]].append((label, draw(row["segmentation"], height, width)))
    return found


def iou(one, two):
    return (one & two).sum() / (one | two).sum()


def star(rng, height=40, width=60):
    """Returns the points [n, 2] of a random polygon around the center, as x, y in pixels."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 12)))
    radii = rng.uniform(0.5, 1, len(angles)) * (height / 2 - 2)
    return np.stack([width / 2 + radii * np.cos(angles), height / 2 + radii * np.sin(angles)], axis=1)
