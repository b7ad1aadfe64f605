"""Video frames of animations, and of films if PyAV is installed: reading, subsampling, rotation, writing."""

import contextlib
import io
import os
import sys
import weakref
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from htc_tf.data import image_io
from htc_tf.errors import UserError
from htc_tf.inference.inputs import Unreadable
from htc_tf.inference.predict_files import Options, predict_files
from htc_tf.inference.results import ImageResult
from htc_tf.inference.video import Video, check_decoder, is_video, read_video, video_ending, write_video

EMPTY = ImageResult(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), None)


@pytest.fixture
def frames():
    """Six frames of 48 x 64 pixels, each brighter than the one before."""
    return [np.full((48, 64, 3), 20 + 40 * number, np.uint8) for number in range(6)]


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_animations(frames, tmp_path, ending):
    path = tmp_path / f"x{ending}"
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest, duration=50)
    assert is_video(path) and video_ending(path) == ".webp"
    video = read_video(path)
    assert video.count == 6 and video.rate == 20
    for frame, expected in zip(video.frames, frames, strict=True):
        assert frame.shape == (48, 64, 3) and np.abs(frame.astype(int) - expected).max() <= 3
    half = read_video(path, every=2)
    assert half.count == 3 and half.rate == 10
    assert [round((frame.mean() - 20) / 40) for frame in half.frames] == [0, 2, 4]


def orange_and_blue_gif(path):
    """An animation whose left half is transparent in every frame."""
    first = Image.new("P", (8, 8), 1)
    first.putpalette([255, 0, 0, 255, 128, 0, 0, 0, 255] + [0] * 759)
    first.paste(0, (0, 0, 4, 8))
    second = first.copy()
    second.paste(2, (4, 0, 8, 8))
    first.save(path, save_all=True, append_images=[second], transparency=0, disposal=2)


def gray_png_of_16_bits(path):
    first, second = (Image.fromarray(np.full((8, 6), value, np.uint16)) for value in (1000, 40_000))
    first.save(path, save_all=True, append_images=[second])


def turned(path):
    first, second = (Image.new("RGB", (8, 6), color) for color in ("red", "blue"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    first.save(path, save_all=True, append_images=[second], exif=exif)


@pytest.mark.parametrize(
    ("name", "save"),
    [("x.gif", orange_and_blue_gif), ("x.png", gray_png_of_16_bits), ("x.png", turned), ("x.webp", turned)],
)
def test_frames_have_the_pixels_of_images(tmp_path, name, save):
    """Transparency, 16 bits and the EXIF orientation are read as in an image."""
    save(tmp_path / name)
    first, second = read_video(tmp_path / name).frames
    np.testing.assert_array_equal(first, image_io.decode((tmp_path / name).read_bytes()))
    assert first.shape == second.shape and (first != second).any() and second.min() < 255


def test_an_animated_png_by_its_own_suffix(frames, tmp_path):
    path = tmp_path / "x.apng"
    first, *rest = map(Image.fromarray, frames)
    first.save(path, "PNG", save_all=True, append_images=rest)
    assert is_video(path) and video_ending(path) == ".webp" and len(list(read_video(path).frames)) == 6
    first.save(path, "PNG")
    assert not is_video(path)


def test_a_written_animation_is_read_back(frames, tmp_path):
    path = tmp_path / "x.webp"
    write_video(path, iter(frames), Fraction(20))
    video = read_video(path)
    assert video.rate == 20 and [round((frame.mean() - 20) / 40) for frame in video.frames] == list(range(6))
    write_video(tmp_path / "none.webp", iter([]), Fraction(20))
    assert not (tmp_path / "none.webp").exists()


def test_a_writer_holds_one_frame(frames, tmp_path):
    """A frame is freed before the next but one is requested; frames written before a failure stay in the file."""
    alive = []

    def draw():
        for number in range(12):
            frame = frames[number % 6].copy()
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(reference() is not None for reference in alive) <= 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_video(tmp_path / "x.webp", draw(), Fraction(20))
    with Image.open(tmp_path / "x.webp") as image:
        assert image.n_frames == 12 and image.size == (64, 48)


def test_still_images_are_no_videos(frames, tmp_path):
    for name in ("x.gif", "x.png", "x.webp", "x.jpg"):
        Image.fromarray(frames[0]).save(tmp_path / name)
        assert not is_video(tmp_path / name)
    (tmp_path / "broken.gif").write_text("text")
    assert not is_video(tmp_path / "broken.gif") and not is_video("nowhere.gif") and is_video("film.MP4")


def test_a_still_png_or_webp_is_not_read_whole(frames, tmp_path, monkeypatch):
    still, *rest = map(Image.fromarray, frames)
    for name in ("x.png", "x.webp"):
        still.save(tmp_path / name)
        still.save(tmp_path / f"moving_{name}", save_all=True, append_images=rest)
    monkeypatch.setattr(image_io, "read_file", lambda path: pytest.fail(f"{path} is read"))
    assert not is_video(tmp_path / "x.png") and not is_video(tmp_path / "x.webp")
    monkeypatch.undo()
    assert is_video(tmp_path / "moving_x.png") and is_video(tmp_path / "moving_x.webp")


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_a_damaged_animation_is_unreadable(frames, tmp_path, ending):
    """Pillow raises IndexError and struct.error on some of these."""
    path = tmp_path / f"x{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 14, 3), np.uint8)
    first, *rest = map(Image.fromarray, noise)
    first.save(path, save_all=True, append_images=rest)
    content = path.read_bytes()
    for length in range(1, len(content), 7):
        path.write_bytes(content[:length])
        with contextlib.suppress(Unreadable):
            if is_video(path):
                list(read_video(path).frames)


def test_an_animation_too_large_for_its_drawing_is_unreadable(tmp_path):
    first, second = (Image.new("L", (16_400, 2), color) for color in (0, 255))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    with pytest.raises(Unreadable, match=r"16400 x 2 pixels, and a drawing may have at most 16383 on a side"):
        read_video(tmp_path / "x.gif")


def test_very_slow_animations(frames, tmp_path):
    """A WebP has 24 bits for a frame's milliseconds."""
    write_video(tmp_path / "x.webp", frames[:2], Fraction(1, 10**8))
    assert read_video(tmp_path / "x.webp").rate == Fraction(1, 16_000)


def test_frames_are_freed_if_the_model_fails_on_all(tmp_path):
    """The errors' tracebacks refer to the frames."""
    alive = []

    def fail(image):
        alive.append(weakref.ref(image))
        assert sum(reference() is not None for reference in alive) <= 3
        raise tf.errors.InternalError(None, None, "failed")

    first, *rest = (Image.new("L", (20, 16), 25 * number) for number in range(8))
    first.save(tmp_path / "x.gif", save_all=True, append_images=rest)
    detector = SimpleNamespace(detect_image=fail)
    outcome = predict_files(detector, [], [tmp_path / "x.gif"], tmp_path / "out", Options())
    reason = "8 frames failed, the first is frame 0: the model failed: failed"
    assert outcome.skipped == [(tmp_path / "x.gif", reason)] and len(alive) == 8


def test_the_reason_of_a_damaged_frame_is_a_string(frames, tmp_path, monkeypatch):
    """An exception would keep what its traceback refers to, the content of the file."""

    def damaged(path, *options):
        yield frames[0]
        raise Unreadable(path, ValueError("damaged"))

    path = tmp_path / "x.mp4"
    monkeypatch.setattr(
        "htc_tf.inference.predict_files.read_video", lambda *given: Video(damaged(*given), 2, Fraction(9))
    )
    monkeypatch.setattr("htc_tf.inference.predict_files.write_video", lambda path, frames, rate: list(frames))
    detector = SimpleNamespace(detect_image=lambda image: EMPTY)
    outcome = predict_files(detector, [], [path], tmp_path / "out", Options())
    assert outcome.skipped == [(path, "damaged")]


def test_a_missing_decoder_is_reported_up_front(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    check_decoder(["x.gif", "x.jpg"])
    with pytest.raises(UserError, match=r"^film\.mp4: .*pip install av"):
        check_decoder(["x.gif", "film.mp4"])


def test_films(frames, tmp_path):
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    path = tmp_path / "film.mp4"
    check_decoder([path])
    odd = [np.pad(frame, [(0, 1), (0, 1), (0, 0)]) for frame in frames]
    write_video(path, iter(odd), Fraction(25))
    video = read_video(path)
    assert video.count == 6 and video.rate == 25
    for frame, expected in zip(video.frames, frames, strict=True):
        assert frame.shape == (48, 64, 3) and np.abs(frame.astype(int) - expected).max() <= 8
    assert len(list(read_video(path, every=4).frames)) == 2
    # A quarter turn to the right, stored as phones do: the matrix in the track's header.
    content, upright = path.read_bytes(), bytes.fromhex("00010000" + "00" * 12 + "00010000")
    right = bytes.fromhex("000000000001000000000000ffff000000000000")
    start = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:start] + right + content[start + len(right) :])
    assert next(read_video(path).frames).shape == (64, 48, 3)
    with av.open(path, "w", format="avi") as container:  # with a title in Latin-1
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(frames[0], "rgb24")), *stream.encode()):
            container.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"caf\xe9!"))
    assert len(list(read_video(path).frames)) == 1
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(Unreadable, match=r"film\.mp4"):
        list(read_video(path).frames)
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=r"64 x 48 pixels, more than max_pixels 3071"):
        read_video(path, max_pixels=64 * 48 - 1)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unreadable, match=r"film\.mp4: is a folder, device or pipe"):
        read_video(path)


def test_frames_larger_than_the_header_says(tmp_path):
    """The size may change within a video."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    path = tmp_path / "film.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, size in enumerate([(64, 48), (64, 48), (640, 480)]):
            file = io.BytesIO()
            Image.new("RGB", size).save(file, "JPEG")
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    assert [frame.shape for frame in read_video(path).frames] == [(48, 64, 3)] * 2 + [(480, 640, 3)]
    frames = read_video(path, max_pixels=64 * 48).frames
    assert next(frames).shape == next(frames).shape == (48, 64, 3)
    with pytest.raises(Unreadable, match="640 x 480 pixels, more than max_pixels 3072"):
        next(frames)


def test_a_film_without_a_frame_is_skipped(frames, tmp_path):
    """As a camera leaves one that loses power: the header is written, and no frame."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    path, output = tmp_path / "film.avi", tmp_path / "out"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(frames[0], "rgb24")), *stream.encode()):
            container.mux(packet)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 4])
    outcome = predict_files(SimpleNamespace(detect_image=lambda image: EMPTY), [], [path], output, Options())
    assert outcome == (0, [(path, "no frame can be read")], [])
    assert [file.name for file in output.iterdir()] == ["predictions.json"]


def test_films_with_colons_in_their_names(frames, tmp_path, monkeypatch):
    """FFmpeg would take what is before the colon for a protocol."""
    pytest.importorskip("av", reason="the extra `video` is not installed")
    monkeypatch.chdir(tmp_path)
    path = Path("2026-11-29T12:30.mp4")
    write_video(path, iter(frames), Fraction(25))
    assert len(list(read_video(path).frames)) == 6
    with pytest.raises(Unreadable, match="No such file"):
        read_video(Path(f"concat:{path}|{path}"))


def test_frames_are_bounded(frames, tmp_path):
    path = tmp_path / "x.gif"
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest)
    with pytest.raises(Unreadable, match=r"64 x 48 pixels, more than --max_pixels 3071: raise it to read the image"):
        read_video(path, 1, 64 * 48 - 1, "--max_pixels")
