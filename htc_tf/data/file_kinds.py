"""File kinds: names a file by its first bytes, for messages about files that cannot be read."""

import codecs
import json
import re
from collections.abc import Collection

# The formats that `data.image_io` reads, in the words of SIGNATURES.
IMAGES = ("a JPEG", "a PNG", "a GIF", "a WebP", "a TIFF", "a BMP")
CONVERT = "convert it to JPEG or PNG"
# The formats that it reads only with another package, and what to do without it.
AVIF, HEIC = "an AVIF", "a HEIC (the iPhone's format)"
OPTIONAL = {
    AVIF: f"which Pillow 11.3 or newer reads: pip install --upgrade pillow, or {CONVERT}",
    HEIC: f"which pillow-heif reads: pip install pillow-heif (the extra htc_tf[heic]), or {CONVERT}",
}
# Files that contain or stand for another file, by their first bytes.
PACKED = {
    b"\x1f\x8b": "compressed with gzip: unpack it first (gunzip)",
    b"PK\x03\x04": "a zip archive: unpack it first (unzip)",
    b"BZh": "compressed with bzip2: unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed with xz: unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first (unzstd)",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run git lfs pull",
}
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes; + in BigTIFF
# Offset, bytes and description of a kind of file. The first match counts.
SIGNATURES = [
    *((0, start, words) for start, words in PACKED.items()),
    (0, b"\xff\xd8", "a JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG"),
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS), an unsupported format"),
    (0, b"%!PS", "PostScript (EPS), an unsupported format"),
    (0, b"%PDF", f"a PDF document: {CONVERT}"),
    (0, b"8BPS", f"a Photoshop document: {CONVERT}"),
    (0, b"\0\0\0\x0cjP  ", f"JPEG 2000, an unsupported format: {CONVERT}"),
    (0, b"\xffO\xffQ", f"JPEG 2000, an unsupported format: {CONVERT}"),
    (0, b"\0\0\0\x0cJXL ", f"JPEG XL, an unsupported format: {CONVERT}"),
    (0, b"\xff\x0a", f"JPEG XL, an unsupported format: {CONVERT}"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"\0\0\x01\xba", "a video (MPEG)"),
    (0, b"\0\0\x01\xb3", "a video (MPEG)"),
    (128, b"DICM", f"a DICOM file: {CONVERT}"),
    (0, b"FUJIFILMCCD-RAW", f"a camera's raw file: {CONVERT}"),
    (0, b"IIU\0", f"a camera's raw file: {CONVERT}"),
    (0, b"IIRO", f"a camera's raw file: {CONVERT}"),
    (0, b"v/1\x01", f"OpenEXR, an unsupported format: {CONVERT}"),
    (0, b"#?RADIANCE", f"Radiance HDR, an unsupported format: {CONVERT}"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\0\5\x16\7", "a macOS resource file (._NAME), which contains no image"),
    (0, b"\0\0\1\0", f"an icon (ICO): {CONVERT}"),
    *((0, start, "a TIFF") for start in TIFF),
    (0, b"BM", "a BMP"),
]
# ISO media files have "ftyp" at byte 4, followed by their brand.
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), HEIC),
    b"crx ": f"a camera's raw file: {CONVERT}",
}


def brand_kind(encoded: bytes) -> str | None:
    """Returns the kind of an ISO media file in the words of BRANDS, a video if it has none; None for any other file."""
    if encoded[4:8] != b"ftyp":
        return None
    # The first brand may be common to HEIC and AVIF; the list of compatible brands follows it.
    brands = [encoded[start : start + 4] for start in (*range(16, min(encoded[3], 64), 4), 8)]
    return next((BRANDS[brand] for brand in brands if brand in BRANDS), "a video (MP4 or QuickTime)")


def describe(encoded: bytes, optional: Collection[str] = ()) -> str:
    """Describes a file that cannot be read as an image, in words that follow the file's name.

    Args:
        encoded: Content of the file.
        optional: The kinds of OPTIONAL for which a reader is installed.
    """
    if not encoded:
        return "an empty file"
    kind = brand_kind(encoded) or _signature_kind(encoded)
    if kind in OPTIONAL and kind not in optional:
        return f"{kind}, {OPTIONAL[kind]}"
    if kind:
        is_image = kind in IMAGES or kind in OPTIONAL
        return f"{kind}, but damaged, truncated or of an unsupported variant" if is_image else kind
    start = encoded[:1024]
    if not start.strip(b"\0"):
        return "not an image: it begins with zero bytes, as after an interrupted copy"
    text = _as_text(start)
    if text is None:
        known = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC"
        return f"not an image of a known format ({known}); it begins with {start[:8].hex(' ')}"
    lower = text.lstrip().lower()
    if re.search(r"<!doctype html|<html|<head|<body", lower):
        return "an HTML page: the download returned an error or login page"
    if "<svg" in lower:
        return f"an SVG drawing: {CONVERT}"
    if lower.startswith("<?xml"):
        return "an XML file"
    if lower.startswith(("{", "[")):
        return "a JSON file"
    first = " ".join(text.split())[:40]
    return f"a text file that begins {json.dumps(first, ensure_ascii=False)}"


def _signature_kind(encoded):
    matches = (words for offset, magic, words in SIGNATURES if encoded[offset : offset + len(magic)] == magic)
    return next(matches, None)


def _as_text(start):
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        # Incremental: the last character may be cut.
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else None
