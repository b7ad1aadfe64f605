"""Video files, frame by frame: animated GIF, WebP and PNG by Pillow, all other formats by PyAV if it is installed.

Pillow's readers raise any exception on damaged files, IndexError and struct.error included.
"""

import io
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from htc_tf.data import image_io
from htc_tf.data.image_checks import MAX_PARTS
from htc_tf.errors import UserError
from htc_tf.inference.inputs import MAX_PIXELS, VIDEOS, Unreadable, Url, raise_limit
from htc_tf.visualization.saving import LONGEST

ANIMATIONS = {".gif", ".webp", ".png", ".apng"}
DEFAULT_MILLISECONDS = 100  # duration of a frame if the file has none
ANIMATED = 2  # flag in the header of a WebP
MAX_SIDE = LONGEST[".webp"]  # encoders of H.264 have nearly the same limit
SLOWEST = Fraction(1, 16_000)  # frames per second; a WebP has 24 bits for a frame's milliseconds


class Video(NamedTuple):
    """An open video."""

    frames: Iterator[np.ndarray]  # iterator of [H, W, 3] uint8 RGB
    count: int  # type: ignore[assignment]  # number of frames, 0 if the file does not contain it
    rate: Fraction  # frames per second


def is_video(path: Path | Url) -> bool:
    """Returns True for a video suffix, or for an image format that may be animated if there is a second frame.

    False for a URL: of what it names, one image is read.
    """
    if isinstance(path, Url):
        return False
    path = Path(path)
    if path.suffix.lower() in VIDEOS:
        return True
    if path.suffix.lower() not in ANIMATIONS:
        return False
    try:
        if not path.is_file() or _is_still(path):
            return False
        return getattr(image_io.open_image(image_io.read_file(path)), "is_animated", False)
    except Exception:
        return False  # reading it as an image reports why


def _is_still(path):
    """Returns True if the start of a PNG or WebP says that it is no animation, as for nearly all such files."""
    with path.open("rb") as file:
        start = file.read(21)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return start[12:16] != b"VP8X" or not start[20] & ANIMATED
        if not start.startswith(b"\x89PNG"):
            return False
        file.seek(8)
        for _ in range(MAX_PARTS):
            length, name = struct.unpack(">I4s", file.read(8))
            if name in (b"IDAT", b"acTL"):  # the chunk of an animation comes before the pixels
                return name == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)  # with the checksum
    return False


def video_ending(path: Path | Url) -> str:
    """Returns the suffix of a video's drawing: .mp4, or .webp for an animation that Pillow reads."""
    return ".mp4" if Path(path).suffix.lower() in VIDEOS else ".webp"


def check_decoder(paths: Sequence[Path | Url]) -> None:
    """Checks that a decoder for all files is installed, before anything slow begins.

    Raises:
        UserError: PyAV is missing; the message names the first file that needs it.
    """
    encoded = [path for path in paths if not isinstance(path, Url) and Path(path).suffix.lower() in VIDEOS]
    if encoded:
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"{encoded[0]}: videos other than animated GIF and WebP are decoded by PyAV, which is not installed: "
                "pip install av (the extra htc_tf[video])"
            ) from error


def read_video(path: Path | Url, every: int = 1, max_pixels: int = MAX_PIXELS, limit: str = "max_pixels") -> Video:
    """Opens a video with every `every`-th frame from the first on, rotated by the file's metadata.

    Frames of an animation have the pixels that `data.image_io` reads of an image: transparency, 16 bits, orientation.

    Args:
        path: Path.
        every: int, interval of the frames.
        max_pixels: int, limit on the pixels of a frame.
        limit: Name of that limit in messages: the flag of a command.
    Returns:
        Video.
    Raises:
        Unreadable: The file cannot be decoded. Damage further on is raised while `frames` is iterated.
    """
    if video_ending(path) == ".mp4":
        return _read_encoded(path, every, max_pixels, limit)
    try:
        animation = image_io.open_image(image_io.read_file(path))
        image_io.check_pixels(animation.size, max_pixels, raise_limit(max_pixels, limit))
        animation.load()  # a WebP's duration is known once a frame is loaded
        milliseconds = animation.info.get("duration") or DEFAULT_MILLISECONDS
        count = -(-animation.n_frames // every)  # type: ignore[attr-defined]
    except Exception as error:
        raise Unreadable(path, error) from error
    _check_sides(path, *animation.size)
    return Video(_animation_frames(path, every), count, Fraction(1000) / Fraction(milliseconds) / every)


def write_video(path: Path, frames: Iterable[np.ndarray], rate: Fraction) -> None:
    """Writes frames [H, W, 3] uint8 of one size as MP4 (H.264) or animated WebP, by the path's suffix."""
    rate = max(rate, SLOWEST).limit_denominator(10**6)  # FFmpeg counts in 32 bits
    if path.suffix == ".webp":
        _write_animation(path, frames, round(1000 / rate))
        return
    import av

    with av.open(os.path.abspath(path), "w") as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
                # yuv420p halves the chroma's sides, so they must be even.
                stream.height, stream.width = (side - side % 2 for side in frame.shape[:2])
                stream.pix_fmt = "yuv420p"
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def _write_animation(path, frames, milliseconds):
    """Writes an animated WebP frame by frame, since Pillow would hold all frames in memory until the end.

    Pillow encodes each frame as a still WebP; the container follows
    https://developers.google.com/speed/webp/docs/riff_container.
    """
    file = None
    try:
        for frame in frames:
            still = io.BytesIO()
            Image.fromarray(frame).save(still, "WEBP", quality=85, method=2)
            size = b"".join(_three_bytes(side - 1) for side in frame.shape[1::-1])
            if file is None:
                file = path.open("wb")
                # The file's length is filled in at the end. ANIM: black background, endless loop.
                file.write(b"RIFF" + bytes(4) + b"WEBP" + _chunk(b"VP8X", bytes([ANIMATED, 0, 0, 0]) + size))
                file.write(_chunk(b"ANIM", bytes(6)))
            placed = bytes(6) + size + _three_bytes(milliseconds) + b"\x02"  # at the top left, over the last frame
            file.write(_chunk(b"ANMF", placed + still.getvalue()[12:]))  # without the still's own RIFF header
    finally:
        if file is not None:
            with file:
                length = file.tell() - 8
                file.seek(4)
                file.write(struct.pack("<I", length))


def _chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _three_bytes(number):
    return struct.pack("<I", number)[:3]


def _animation_frames(path, every):
    try:
        animation = image_io.open_image(image_io.read_file(path))
        for number in range(0, animation.n_frames, every):
            animation.seek(number)
            yield image_io.to_rgb(animation)
    except Exception as error:
        raise Unreadable(path, error) from error


def _check_sides(path, width, height):
    """Raises Unreadable for a video whose drawing cannot be written."""
    if max(width, height) > MAX_SIDE:
        raise Unreadable(path, f"{width} x {height} pixels, and a drawing may have at most {MAX_SIDE} on a side")


def _read_encoded(path, every, max_pixels, limit):
    import av

    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait
        raise Unreadable(path, "is a folder, device or pipe, not a file")
    try:
        # An absolute path cannot be one of FFmpeg's URLs, whatever colons it has. Titles are in any encoding.
        container = av.open(os.path.abspath(path), metadata_errors="replace")
        stream = container.streams.video[0]
    except (av.FFmpegError, IndexError) as error:
        raise Unreadable(path, f"no video that PyAV decodes ({getattr(error, 'strerror', None) or error})") from error
    if stream.codec_context is None:
        raise Unreadable(path, "a video of a codec that PyAV does not know")

    def check(size):
        try:
            image_io.check_pixels(size, max_pixels, raise_limit(max_pixels, limit))
        except image_io.ImageError as error:
            raise Unreadable(path, error) from error

    check((stream.width, stream.height))
    _check_sides(path, stream.width, stream.height)
    stream.thread_type = "AUTO"
    rate = Fraction(stream.average_rate or Fraction(1000, DEFAULT_MILLISECONDS)) / every
    return Video(_encoded_frames(path, container, stream, every, check), -(-stream.frames // every), rate)


def _encoded_frames(path, container, stream, every, check):
    import av

    with container:
        try:
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    check((frame.width, frame.height))  # frames may be larger than the header says
                    # Phones store frames sideways, with the rotation to apply.
                    turns = round(getattr(frame, "rotation", 0) / 90)
                    yield np.rot90(frame.to_ndarray(format="rgb24"), turns)
        except av.FFmpegError as error:
            raise Unreadable(path, f"damaged ({error.strerror or error})") from error
