"""Converts the files of an annotation tool to COCO's format.

    python -m pipelines.to_coco --from labelme --input DIR|FILE --output DIR

    DIR/annotations/instances_train.json, instances_val.json    for `pipelines.coco_to_tfrecord`
    DIR/left_out.txt                                            a line for each file, image or object that is left out

The images stay where they are. Documentation: docs/data.md.
"""

import contextlib
import hashlib
import importlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from htc_tf import command_line
from htc_tf.errors import UserError, command, printable
from htc_tf.flush import flush

from . import agreement, conversion_summary, files, objects
from .checks import Counters, Rejected, encodable, show
from .importers import documents
from .importers.labeled import LabeledImage, LabeledObject
from .importers.reading import list_files, read_all
from .plan import PLAN_FILE, without_collector

TOOLS = ("labelme", "via", "yolo", "voc", "cityscapes", "cvat", "labelstudio")  # the modules of pipelines.importers
MADE_BY = "python -m pipelines.to_coco"
SPLITS = ("train", "val", "test")
LEFT_OUT = "left_out.txt"
VAL_FRACTION = 0.2


@command
def main(arguments=None):
    flags = parse(arguments)
    source, output = Path(flags.input), Path(flags.output)
    if not source.exists():
        raise UserError(f"--input {source}: no such folder or file")
    images = Path(flags.images or (source if source.is_dir() else source.parent))
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder")
    targets = {split: output / "annotations" / f"instances_{split}.json" for split in SPLITS}
    written = (*targets.values(), output / LEFT_OUT)
    for path in written:
        refuse_foreign(path)
    tool = importlib.import_module(f".importers.{flags.source}", __package__)
    records = output.parent / "records"
    paths, unreadable = find_files(source, tool.ENDINGS, written, records)
    with without_collector():
        entries, problems = read_all(tool, paths, images)
        names = choose_classes(flags.classes, tool, paths, images, entries)
        ignored = {*tool.IGNORED, *getattr(tool, "OPTIONAL", ())}.difference(names)
        splits, left_out, skipped = divide(entries, names, ignored, flags.val_fraction)
    # Both folders may name the same links. Of two equal objects, each is left out.
    problems = [*unreadable, *(line for line in problems if line not in unreadable), *left_out]
    where = f"--input {source}, {len(paths)} {'file' if len(paths) == 1 else 'files'}"
    conversion_summary.refuse_without_objects(splits, skipped, problems, where)
    write(targets, splits, names, output, problems)
    warnings = tool.list_warnings(paths, images) if hasattr(tool, "list_warnings") else ()
    lines = [*conversion_summary.describe(splits, names, skipped, problems, output / LEFT_OUT, warnings)]
    lines += conversion_summary.next_commands(splits, targets, images, records)
    if flags.val_fraction != 0 and not splits["val"]["images"]:
        lines.append("no image is for validation: give a larger --val_fraction")
    print("\n".join(map(printable, lines)))


def parse(arguments=None):
    parser = command_line.Parser(prog=f"python -m {__package__}.to_coco", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--from", dest="source", required=True, choices=TOOLS, help="the annotation tool")
    add(
        "--input", required=True, metavar="PATH", help="folder of its files, searched with all folders in it; or a file"
    )
    add(
        "--images",
        metavar="DIR",
        help="folder that holds the images, --images of coco_to_tfrecord; default: the folder of --input",
    )
    add("--output", required=True, metavar="DIR", help="folder to write to")
    add(
        "--val_fraction",
        type=command_line.fraction,
        help="share of the images for validation, chosen by a hash of their names, so that further images leave the "
        f"choice unchanged; default: the split that the data set states, {VAL_FRACTION} of the images without one",
    )
    add("--classes", nargs="+", metavar="NAME", help="classes in order, or a file with one per line; default: all")
    return parser.parse_args(arguments)


def refuse_foreign(path: Path) -> None:
    """Refuses to replace or remove a file that this command has not written."""
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            ours = MADE_BY in file.read(200)
    else:
        ours = not path.exists()
    if not ours:
        raise UserError(f"{path} is not a file that this command wrote: move it away, or give another --output")


def find_files(
    source: Path, endings: tuple[str, ...], written: Collection[Path], records: Path
) -> tuple[list[Path], dict[str, None]]:
    """Returns what `reading.list_files` does for --input, without the files that earlier calls have written.

    Args:
        source: --input.
        endings: Of the tool's files.
        written: The files that the command writes.
        records: The folder of the records that are prepared from them.
    """
    kinds = f"*{' or *'.join(endings)}"
    if not source.is_dir():
        if not (source.is_file() and source.name.lower().endswith(endings)):
            raise UserError(f"--input {source} is not a file {kinds}: give one, or a folder; unpack archives first")
        return [source], {}
    prepared = {os.path.realpath(records / split) for split in SPLITS if (records / split / PLAN_FILE).is_file()}
    paths, unreadable = list_files(source, endings, prepared)
    names, real_paths = {path.name for path in written}, set(map(os.path.realpath, written))
    paths = [path for path in paths if path.name not in names or os.path.realpath(path) not in real_paths]
    if not paths:
        why = f"; {printable(next(iter(unreadable)))}" if unreadable else ""
        raise UserError(f"--input {source} holds no {kinds}: name the folder of the tool's files{why}")
    return paths, unreadable


def choose_classes(given, tool, paths, images, entries):
    """Returns the names of the classes, in their order."""
    if given and len(given) == 1 and os.path.isfile(given[0]):
        try:
            given = documents.read_lines(Path(given[0]))
        except Rejected as error:
            raise UserError(f"--classes {error.detail}") from None
    ignored = tool.IGNORED
    if not given:
        ignored = (*ignored, *getattr(tool, "OPTIONAL", ()))
        stated = tool.read_classes(paths, images) if hasattr(tool, "read_classes") else []
        given = [*stated, *sorted({row.label for image in entries.values() for row in image.objects})]
    return [name for name in dict.fromkeys(given) if name and name not in ignored and encodable(name) == name]


def divide(entries: dict[str, LabeledImage], names, ignored, val_fraction):
    """Returns ({split: {"images", "annotations"}}, problems, numbers of objects of each ignored label)."""
    splits = {split: {"images": [], "annotations": []} for split in SPLITS}
    numbers, problems, skipped = itertools.count(1), [], Counter()
    counters = Counters()  # of repairs, which the preparation repeats and counts
    class_ids = {name: number for number, name in enumerate(names, 1)}
    for image_id, (name, image) in enumerate(entries.items(), 1):
        split = choose_split(image, val_fraction)
        size = {"height": image.height, "width": image.width}
        splits[split]["images"].append({"id": image_id, "file_name": name, **size})
        for found in image.objects:
            if found.label in ignored:
                skipped[found.label] += 1
                continue
            try:
                if found.label not in class_ids:
                    reason = "one of --classes" if encodable(found.label) == found.label else "Unicode"
                    raise Rejected("category_unknown", f"label {show(found.label)} is not {reason}")
                row = annotate(found, image.height, image.width, counters)
            except Rejected as error:
                problems.append(f"{found.place or name}: {error.detail}")
                continue
            ids = {"id": next(numbers), "image_id": image_id, "category_id": class_ids[found.label]}
            splits[split]["annotations"].append({**ids, **row})
    return splits, problems, skipped


def choose_split(image: LabeledImage, val_fraction: float | None) -> str:
    """Returns the split that the data set states, unless a fraction is given; else one by the image's name."""
    if image.split and val_fraction is None:
        return image.split
    return "val" if share(image.file_name) < (VAL_FRACTION if val_fraction is None else val_fraction) else "train"


def share(name: str) -> float:
    """Returns a number of 0 ... 1 that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big") / 2**32


def annotate(found: LabeledObject, height: int, width: int, counters: Counters) -> dict[str, Any]:
    """Returns COCO's annotation without ids."""
    row = {"iscrowd": int(found.crowd)}
    if found.segmentation is None:
        ymin, xmin, ymax, xmax = objects.clip_box(found.box, height, width, counters)
        return {**row, "area": (xmax - xmin) * (ymax - ymin), "bbox": [xmin, ymin, xmax - xmin, ymax - ymin]}
    mask = {"size": [height, width], "counts": objects.to_rle(found.segmentation, height, width, counters)}
    area = int(coco_mask.area(mask))
    if not area:
        raise Rejected("box_empty", _describe_extent(found.segmentation, height, width))
    box = coco_mask.toBbox(mask).tolist() if found.box is None else found.box
    return {**row, "area": area, "bbox": box, "segmentation": found.segmentation}


def _describe_extent(segmentation, height, width):
    if isinstance(segmentation, dict):
        return "the mask has no pixels"
    left, top, right, bottom = agreement.extent(segmentation)
    extent = f"from x {left:g} to {right:g}, y {top:g} to {bottom:g}"
    return f"an object {extent} covers no pixel of the image, {width} x {height}"


def write(targets, splits, names, output, problems):
    """Writes the annotation files and the list of what is left out, each whole or not at all."""
    categories = [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(names, 1)]
    texts = {
        targets[split]: json.dumps({"info": {"description": MADE_BY}, "categories": categories, **content})
        for split, content in splits.items()
        if content["images"]
    }
    if problems:
        texts[output / LEFT_OUT] = "\n".join([f"left out by {MADE_BY}:", *map(printable, problems), ""])
    try:
        (output / "annotations").mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for path, text in texts.items():
                with open(stack.enter_context(files.atomic_write(path)), "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    flush(file.fileno())  # a full disk may be reported only now, and no file is replaced yet
            for path in {*targets.values(), output / LEFT_OUT} - texts.keys():
                path.unlink(missing_ok=True)  # of an earlier call
    except OSError as error:
        raise UserError(
            f"--output {output}: {files.describe_error(error, output)}; give a folder to write to"
        ) from error


if __name__ == "__main__":
    main()
