"""Drawings saved as image files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from htc_tf.errors import UserError

JPEG = {".jpg", ".jpeg"}
SAVED = (".png", ".jpg", ".jpeg", ".webp")
LONGEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # pixels of a side that the encoders write


def check_output(path: Path) -> None:
    """Raises UserError, about the flag --output, unless `save` knows the format of a path's suffix."""
    if path.suffix.lower() not in SAVED:
        raise UserError(f"--output {path} must end in {', '.join(SAVED)}")


def save(image: np.ndarray, path: str | os.PathLike) -> None:
    """Saves an image [H, W, 3 or 4] uint8 in the format of the path's suffix.

    Raises:
        UserError: The path has another suffix, cannot be written, or the image is too large for the format.
    """
    path = Path(path)
    if path.suffix.lower() not in SAVED:
        raise UserError(f"{path}: name an image that ends in {', '.join(SAVED)}")
    longest = LONGEST.get(path.suffix.lower())
    if longest and max(image.shape) > longest:
        size = f"{image.shape[1]} x {image.shape[0]} pixels"
        raise UserError(f"{path}: {size}, and {path.suffix} holds at most {longest} on a side: name a .png")
    # subsampling 0 keeps colors at full resolution: outlines would fray at half of it.
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if path.suffix.lower() in JPEG else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Pillow finds no suffix in a name like "..jpg".
        Image.fromarray(image).save(path, Image.registered_extensions()[path.suffix.lower()], **options)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
