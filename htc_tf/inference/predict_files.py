"""Prediction on files: images and videos are read, detected and drawn, and the results saved as predictions.json.

Files that cannot be read are skipped and reported. `label_files` has the formats of annotation tools.
"""

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from htc_tf.errors import ModelFailed, printable
from htc_tf.inference import label_files
from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.inputs import MAX_PIXELS, Unreadable, read_image
from htc_tf.inference.label_files import LabelWriter, predictions
from htc_tf.inference.output_names import InputFile, cut_out_name, name_files, refuse_replacing
from htc_tf.inference.prediction import THRESHOLD, Prediction
from htc_tf.inference.results import ImageDetector
from htc_tf.inference.semantic_map import draw_labels
from htc_tf.inference.tile_plan import OVERLAP
from htc_tf.inference.tiling import detect_tiled
from htc_tf.inference.tracking import Tracker
from htc_tf.inference.video import is_video, read_video, video_ending, write_video
from htc_tf.ops.polygons import TOLERANCE
from htc_tf.progress import progress_bar
from htc_tf.visualization.cutouts import cut_outs
from htc_tf.visualization.saving import LONGEST, save

CUTOUTS, SEMANTIC = "cutouts", "semantic"  # folders in the output


class Options(NamedTuple):
    """What is read and saved.

    Attributes:
        threshold: Lowest score that is drawn, cut out, or saved in `formats`; predictions.json has all detections.
        ending: Suffix of the drawings of images.
        cutouts: If True, each object of an image is saved with alpha in output/cutouts.
        semantic: If True, the semantic map of each image is drawn in output/semantic. It comes from the pass of the
            detections or, with test-time augmentation, from one further pass at the configured size.
        formats: Names in `label_files.FORMATS`; the objects of images are also saved in these.
        tolerance: Pixels by which the polygons in `formats` may differ from the masks' outlines.
        every: Interval of the frames of a video that are processed.
        batch: Images or frames of a video that are detected at once.
        track: If True, the objects of a video keep their numbers over its frames, in the drawing and the results.
        max_pixels: Limit on the pixels of an image or frame that is decoded as a whole.
        tile: Side in pixels of the tiles in which images and frames are detected; None to detect in them as they are.
        overlap: Lowest overlap of neighboring tiles, as a share of their side.
    """

    threshold: float = THRESHOLD
    ending: str = ".png"
    cutouts: bool = False
    semantic: bool = False
    formats: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    every: int = 1
    batch: int = 1
    track: bool = False
    max_pixels: int = MAX_PIXELS
    tile: int | None = None
    overlap: float = OVERLAP


class Outcome(NamedTuple):
    """What became of the input files.

    Attributes:
        done: Number of files that are processed to their end.
        skipped: [(path, reason)] of the others: unreadable files and those on which the model failed. Of a video that
            breaks off, or with failed frames, the other frames are kept.
        left_out: [(path, reason)] of what the files of `Options.formats` do not contain.
    """

    done: int
    skipped: list[tuple[Path, str]]
    left_out: list[tuple[Path, str]]


def predict_files(
    detector: ImageDetector,
    categories: list[dict[str, Any]],
    paths: Sequence[Path],
    output: Path,
    options: Options,
) -> Outcome:
    """Detects objects in each image and each frame of each video, and saves drawings and results.

    Standard error names what is skipped or left out as soon as it is, so that an interruption loses none of it.

    Args:
        detector: `inference.detector.Detector` or `inference.exported.ExportedDetector`.
        categories: K dicts {"id", "name"} by class index.
        paths: Images and videos.
        output: Folder for the drawings and predictions.json.
        options: Options.
    Raises:
        UserError: A drawing would replace an input image, or the output cannot be written.
    """
    videos = {path for path in paths if is_video(path)}
    files = name_files(paths, [video_ending(path) if path in videos else options.ending for path in paths])
    writers = {name: label_files.find_writer(name) for name in options.formats}
    images = [file for file in files if file.path not in videos]
    names = [file.drawing for file in files] + [predictions.RESULTS]
    names += [name for writer in writers.values() for name in writer.paths(images)]
    if options.semantic:
        names += [f"{SEMANTIC}/{file.drawing}" for file in images]
    if options.cutouts and (output / CUTOUTS).is_dir():  # their names follow from what is detected: any file in there
        names += [f"{CUTOUTS}/{path.name}" for path in (output / CUTOUTS).iterdir()]
    refuse_replacing(paths, names, output)
    with contextlib.ExitStack() as stack:

        def opened(writer):
            return stack.enter_context(contextlib.closing(writer(output, categories, options.tolerance)))

        results = opened(predictions.Writer)
        labels = {name: opened(writer) for name, writer in writers.items()}
        bar = stack.enter_context(progress_bar(total=len(files), unit="img", desc="predict"))
        job = Job(detector, categories, files, output, options, results, labels, bar)
        # Consecutive images share batches; a video is written on its own.
        for moving, group in itertools.groupby(files, lambda file: file.path in videos):
            if moving:
                for file in group:
                    job.predict_video(file)
            else:
                job.predict_images(group)
    # A set: a video is listed twice if frames failed and it broke off.
    return Outcome(len(paths) - len({path for path, _ in job.skipped}), job.skipped, job.left_out)


class Job:
    """Prediction on files while it runs. The arguments are those of `predict_files`, its open files and its bar."""

    def __init__(
        self,
        detector: ImageDetector,
        categories: Sequence[dict[str, Any]],
        files: Sequence[InputFile],
        output: Path,
        options: Options,
        results: predictions.Writer,
        labels: dict[str, LabelWriter],
        bar: tqdm,
    ) -> None:
        self.detector, self.categories, self.output, self.options = detector, categories, output, options
        self.results = results  # label_files.predictions.Writer
        self.labels = labels  # Writer by name of a format
        self.bar = bar
        taken = {file.image_id for file in files}
        self.frame_ids = (number for number in itertools.count(len(files)) if number not in taken)
        self.skipped, self.left_out = [], []

    def skip(self, path: Path, reason: object) -> None:
        self.skipped.append((path, str(reason)))
        self._say(f"skipped {path}: {reason}")

    def skip_whole(self, file: InputFile, reason: object) -> None:
        self.skip(file.path, reason)
        self.bar.update()

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.append((path, reason))
        self._say(f"left out of {path}: {reason}")

    def _say(self, line):
        self.bar.write(printable(line), file=sys.stderr)

    def detect(
        self, images: Iterable[tuple[Any, Any]], failed: Callable[[Any, Any], None], semantic: bool = False
    ) -> Iterator[tuple[Any, Prediction]]:
        """Yields (key, Prediction) of each (key, image), in their order, as `detect_in_batches` does."""
        if self.options.tile is not None:
            yield from self._detect_tiled(images, failed)
            return
        detected = detect_in_batches(self.detector, images, self.options.batch, failed, semantic)
        for key, image, result in detected:
            yield key, Prediction(image, result, self.categories)
            self.bar.update()

    def _detect_tiled(self, images, failed):
        """Yields (key, Prediction) of each (key, path or image)."""
        options = self.options
        for key, source in images:
            try:
                image, size, result = detect_tiled(
                    self.detector, source, options.tile, options.overlap, options.batch, self._read
                )
            except (Unreadable, ModelFailed) as error:
                failed(key, getattr(error, "reason", error))
            else:
                yield key, Prediction(image, result, self.categories, size)
                self.bar.update()

    def predict_images(self, files: Iterable[InputFile]) -> None:
        for file, prediction in self.detect(self._read_images(files), self.skip_whole, self.options.semantic):
            self.results.add(file, prediction)
            prediction.draw(self.output / file.drawing, self.options.threshold)
            self._save_labels(file, prediction)
            if self.options.cutouts:
                save_cut_outs(prediction, self.options.threshold, self.output / CUTOUTS / file.drawing)
            if self.options.semantic and prediction.result.labels is not None:
                drawn = draw_labels(prediction.image, prediction.result.labels, self.categories)
                save(drawn, self.output / SEMANTIC / file.drawing)

    def _read(self, source):
        """Returns a file's image, or the frame that is given instead."""
        if isinstance(source, np.ndarray):
            return source
        image = read_image(source, self.options.max_pixels, "--max_pixels")
        longest = LONGEST.get(self.options.ending, math.inf)
        if max(image.shape) > longest:
            size = f"{image.shape[1]} x {image.shape[0]} pixels"
            raise Unreadable(source, f"{size}, and a drawing as {self.options.ending} has at most {longest} on a side")
        return image

    def _read_images(self, files):
        for file in files:
            try:
                yield file, self._read(file.path) if self.options.tile is None else file.path
            except Unreadable as error:
                self.skip_whole(file, error.reason)

    def _save_labels(self, file, prediction):
        if not self.labels:
            return
        shown = prediction.above(self.options.threshold)
        visible = shown.visible()
        if hidden := len(shown) - len(visible):
            self.leave_out(file.path, f"{hidden} object{'s' * (hidden > 1)} without a pixel in the mask")
        for name, writer in self.labels.items():
            try:
                writer.add(file, visible)
            except label_files.NotSaved as error:
                self.leave_out(file.path, f"not saved as {name}: {error}")

    def predict_video(self, file: InputFile) -> None:
        try:
            video = read_video(file.path, self.options.every, self.options.max_pixels, "--max_pixels")
        except Unreadable as error:
            self.skip_whole(file, error.reason)
        else:
            self.bar.total += max(video.count - 1, 0)
            write_video(self.output / file.drawing, self._draw_frames(file, video), video.rate)

    def _read_frames(self, file, video):
        index = None
        try:
            for index, frame in enumerate(video.frames):
                yield index, frame
        except Unreadable as error:
            self.skip(file.path, error.reason)  # the frames before it are kept
        else:
            if index is None:
                self.skip_whole(file, "no frame can be read")

    def _draw_frames(self, file, video):
        """Yields the drawing of each frame, after its results are saved."""
        failed = []  # (index, reason) of frames; the error itself would keep its frame in memory
        frames = self._read_frames(file, video)
        tracker = Tracker(video.rate, self.options.threshold) if self.options.track else None
        for index, prediction in self.detect(frames, lambda index, error: failed.append((index, str(error)))):
            frame = file._replace(image_id=next(self.frame_ids), frame=index * self.options.every)
            if tracker:
                tracked = tracker.update(prediction.result)
                prediction = Prediction(prediction.image, tracked, self.categories, prediction.size)
            self.results.add(frame, prediction)
            yield prediction.draw(None, self.options.threshold)
        if failed:
            index, reason = failed[0]
            first = f"the first is frame {index * self.options.every}: {reason}"
            self.skip(file.path, f"{len(failed)} frames failed, {first}")


def save_cut_outs(prediction: Prediction, threshold: float, path: Path) -> None:
    """Saves NAME_01_person.png, ... beside `path`, whose stem is NAME."""
    for number, (name, _, piece) in enumerate(cut_outs(prediction, threshold), 1):
        save(piece, path.with_name(cut_out_name(path.stem, number, name)))
