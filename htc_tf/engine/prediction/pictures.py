"""Prediction on picture and video files: read, detect, draw, save. What cannot be read is skipped and reported.

Before: `prediction.inputs` found the files. After: a folder of drawings, and predictions.json in COCO's results format.
"""

import itertools
import json
import re

from htc_tf.engine.prediction.answer import Prediction, save
from htc_tf.engine.prediction.cutouts import cut_outs
from htc_tf.engine.prediction.inputs import Unreadable
from htc_tf.engine.prediction.photo import read_picture
from htc_tf.engine.prediction.semantic_map import draw_labels, label_map
from htc_tf.engine.prediction.video import is_video, read_video, video_ending, write_video
from htc_tf.engine.training.monitor import progress
from htc_tf.errors import UserError

RESULTS = "predictions.json"


def predict_pictures(
    detector, categories, paths, output, threshold, ending=".png", cutouts=False, semantic=False, every=1
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
    Returns:
        (how many pictures and videos were read to their end, [(path, reason)] of the others)
    Raises:
        UserError: a drawing would replace one of the pictures; output cannot be written.
    """
    videos = {path for path in paths if is_video(path)}
    names = drawing_names(paths, [video_ending(path) if path in videos else ending for path in paths])
    refuse_replacing(paths, names, output)
    ids = image_ids(paths)
    frame_ids = (number for number in itertools.count(len(paths)) if number not in set(ids))
    skipped = []
    with Results(output) as results, progress(total=len(paths), unit="img", desc="predict") as bar:

        def detect(image, image_id, **origin):
            found = Prediction(image, detector.detect_image(image), categories)
            results.write(found.to_coco(image_id), **origin)
            return found

        def draw_frames(path, video):
            try:
                for index, image in enumerate(video.frames):
                    yield detect(image, next(frame_ids), file_name=path.name, frame=index * every).draw(None, threshold)
                    bar.update()
            except Unreadable as error:
                skipped.append((path, error.reason))  # and the frames before it are kept

        for path, image_id, name in zip(paths, ids, names, strict=True):
            try:
                if path in videos:
                    video = read_video(path, every)
                    bar.total += max(video.count - 1, 0)
                    write_video(output / name, draw_frames(path, video), video.rate)
                    continue
                image = read_picture(path)
            except Unreadable as error:
                skipped.append((path, error.reason))
            else:
                found = detect(image, image_id, file_name=path.name)
                found.draw(output / name, threshold)
                if cutouts:
                    save_cut_outs(found, threshold, output / "cutouts" / name)
                if semantic:
                    save(draw_labels(image, label_map(detector, image), categories), output / "semantic" / name)
            bar.update()
    return len(paths) - len(skipped), skipped


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
        for entry in entries:
            self.file.write(self.before + json.dumps({**entry, **origin}))
            self.before = ",\n"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with self.file:
            self.file.write("[]\n" if self.before == "[\n" else "\n]\n")


def save_cut_outs(found, threshold, path):
    """NAME_01_person.png, ... beside `path`, whose name is NAME."""
    for number, (name, _, piece) in enumerate(cut_outs(found, threshold), 1):
        label = re.sub(r"\W+", "_", name)
        save(piece, path.with_name(f"{path.stem}_{number:02d}_{label}.png"))


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


def drawing_names(paths, endings=None):
    """name.png for each picture; where pictures of several folders share a name, the later ones get a number.

    endings: of each, in place of .png.
    """
    stems = {}
    for path in paths:
        candidates = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(2)))
        stems[next(stem for stem in candidates if stem not in stems)] = path
    return [stem + ending for stem, ending in zip(stems, endings or itertools.repeat(".png"), strict=False)]


def refuse_replacing(paths, names, output):
    inputs = {path.resolve() for path in paths}
    for name in names:
        if (output / name).resolve() in inputs:
            raise UserError(
                f"--output {output}: the drawing {name} would replace a picture of --input; name another folder"
            )
