"""Conversion of pixels of any kind to 8-bit RGB: Pillow's modes and NumPy arrays, by one rule.

Gray is repeated, alpha is dropped, 16 bits keep their high byte; floating-point pixels are refused, because the value
of white is unknown.
"""

import numpy as np
from PIL import Image

from htc_tf.data.image_checks import ImageError, quiet_and_unbounded

MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
UNKNOWN_WHITE = "the value of white is unknown; convert it to 8 or 16 bits"


def image_to_rgb(image: Image.Image) -> Image.Image:
    """Converts a decoded image of any mode to 8-bit RGB.

    Raises:
        ImageError: The mode has no unique conversion.
    """
    if image.format == "GIF":
        return _on_black(image)
    if image.mode in MODES:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the same colors; Pillow warns when it converts directly to RGB
        return image.convert("RGB")
    # 16-bit gray has mode I;16 or, if signed or in older versions of Pillow, I; `convert` would clip it to white.
    if image.mode.startswith("I;16") or (image.mode == "I" and _bits(image) == 16):
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 0xFFFF:
            # PhotometricInterpretation (tag 262) 0 is WhiteIsZero, which Pillow applies to 8 bits only.
            if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
                values = 0xFFFF - values
            return Image.fromarray(array_to_rgb(values.astype(np.uint16)))
    kind = {"F": "floating-point pixels", "I": "32-bit or negative pixels"}.get(image.mode)
    if kind is None:
        raise ImageError(f"unsupported {image.mode} pixels: convert it to RGB", "mode")
    raise ImageError(f"{kind}: {UNKNOWN_WHITE}", "mode")


def array_to_rgb(array: np.ndarray) -> np.ndarray:
    """Converts an array to 8-bit RGB as a file of these pixels is read.

    Args:
        array: Gray [H, W] or RGB [H, W, 3], uint8 or uint16.
    Returns:
        [H, W, 3] uint8 RGB.
    Raises:
        ImageError: The array has another shape or type.
    """
    if array.dtype.kind == "f" and array.ndim in (2, 3):
        raise ImageError(f"floating-point pixels: {UNKNOWN_WHITE}", "mode")
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not is_image or array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(f"{array.dtype} {list(array.shape)}, neither gray [H, W] nor RGB [H, W, 3] of 8 or 16 bits")
    if array.dtype.itemsize == 2:  # of either byte order
        array = (array >> 8).astype(np.uint8)
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)


def _on_black(image):
    """Fills a GIF with black where it is transparent and around its first frame, as TensorFlow and OpenCV do."""
    covered = image.dispose_extent if image.tell() == 0 else None
    with quiet_and_unbounded():  # `crop` checks Pillow's own limit
        color = image.convert("RGBA").crop(covered)
    black = Image.new("RGB", image.size)
    black.paste(color, covered[:2] if covered else None, color)
    return black


def _bits(image):
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))  # BitsPerSample
    return 16 if image.format == "PNG" else 32
