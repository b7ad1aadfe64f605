"""Prediction on picture and video files: read, detect, draw, save. What cannot be read is skipped and reported.

Before: `inference.inputs` found the files. After: a folder of drawings, and predictions.json in COCO's results format.
"""

import itertools
import json
import re

from htc_tf.errors import ModelFailed, UserError
from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.failures import model_errors
from htc_tf.inference.image_files import read_picture
from htc_tf.inference.inputs import Unreadable
from htc_tf.inference.output_names import cut_out_name, drawing_names, refuse_replacing
from htc_tf.inference.prediction import Prediction, save
from htc_tf.inference.semantic_map import draw_labels, label_map
from htc_tf.inference.video import is_video, read_video, video_ending, write_video
from htc_tf.progress import progress_bar
from htc_tf.visualization.cutouts import cut_outs

RESULTS = "predictions.json"


def predict_pictures(
    detector, categories, paths, output, threshold, ending=".png", cutouts=False, semantic=False, every=1, batch=1
):
    """Detects in each picture and each frame of each video, and saves drawings and results.

    Args:
        detector: what has `detect_image`.
        categories: [{"id", "name"}, ...] by class index.
        paths: of pictures and videos.
        output: folder for the drawings and predictions.json.
        threshold: lowest score that is drawn or cut out; the results hold all.
        ending: of the drawings of pictures.
        cutouts: whether to save each object of a picture with alpha, in output/cutouts.
        semantic: whether to draw what the semantic branch sees in a picture, in output/semantic.
        every: of a video every such frame.
        batch: how many pictures, or frames of a video, are detected at once.
    Returns:
        (how many images and videos were done to their end, [(path, reason)] of the others: what cannot be read, and
        what the model failed on. Of a video that breaks off, or has frames that failed, the other frames are kept.)
    Raises:
        UserError: a drawing would replace one of the pictures; output cannot be written.
    """
    videos = {path for path in paths if is_video(path)}
    names = drawing_names(paths, [video_ending(path) if path in videos else ending for path in paths])
    refuse_replacing(paths, names, output)
    ids = image_ids(paths)
    frame_ids = (number for number in itertools.count(len(paths)) if number not in set(ids))
    skipped = []
    with Results(output) as results, progress_bar(total=len(paths), unit="img", desc="predict") as bar:

        def detect(images, failed):
            for row, image, result in detect_in_batches(detector, images, batch, failed):
                yield row, Prediction(image, result, categories)
                bar.update()

        def skip(row, reason):
            skipped.append((row[0], str(reason)))
            bar.update()

        def read_pictures(rows):
            for row in rows:
                try:
                    yield row, read_picture(row[0])
                except Unreadable as error:
                    skip(row, error.reason)

        def read_frames(path, video):
            try:
                yield from enumerate(video.frames)
            except Unreadable as error:
                skipped.append((path, error.reason))  # and the frames before it are kept

        def draw_frames(path, video):
            failed = []
            for index, found in detect(read_frames(path, video), lambda *failure: failed.append(failure)):
                results.write(found.to_coco(next(frame_ids)), file_name=path.name, frame=index * every)
                yield found.draw(None, threshold)
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

        def see(image):
            """The semantic labels; None where they are not asked for."""
            with model_errors():
                return label_map(detector, image) if semantic else None

        # Between two videos pictures may share a batch.
        for moving, rows in itertools.groupby(zip(paths, ids, names, strict=True), lambda row: row[0] in videos):
            if moving:
                for path, _, name in rows:
                    draw_video(path, name)
                continue
            for (path, image_id, name), found in detect(read_pictures(rows), skip):
                try:
                    labels = see(found.image)
                except ModelFailed as error:
                    skipped.append((path, str(error)))
                    continue
                results.write(found.to_coco(image_id), file_name=path.name)
                found.draw(output / name, threshold)
                if cutouts:
                    save_cut_outs(found, threshold, output / "cutouts" / name)
                if semantic:
                    save(draw_labels(found.image, labels, categories), output / "semantic" / name)
    # A video may be named twice: frames that failed, and where it broke off.
    return len(paths) - len({path for path, _ in skipped}), skipped


class Results:
    """predictions.json, written as it grows, and a valid list whenever the program ends by itself or is interrupted."""

    def __init__(self, output):
        try:
            output.mkdir(parents=True, exist_ok=True)
            self.file = (output / RESULTS).open("w")
        except OSError as error:
            raise UserError(f"--output {output} cannot be written ({error.strerror}): name another folder") from error
        self.before = "[\n"

    def write(self, entries, **origin):
        """Adds COCO results, each with the fields of `origin`."""
        try:
            for entry in entries:
                self.file.write(self.before + json.dumps({**entry, **origin}))
                self.before = ",\n"
        except OSError as error:
            raise UserError(f"{self.file.name} cannot be written ({error.strerror})") from error

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with self.file:
            self.file.write("[]\n" if self.before == "[\n" else "\n]\n")


def save_cut_outs(found, threshold, path):
    """NAME_01_person.png, ... beside `path`, whose name is NAME."""
    for number, (name, _, piece) in enumerate(cut_outs(found, threshold), 1):
        save(piece, path.with_name(cut_out_name(path.stem, number, name)))


def image_ids(paths):
    """COCO's files are named by their image id; any other picture takes its place in the list, or the next free id."""
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
