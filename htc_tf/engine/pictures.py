"""Prediction on picture files: read, detect, draw, save. What cannot be read is skipped and reported."""

import re

import numpy as np
from PIL import Image, ImageOps

from htc_tf.engine.monitor import progress
from htc_tf.engine.results import coco_results
from htc_tf.engine.visualize import draw


def predict_pictures(detector, categories, paths, output, threshold):
    """Detects in each picture and saves a drawing of it.

    Args:
        detector: inference.Detector.
        categories: [{"id", "name"}, ...] by class index.
        paths: of the pictures.
        output: folder for the drawings.
        threshold: lowest score that is drawn.
    Returns:
        (results in COCO's format, each also with its file_name; [(path, reason)] of what was skipped)
    """
    output.mkdir(parents=True, exist_ok=True)
    names = [category["name"] for category in categories]
    ids = [category["id"] for category in categories]
    results, skipped = [], []
    drawings = drawing_names(paths)
    for number, path in enumerate(progress(paths, unit="img", desc="predict")):
        try:
            image = read_picture(path)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            skipped.append((path, str(error)))
            continue
        found = detector.detect_image(image)
        image_id = id_from_name(path, number)
        results += [{**entry, "file_name": path.name} for entry in coco_results([found], [image_id], ids)]
        picture = draw(image, found.boxes, found.classes, names, found.scores, found.masks, threshold)
        Image.fromarray(picture).save(output / drawings[number])
    return results, skipped


def read_picture(path):
    """-> [H, W, 3] uint8 RGB, turned as its EXIF orientation says."""
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def id_from_name(path, number):
    """COCO's files are named by their image id; any other picture takes its place in the list."""
    return int(path.stem) if re.fullmatch(r"\d+", path.stem) else number


def drawing_names(paths):
    """name.png for each picture; where pictures of several folders share a name, the later ones get a number."""
    names, seen = [], {}
    for path in paths:
        seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(f"{path.stem}.png" if seen[path.stem] == 1 else f"{path.stem}_{seen[path.stem]}.png")
    return names
