"""Tracking: numbers that stay with the moving objects of a drawn scene, by a stand-in and by supervision itself."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from htc_tf.errors import UserError
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.results import ImageResult
from htc_tf.inference.tracking import Tracker, check_tracker

FRAMES, SIDE = 40, 160
CATEGORIES = [{"id": 1, "name": "disk"}, {"id": 2, "name": "square"}]
# Class, radius, color, start and step of the center as y, x, in pixels. The first two cross; the third and the fourth,
# of two classes, lie on each other; the last turns back.
SCENE = [
    (0, 14, (200, 40, 40), (30, 20), (0.8, 2.5)),
    (0, 16, (40, 200, 40), (60, 130), (-0.8, -2.5)),
    (0, 12, (40, 40, 200), (110, 30), (0.2, 2.0)),
    (1, 12, (200, 200, 40), (112, 31), (0.2, 2.0)),
    (1, 10, (200, 40, 200), (140, 120), (0.0, -4.0)),
]


def boxes_at(frame):
    """Returns the ground truth of a frame: [5, 4] float32, y1, x1, y2, x2."""
    centers = np.array([start for *_, start, _ in SCENE]) + frame * np.array([step for *_, step in SCENE])
    centers[4, 1] = np.hypot(centers[4, 1] - 60, 20) + 50  # turns back at x = 70
    radii = np.array([row[1] for row in SCENE])[:, None]
    return np.hstack([centers - radii, centers + radii]).astype(np.float32)


def drawn(frame):
    """Returns the image of a frame, [160, 160, 3] uint8."""
    image = Image.new("RGB", (SIDE, SIDE), (230, 230, 230))
    pen = ImageDraw.Draw(image)
    for (label, _, color, *_), (y1, x1, y2, x2) in zip(SCENE, boxes_at(frame).tolist(), strict=True):
        (pen.rectangle if label else pen.ellipse)((x1, y1, x2, y2), fill=color)
    return np.asarray(image)


def found_at(frame, random):
    """Returns an ImageResult of the ground truth in a random order, and the objects' true numbers."""
    boxes, classes = boxes_at(frame), np.int32([row[0] for row in SCENE])
    boxes += random.normal(0, 0.5, boxes.shape).astype(np.float32)
    scores = random.uniform(0.6, 0.99, len(SCENE)).astype(np.float32)
    if frame % 7 == 3:
        scores[0] = 0.15  # too low to begin a track
    there = random.permutation(len(SCENE))
    if 15 <= frame < 20:
        there = there[there != 1]  # not detected for a while
    return ImageResult(boxes[there], scores[there], classes[there], None), there


class Detections(SimpleNamespace):
    """What `supervision.Detections` does with an index."""

    def __getitem__(self, rows):
        fields = {name: value[rows] for name, value in vars(self).items() if name != "data"}
        return Detections(**fields, data={name: value[rows] for name, value in self.data.items()})


class NearestCenter:
    """A tracker with ByteTrack's interface: a box continues the track whose center was nearest, if it was near."""

    def __init__(self, track_activation_threshold, frame_rate):
        self.begins, self.centers = track_activation_threshold + 0.1, {}

    def update_with_detections(self, detections):
        if not len(detections.xyxy):
            return Detections(tracker_id=np.zeros(0, int), data={})
        detections.tracker_id = np.full(len(detections.xyxy), -1)
        for row, (x1, y1, x2, y2) in enumerate(detections.xyxy):
            center = np.array([x1 + x2, y1 + y2]) / 2
            far = {number: np.abs(center - other).max() for number, other in self.centers.items()}
            number = min(far, key=far.get, default=0)
            if far.get(number, 99) > 16:
                if detections.confidence[row] < self.begins:
                    continue
                number = len(self.centers) + 1
            self.centers[number] = center
            detections.tracker_id[row] = number
        tracked = np.flatnonzero(detections.tracker_id >= 0)[::-1]
        return detections[tracked]


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=Detections, ByteTrack=NearestCenter))


def follow(threshold=0.3):
    """Returns the numbers of each true object over the frames, in which it was detected."""
    tracker, random = Tracker(25, threshold), np.random.default_rng(0)
    numbers = {number: [] for number in range(len(SCENE))}
    for frame in range(FRAMES):
        result, there = found_at(frame, random)
        tracked = tracker.update(result)
        assert tracked.track_ids.dtype == np.int32 and tracked.boxes is result.boxes
        for number, track_id in zip(there, tracked.track_ids, strict=True):
            numbers[number].append(int(track_id))
    return numbers


def test_numbers_of_rows_whatever_the_order_of_the_tracker(stand_in):
    """Objects far from each other keep their numbers; each class begins its own tracks, and no number occurs twice."""
    tracker = Tracker(25, 0.3)
    boxes = np.float32([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10], [80, 0, 90, 10]])
    result = ImageResult(boxes, np.float32([0.9, 0.8, 0.7, 0.05]), np.int32([0, 0, 1, 0]), None)
    assert tracker.update(result).track_ids.tolist() == [2, 1, 3, 0]
    moved = ImageResult(boxes[[1, 2]] + 2, np.float32([0.2, 0.9]), np.int32([0, 1]), None)
    assert tracker.update(moved).track_ids.tolist() == [1, 3]
    nothing = ImageResult(boxes[:0], np.float32([]), np.int32([]), None)
    assert tracker.update(nothing).track_ids.shape == (0,)
    faint = ImageResult(boxes[3:], np.float32([0.25]), np.int32([0]), None)
    assert tracker.update(faint).track_ids.tolist() == [0]


def test_bytetrack_follows_a_moving_scene():
    supervision = pytest.importorskip("supervision", reason="the extra `supervision` is not installed")
    if not hasattr(supervision, "ByteTrack"):
        pytest.skip("this supervision has no ByteTrack")
    check_tracker()
    numbers = follow()
    assert [len(row) for row in numbers.values()] == [FRAMES, FRAMES - 5, FRAMES, FRAMES, FRAMES]
    unchanged = [set(row) for row in numbers.values()]
    assert all(len(row) == 1 for row in unchanged), numbers
    assert set.union(*unchanged) == {1, 2, 3, 4, 5}


def test_a_missing_or_too_new_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(__version__="0.31.2"))
    with pytest.raises(UserError, match=r"supervision 0\.31\.2 has no ByteTrack: pip install"):
        check_tracker()
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"--track needs supervision, which is not installed: pip install"):
        check_tracker()


def test_numbers_in_results_drawings_and_parts(stand_in):
    image = drawn(0)
    result, _ = found_at(0, np.random.default_rng(1))
    prediction = Prediction(image, Tracker(25, 0.3).update(result), CATEGORIES)
    assert sorted(prediction.track_ids) == [1, 2, 3, 4, 5]
    assert [entry["track_id"] for entry in prediction.to_coco()] == prediction.track_ids.tolist()
    part = prediction[[3, 1]]
    assert part.track_ids.tolist() == prediction.track_ids[[3, 1]].tolist()
    assert prediction.to_supervision().tracker_id.tolist() == prediction.track_ids.tolist()
    plain = Prediction(image, result, CATEGORIES)
    assert (prediction.draw() != plain.draw()).any()
    assert plain.track_ids is None and "track_id" not in plain.to_coco()[0]
    some = Prediction(image, result._replace(track_ids=np.int32([7, 0, 0, 0, 0])), CATEGORIES)
    assert ["track_id" in entry for entry in some.to_coco()] == [True, False, False, False, False]


class Detector:
    """Detects the disks and squares of `drawn` by their colors."""

    def detect_image(self, image):
        boxes, classes = [], []
        for label, _, color, *_ in SCENE:
            rows, columns = np.nonzero(np.abs(image.astype(int) - color).max(axis=2) < 50)
            if len(rows) > 30:
                boxes.append([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
                classes.append(label)
        scores = np.linspace(0.9, 0.7, len(boxes)).astype(np.float32)
        return ImageResult(np.float32(boxes).reshape(-1, 4), scores, np.int32(classes), None)


def predict_scene(folder, track):
    from htc_tf.inference.predict_files import Options, predict_files

    first, *rest = (Image.fromarray(drawn(frame)) for frame in range(12))
    first.save(folder / "scene.webp", save_all=True, append_images=rest, duration=40, lossless=True)
    options = Options(track=track)
    outcome = predict_files(Detector(), CATEGORIES, [folder / "scene.webp"], folder / "out", options)
    assert outcome.done == 1 and not outcome.skipped
    return json.loads((folder / "out" / "predictions.json").read_text())


@pytest.mark.parametrize("real", [False, True])
def test_a_video_from_its_file_to_numbers_in_predictions(tmp_path, request, real):
    supervision = pytest.importorskip("supervision") if real else request.getfixturevalue("stand_in")
    if real and not hasattr(supervision, "ByteTrack"):
        pytest.skip("this supervision has no ByteTrack")
    entries = predict_scene(tmp_path, track=True)
    assert {entry["frame"] for entry in entries} == set(range(12)) and all("track_id" in entry for entry in entries)
    # The squares move apart and are never hidden.
    squares = [entry for entry in entries if entry["category_id"] == 2]
    first = {entry["track_id"]: entry["bbox"] for entry in squares if entry["frame"] == 0}
    assert len(squares) == 24 and len({entry["track_id"] for entry in squares}) == 2
    for entry in squares:
        start, step = first[entry["track_id"]], -3.75 if first[entry["track_id"]][1] > 125 else 2
        assert abs(entry["bbox"][0] - start[0] - step * entry["frame"]) <= 5


def test_without_the_flag_nothing_is_numbered(tmp_path):
    assert not any("track_id" in entry for entry in predict_scene(tmp_path, track=False))
