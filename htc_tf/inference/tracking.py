"""Tracking: the objects of a video's frames get numbers that stay with them, by supervision's ByteTrack.

ByteTrack (arXiv:2110.06864) follows boxes by a Kalman filter and their overlap. It knows no classes, so each class has
a tracker of its own: an object that covers one of another class cannot take its number.
"""

import warnings
from fractions import Fraction

import numpy as np

from htc_tf.errors import UserError
from htc_tf.inference.results import ImageResult

INSTALL = "pip install 'supervision>=0.25,<0.30' (the extra htc_tf[supervision])"
LOWEST = 0.1  # score of the detections that may continue a track, ByteTrack's own
RISE = 0.1  # ByteTrack starts a track at this much above its `track_activation_threshold`


def check_tracker() -> None:
    """Checks that ByteTrack is installed, before anything slow begins.

    Raises:
        UserError: supervision is missing or too new.
    """
    try:
        import supervision
    except ImportError as error:
        raise UserError(f"--track needs supervision, which is not installed: {INSTALL}") from error
    if not hasattr(supervision, "ByteTrack"):
        raise UserError(f"--track: supervision {supervision.__version__} has no ByteTrack: {INSTALL}")


class Tracker:
    """Numbers the objects of one video, frame after frame.

    A track starts at a score of at least `threshold`, or of 0.1 if that is more, and continues with lower scores. An
    object that is not detected keeps its track for a second.
    """

    def __init__(self, rate: float | Fraction, threshold: float) -> None:
        """
        Args:
            rate: Frames per second.
            threshold: float, lowest score that begins a track; below 0.1 it has the effect of 0.1.
        """
        self.rate, self.threshold = float(rate), threshold
        self.trackers = {}  # ByteTrack by class index
        self.numbers = {}  # number by class index and ByteTrack's own number

    def update(self, result: ImageResult) -> ImageResult:
        """Returns the ImageResult of the next frame with `track_ids`."""
        track_ids = np.zeros(len(result.scores), np.int32)
        trackable = result.scores >= min(LOWEST, self.threshold)
        # A class without an object in this frame is updated too: its tracks grow old.
        for label in sorted({*self.trackers, *result.classes[trackable].tolist()}):
            rows = np.flatnonzero(trackable & (result.classes == label))
            for row, number in self._follow(label, result, rows):
                track_ids[row] = self.numbers.setdefault((label, number), len(self.numbers) + 1)
        return result._replace(track_ids=track_ids)

    def _follow(self, label, result, rows):
        """Updates the tracker of one class; returns pairs of a tracked row and the tracker's own number of it."""
        import supervision

        if label not in self.trackers:
            with warnings.catch_warnings():  # supervision 0.28 announces the end of ByteTrack
                warnings.simplefilter("ignore")
                activation = max(self.threshold - RISE, 0)
                self.trackers[label] = supervision.ByteTrack(activation, frame_rate=self.rate)
        tracked = self.trackers[label].update_with_detections(
            supervision.Detections(
                xyxy=result.boxes[rows][:, [1, 0, 3, 2]],
                confidence=result.scores[rows],
                class_id=result.classes[rows].astype(int),
                data={"row": rows},  # the result has other rows in another order
            )
        )
        return zip(tracked.data.get("row", ()), tracked.tracker_id.tolist(), strict=True)
