"""Prediction on files: images and videos are read, detected and drawn, and the results saved as predictions.json.

Files that cannot be read are skipped and reported. predictions.json is in COCO's results format.
"""

import itertools
import json
import re

from htc_tf.errors import UserError
from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.inputs import Unreadable, read_image
from htc_tf.inference.output_names import cut_out_name, drawing_names, refuse_replacing
from htc_tf.inference.prediction import Prediction, save
from htc_tf.inference.semantic_map import draw_labels
from htc_tf.inference.video import is_video, read_video, video_ending, write_video
from htc_tf.progress import progress_bar
from htc_tf.visualization.cutouts import cut_outs

RESULTS = "predictions.json"


def predict_files(
    detector, categories, paths, output, threshold, ending=".png", cutouts=False, semantic=False, every=1, batch=1
):
    """Detects objects in each image and each frame of each video, and saves drawings and results.

    Args:
        detector: `inference.detector.Detector` or `inference.exported.ExportedDetector`.
        categories: K dicts {"id", "name"} by class index.
        paths: Paths of images and videos.
        output: Path of the folder for the drawings and predictions.json.
        threshold: float, lowest score that is drawn or cut out; the results contain all detections.
        ending: Suffix of the drawings of images.
        cutouts: If True, each object of an image is saved with alpha in output/cutouts.
        semantic: If True, the semantic map of each image is drawn in output/semantic. It comes from the pass of the
            detections or, with test-time augmentation, from one further pass at the configured size.
        every: int, interval of the frames of a video that are processed.
        batch: int, images or frames of a video that are detected at once.
    Returns:
        (done, skipped): the number of files processed to their end, and [(path, reason)] of the others: unreadable
        files and those on which the model failed. Of a video that breaks off, or with failed frames, the other frames
        are kept.
    Raises:
        UserError: A drawing would replace an input image, or the output cannot be written.
    """
    videos = {path for path in paths if is_video(path)}
    names = drawing_names(paths, [video_ending(path) if path in videos else ending for path in paths])
    refuse_replacing(paths, names, output)
    ids = image_ids(paths)
    frame_ids = (number for number in itertools.count(len(paths)) if number not in set(ids))
    skipped = []
    with ResultsWriter(output) as results, progress_bar(total=len(paths), unit="img", desc="predict") as bar:

        def detect(images, failed, semantic=False):
            for row, image, result in detect_in_batches(detector, images, batch, failed, semantic):
                yield row, Prediction(image, result, categories)
                bar.update()

        def skip(row, reason):
            skipped.append((row[0], str(reason)))
            bar.update()

        def read_images(rows):
            for row in rows:
                try:
                    yield row, read_image(row[0])
                except Unreadable as error:
                    skip(row, error.reason)

        def read_frames(path, video):
            try:
                yield from enumerate(video.frames)
            except Unreadable as error:
                skipped.append((path, error.reason))  # the frames before it are kept

        def draw_frames(path, video):
            failed = []
            for index, prediction in detect(read_frames(path, video), lambda *failure: failed.append(failure)):
                results.write(prediction.to_coco(next(frame_ids)), file_name=path.name, frame=index * every)
                yield prediction.draw(None, threshold)
            if failed:
                index, error = failed[0]
                skipped.append((path, f"{len(failed)} frames failed, the first is frame {index * every}: {error}"))

        def draw_video(path, name):
            try:
                video = read_video(path, every)
            except Unreadable as error:
                skip((path,), error.reason)
            else:
                bar.total += max(video.count - 1, 0)
                write_video(output / name, draw_frames(path, video), video.rate)

        # Consecutive images share batches; a video is written on its own.
        for moving, rows in itertools.groupby(zip(paths, ids, names, strict=True), lambda row: row[0] in videos):
            if moving:
                for path, _, name in rows:
                    draw_video(path, name)
                continue
            for (path, image_id, name), prediction in detect(read_images(rows), skip, semantic):
                results.write(prediction.to_coco(image_id), file_name=path.name)
                prediction.draw(output / name, threshold)
                if cutouts:
                    save_cut_outs(prediction, threshold, output / "cutouts" / name)
                if semantic:
                    labels = prediction.result.labels
                    save(draw_labels(prediction.image, labels, categories), output / "semantic" / name)
    # A set: a video is listed twice if frames failed and it broke off.
    return len(paths) - len({path for path, _ in skipped}), skipped


class ResultsWriter:
    """Writer of predictions.json: entries are appended, and the file is a valid list even after an interruption."""

    def __init__(self, output):
        try:
            output.mkdir(parents=True, exist_ok=True)
            self.file = (output / RESULTS).open("w")
        except OSError as error:
            raise UserError(f"--output {output} cannot be written ({error.strerror}): name another folder") from error
        self.separator = "[\n"

    def write(self, entries, **origin):
        """Appends COCO results, each with the fields of `origin`."""
        try:
            for entry in entries:
                self.file.write(self.separator + json.dumps({**entry, **origin}))
                self.separator = ",\n"
        except OSError as error:
            raise UserError(f"{self.file.name} cannot be written ({error.strerror})") from error

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with self.file:
            self.file.write("[]\n" if self.separator == "[\n" else "\n]\n")


def save_cut_outs(prediction, threshold, path):
    """Saves NAME_01_person.png, ... beside `path`, whose stem is NAME."""
    for number, (name, _, piece) in enumerate(cut_outs(prediction, threshold), 1):
        save(piece, path.with_name(cut_out_name(path.stem, number, name)))


def image_ids(paths):
    """Returns unique image ids: a COCO file's number, else the place in the list or the next free number."""
    ids, taken = {}, set()
    for path in paths:
        if re.fullmatch(r"[0-9]+", path.stem) and int(path.stem) not in taken:
            ids[path] = int(path.stem)
            taken.add(ids[path])
    free = (number for number in itertools.count(len(paths)) if number not in taken)
    for place, path in enumerate(paths):
        if path not in ids:
            ids[path] = place if place not in taken else next(free)
            taken.add(ids[path])
    return [ids[path] for path in paths]
