"""Tiled detection of images in memory and of files, by a detector that finds squares."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf import predict as predict_command
from htc_tf.errors import ModelFailed, UserError
from htc_tf.inference import windows
from htc_tf.inference.detector import Detector
from htc_tf.inference.inputs import Unreadable
from htc_tf.inference.predict_files import Options, predict_files
from htc_tf.inference.predictor import Predictor
from htc_tf.inference.results import ImageResult
from htc_tf.inference.tile_plan import check_tiles, plan_tiles, tile_starts

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 7, "name": "cat"}]


class SquareDetector:
    """Finds rectangles of one gray level, a level for each object; its class is the level's parity.

    It fails on the level 255, as a model does that runs out of memory.
    """

    def __init__(self):
        self.shapes = []

    def detect_image(self, image):
        self.shapes.append(image.shape)
        levels = np.unique(image[..., 0])[1:]
        if 255 in levels:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        masks = [np.asfortranarray(image[..., 0] == level, np.uint8) for level in levels]
        runs = [coco_mask.encode(mask) for mask in masks]
        boxes = [[y, x, y + h, x + w] for x, y, w, h in map(coco_mask.toBbox, runs)]
        scores = np.float32([run_area / image[..., 0].size for run_area in map(coco_mask.area, runs)])
        order = np.argsort(-scores, kind="stable")
        return ImageResult(
            np.array(boxes, np.float32).reshape(-1, 4)[order],
            scores[order],
            np.int32(levels % 2)[order],
            [{"size": runs[i]["size"], "counts": runs[i]["counts"].decode()} for i in order],
        )


def draw(height, width, objects):
    """Draws objects {level: (top, left, bottom, right)}."""
    image = np.zeros([height, width, 3], np.uint8)
    for level, (top, left, bottom, right) in objects.items():
        image[top:bottom, left:right] = level
    return image


OBJECTS = {
    10: (3, 5, 20, 25),  # inside the first tile
    11: (30, 70, 60, 120),  # on a seam
    12: (61, 80, 95, 110),  # its neighbor
    20: (110, 10, 150, 290),  # through all tiles of its rows
    22: (0, 200, 105, 215),  # through all tiles of its columns
    31: (180, 280, 200, 300),  # in the last corner
}


@pytest.mark.parametrize(
    ("side", "tile", "overlap", "starts"),
    [
        (100, 100, 0.2, [0]),
        (60, 100, 0.2, [0]),
        (101, 100, 0.2, [0, 1]),
        (300, 100, 0, [0, 100, 200]),
        (300, 100, 0.2, [0, 66, 133, 200]),
        (260, 100, 0.2, [0, 80, 160]),
        (1000, 32, 0.75, [968 * i // 121 for i in range(122)]),
    ],
)
def test_tiles_reach_from_end_to_end(side, tile, overlap, starts):
    assert tile_starts(side, tile, overlap) == starts
    assert all(np.diff(starts) <= tile - round(tile * overlap)) and starts[-1] + tile >= side


def test_tiles_have_one_size():
    assert list(plan_tiles(50, 150, 100, 0.2)) == [(0, 0, 50, 100), (0, 50, 50, 100)]


@pytest.mark.parametrize("tile", [31, 0, -5, 64.0, "64", True, None])
def test_tiles_out_of_range(tile):
    with pytest.raises(UserError, match=f"tile={tile}: give"):
        check_tiles(tile, 0.2)


@pytest.mark.parametrize("overlap", [-0.1, 0.76, np.nan, None, "0.2"])
def test_overlaps_out_of_range(overlap):
    with pytest.raises(UserError, match=f"overlap={overlap}: give"):
        check_tiles(64, overlap)


@pytest.mark.parametrize(("tile", "overlap"), [(100, 0.2), (100, 0.5), (64, 0.3), (150, 0.2), (99, 0.1)])
def test_objects_over_seams_are_whole(tile, overlap):
    image, detector = draw(200, 300, OBJECTS), SquareDetector()
    model = Predictor(detector, CATEGORIES)
    found, expected = model(image, tile=tile, overlap=overlap), model(image)
    assert found.image is image
    *tiles, whole = detector.shapes
    assert len(tiles) > 1 and set(tiles) == {(tile, tile, 3)} and whole == (200, 300, 3)
    rows = [[sorted(box) for box in prediction.boxes.tolist()] for prediction in (found, expected)]
    assert sorted(rows[0]) == sorted(rows[1])
    counts = [sorted(run["counts"] for run in prediction.run_lengths) for prediction in (found, expected)]
    assert counts[0] == counts[1] and all(run["size"] == [200, 300] for run in found.run_lengths)
    assert sorted(found.classes) == sorted(expected.classes)
    assert (np.diff(found.scores) <= 0).all()


def test_an_image_no_larger_than_a_tile_is_detected_as_it_is():
    model = Predictor(SquareDetector(), CATEGORIES)
    image = draw(200, 300, OBJECTS)
    for tile in (300, 1024):
        one, other = model(image), model([image], tile=tile)[0]
        for field, expected in zip(other.result, one.result, strict=True):
            np.testing.assert_array_equal(field, expected)
    assert len(model(draw(200, 300, {}), tile=64)) == 0


def test_batches_of_tiles_and_a_network(tiny_model, tiny_data, eagerly):
    experiment, network = tiny_model("NUM_STAGES=1", "IMAGE_MAX_SIDE=100")
    model = Predictor(Detector(network, experiment), [{"id": i, "name": str(i)} for i in range(8)])
    image = model(tiny_data.images / "000000000001.jpg", tile=4096)
    assert image.run_lengths == model(tiny_data.images / "000000000001.jpg").run_lengths
    one, four = (model(image.image, tile=48, batch=batch) for batch in (1, 4))
    assert len(one) > 3
    np.testing.assert_allclose(one.boxes, four.boxes, atol=1e-3)
    assert one.run_lengths == four.run_lengths and one.masks.shape[1:] == image.size
    assert len(one) > len(image)


def predict(paths, folder, **options):
    outcome = predict_files(SquareDetector(), CATEGORIES, paths, folder, Options(threshold=0, tile=64, **options))
    return outcome, json.loads((folder / "predictions.json").read_text())


def test_files_are_detected_in_tiles(tmp_path):
    Image.fromarray(draw(200, 300, OBJECTS)).save(tmp_path / "x.png")
    Image.fromarray(draw(200, 300, {255: (190, 290, 195, 295)})).save(tmp_path / "fails.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    paths = [tmp_path / name for name in ("fails.png", "damaged.png", "x.png")]
    outcome, entries = predict(paths, tmp_path / "out")
    assert outcome.done == 1 and [path.name for path, _ in outcome.skipped] == ["fails.png", "damaged.png"]
    assert outcome.skipped[0][1] == "the model failed: OOM"
    assert sorted(entry["bbox"] for entry in entries) == sorted([x, y, r - x, b - y] for y, x, b, r in OBJECTS.values())
    with Image.open(tmp_path / "out" / "x.png") as drawn:
        assert drawn.size == (640, 427)
    with pytest.raises(ModelFailed):
        Predictor(SquareDetector(), CATEGORIES)(tmp_path / "fails.png", tile=64)


@pytest.mark.parametrize("flag", ["--semantic", "--cutouts"])
def test_what_needs_the_whole_image_is_refused(flag, monkeypatch, capsys):
    flags = ["--checkpoint", "none", "--input", "none", "--output", "none", "--tile", "64", flag]
    monkeypatch.setattr(sys, "argv", ["predict", *flags])
    with pytest.raises(SystemExit) as ended:
        predict_command.main()
    assert ended.value.code == 2 and "leave --semantic and --cutouts out" in capsys.readouterr().err


def test_frames_are_detected_in_tiles(tmp_path):
    frames = [Image.fromarray(draw(100, 150, {10: (20, left, 40, left + 80)})) for left in (0, 40)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    outcome, entries = predict([tmp_path / "x.webp"], tmp_path / "out")
    assert outcome.done == 1 and [entry["bbox"] for entry in entries] == [[0, 20, 80, 20], [40, 20, 80, 20]]


def test_a_tiff_is_read_in_windows(tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    monkeypatch.setattr(windows, "WHOLE", 0)
    path = tmp_path / "x.tif"
    Image.fromarray(draw(200, 300, OBJECTS)).save(path, tiffinfo={278: 16, 274: 6})  # strips, rotated
    found = Predictor(SquareDetector(), CATEGORIES)(path, tile=64)
    assert found.size == (300, 200) and found.image.shape == (300, 200, 3)
    upright = np.rot90(draw(200, 300, OBJECTS), -1)
    np.testing.assert_array_equal(found.image, upright)
    assert sorted(mask.sum() for mask in found.masks) == sorted((b - y) * (r - x) for y, x, b, r in OBJECTS.values())
    assert all(len(np.unique(upright[mask])) == 1 for mask in found.masks)

    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # Pillow writes the pixels first
    outcome, entries = predict([path], tmp_path / "out")
    assert outcome.done == 0 and "damaged" in outcome.skipped[0][1] and entries == []
    with pytest.raises(Unreadable):
        Predictor(SquareDetector(), CATEGORIES)(path, tile=64)
