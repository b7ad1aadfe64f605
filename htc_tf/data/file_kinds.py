"""Says what a file is by its first bytes, for the message about one that is not read as an image.

Called by `data.image_io`.
"""

import codecs
import json
import re

# What `data.image_io` reads; the words are those of SIGNATURES.
IMAGES = ("a JPEG", "a PNG", "a GIF", "a WebP", "a TIFF", "a BMP")
CONVERT = "convert it to JPEG or PNG"
# Offset and bytes that tell a file's kind, and what to say of it. The first that fits counts.
SIGNATURES = [
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the image: run git lfs pull"),
    (0, b"\xff\xd8", "a JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG"),
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS), which is not read"),
    (0, b"%!PS", "PostScript (EPS), which is not read"),
    (0, b"%PDF", f"a PDF document: {CONVERT}"),
    (0, b"8BPS", f"a Photoshop document: {CONVERT}"),
    (0, b"\0\0\0\x0cjP  ", f"JPEG 2000, which is not read: {CONVERT}"),
    (0, b"\xffO\xffQ", f"JPEG 2000, which is not read: {CONVERT}"),
    (0, b"\0\0\0\x0cJXL ", f"JPEG XL, which is not read: {CONVERT}"),
    (0, b"\xff\x0a", f"JPEG XL, which is not read: {CONVERT}"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"\0\0\x01\xba", "a video (MPEG)"),
    (0, b"\0\0\x01\xb3", "a video (MPEG)"),
    (128, b"DICM", f"a DICOM file: {CONVERT}"),
    (0, b"FUJIFILMCCD-RAW", f"a camera's raw file: {CONVERT}"),
    (0, b"IIU\0", f"a camera's raw file: {CONVERT}"),
    (0, b"IIRO", f"a camera's raw file: {CONVERT}"),
    (0, b"v/1\x01", f"OpenEXR, which is not read: {CONVERT}"),
    (0, b"#?RADIANCE", f"Radiance HDR, which is not read: {CONVERT}"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\0\5\x16\7", "a macOS resource file (._NAME), which holds no image"),
    (0, b"\0\0\1\0", f"an icon (ICO): {CONVERT}"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"II+\0", "a TIFF"),
    (0, b"MM\0+", "a TIFF"),
    (0, b"BM", "a BMP"),
]
# ISO media files have "ftyp" at byte 4 and then name their kind.
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), f"AVIF, which is not read: {CONVERT}"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"),
        f"HEIC (the iPhone's format), which is not read: {CONVERT}",
    ),
    b"crx ": f"a camera's raw file: {CONVERT}",
}


def describe(encoded: bytes) -> str:
    """What a file is that cannot be read as an image, by its first bytes, in words that follow the file's name."""
    if not encoded:
        return "an empty file"
    if encoded[4:8] == b"ftyp":
        # The first brand may be one that HEIC and AVIF share; the list of the others follows it.
        brands = [encoded[start : start + 4] for start in (*range(16, min(encoded[3], 64), 4), 8)]
        return next((BRANDS[brand] for brand in brands if brand in BRANDS), "a video (MP4 or QuickTime)")
    for offset, magic, words in SIGNATURES:
        if encoded[offset : offset + len(magic)] == magic:
            return f"{words}, but damaged, truncated or of a variant that is not read" if words in IMAGES else words
    start = encoded[:1024]
    if not start.strip(b"\0"):
        return "no image: it begins with zero bytes, as after an interrupted copy"
    text = _as_text(start)
    if text is None:
        return f"no image of a known format (JPEG, PNG, WebP, BMP, GIF, TIFF); it begins with {start[:8].hex(' ')}"
    lower = text.lstrip().lower()
    if re.search(r"<!doctype html|<html|<head|<body", lower):
        return "an HTML page: the download gave an error or login page"
    if "<svg" in lower:
        return f"an SVG drawing: {CONVERT}"
    if lower.startswith("<?xml"):
        return "an XML file"
    if lower.startswith(("{", "[")):
        return "a JSON file"
    first = " ".join(text.split())[:40]
    return f"a text file, which begins {json.dumps(first, ensure_ascii=False)}"


def _as_text(start):
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        # The end may cut a character: not final.
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else None
