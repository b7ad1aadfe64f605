"""Converts the files of an annotation tool to COCO's format.

    python -m pipelines.to_coco --from labelme --input DIR --output DIR

    DIR/annotations/instances_train.json, instances_val.json    for `pipelines.coco_to_tfrecord`
    DIR/left_out.txt                                            a line for each file, image or object that is left out

The images stay where they are. Documentation: docs/data.md.
"""

import hashlib
import importlib
import itertools
import json
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from htc_tf import command_line
from htc_tf.errors import UserError, command
from htc_tf.progress import progress_bar
from pipelines import objects
from pipelines.checks import Counters, Rejected, encodable
from pipelines.file_names import IMAGE_SUFFIXES
from pipelines.importers.labeled import LabeledImage, LabeledObject
from pipelines.plan import without_collector

TOOLS = ("labelme", "via", "yolo", "voc", "cityscapes", "cvat", "labelstudio")  # the modules of pipelines.importers
MADE_BY = "python -m pipelines.to_coco"
SPLITS = ("train", "val", "test")
LEFT_OUT = "left_out.txt"
MAX_LISTED = 10  # problems that are printed
VAL_FRACTION = 0.2


@command
def main(arguments=None):
    flags = parse(arguments)
    source, images, output = Path(flags.input), Path(flags.images or flags.input), Path(flags.output)
    for flag, folder in (("--input", source), ("--images", images)):
        if not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such folder")
    targets = {split: output / "annotations" / f"instances_{split}.json" for split in SPLITS}
    for path in targets.values():
        refuse_foreign(path)
    tool = importlib.import_module(f"pipelines.importers.{flags.source}")
    records = output.parent / "records"
    written = {os.path.realpath(folder) for folder in (output / "annotations", records)}
    paths = list_files(source, tool.ENDINGS, written)
    if not paths:
        raise UserError(f"--input {source} holds no *{' or *'.join(tool.ENDINGS)}: name the folder of the tool's files")
    with without_collector():
        entries, problems = read_all(tool, paths, images)
        names = choose_classes(flags.classes, tool, paths, images, entries)
        ignored = {*tool.IGNORED, *getattr(tool, "OPTIONAL", ())}.difference(names)
        splits, left_out, skipped = divide(entries, names, ignored, flags.val_fraction)
    problems += left_out
    if not splits["train"]["annotations"]:
        why = f"; first: {problems[0]}" if problems else ""
        raise UserError(f"--input {source}: no object for training in {len(paths)} files{why}")
    write(targets, splits, names, output, problems)
    print("\n".join(count_table(splits, names)))
    if skipped:
        print(f"{sum(skipped.values())} objects labeled {' or '.join(skipped)} are no objects")
    lines = [*case_variants(names), *boxes_alone(splits), *list_problems(problems, output / LEFT_OUT)]
    print("\n".join([*lines, *next_commands(splits, targets, images, records)]))
    if flags.val_fraction != 0 and not splits["val"]["images"]:
        print("no image is for validation: give a larger --val_fraction")


def parse(arguments=None):
    parser = command_line.Parser(prog="python -m pipelines.to_coco", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--from", dest="source", required=True, choices=TOOLS, help="the annotation tool")
    add("--input", required=True, metavar="DIR", help="folder of its files, searched with all folders in it")
    add("--images", metavar="DIR", help="folder that holds the images, --images of coco_to_tfrecord; default: --input")
    add("--output", required=True, metavar="DIR", help="folder to write to")
    add(
        "--val_fraction",
        type=command_line.fraction,
        help="share of the images for validation, chosen by a hash of their names, so that further images leave the "
        f"choice unchanged; default: the split that the data set states, {VAL_FRACTION} of the images without one",
    )
    add("--classes", nargs="+", metavar="NAME", help="classes in their order, or a file with one a line; default: all")
    return parser.parse_args(arguments)


def refuse_foreign(path):
    """Refuses to replace an annotation file that this command has not written."""
    if path.exists() and MADE_BY not in path.read_text(encoding="utf-8", errors="replace")[:200]:
        raise UserError(f"{path} is not a file that this command wrote: give another --output")


def list_files(folder: Path, endings: tuple[str, ...], pruned: set[str] = frozenset()) -> list[Path]:
    """Returns the sorted files below a folder whose names have one of the endings; folders in `pruned` are left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in pruned]
        found += [os.path.join(place, name) for name in names if name.lower().endswith(endings)]
    return [Path(path) for path in sorted(found)]


def read_all(tool, paths: list[Path], images: Path) -> tuple[dict[str, LabeledImage], list[str]]:
    """Returns ({file name: image} in the order of names, problems)."""
    entries, problems = {}, []
    for path, found in read_images(tool, paths, images):
        if isinstance(found, LabeledImage) and found.file_name in entries:
            found = Rejected("image_duplicate", f"another entry describes the image {found.file_name}")
        if isinstance(found, Rejected):
            problems.append(f"{path}: {found.detail}")
            continue
        entries[found.file_name] = found
        problems += [f"{path}: {problem}" for problem in found.problems]
    read_unlabeled = getattr(tool, "read_unlabeled", lambda path, images: None)
    for path in list_files(images, IMAGE_SUFFIXES):
        name = path.relative_to(images).as_posix()
        if name in entries:
            continue
        try:
            found = read_unlabeled(path, images)
            if found is None:
                raise Rejected("annotation_malformed", "no usable annotation file")
            entries[name] = found
        except Rejected as error:
            problems.append(f"{path}: {error.detail}")
    return dict(sorted(entries.items())), problems


def read_images(tool, paths, images):
    """Yields (path, image or Rejected) of all files. The progress bar counts files, or the images of a single file."""
    alone = len(paths) == 1
    with progress_bar(desc="images" if alone else "files", unit="", total=None if alone else len(paths)) as bar:
        for path in paths:
            try:
                for found in tool.read(path, images):
                    yield path, found
                    bar.update(alone)
            except Rejected as error:
                yield path, error
            bar.update(not alone)


def choose_classes(given, tool, paths, images, entries):
    """Returns the names of the classes, in their order."""
    if given and len(given) == 1 and os.path.isfile(given[0]):
        given = [line.strip() for line in Path(given[0]).read_text(encoding="utf-8-sig").splitlines()]
    ignored = tool.IGNORED
    if not given:
        ignored = (*ignored, *getattr(tool, "OPTIONAL", ()))
        stated = tool.read_classes(paths, images) if hasattr(tool, "read_classes") else []
        given = [*stated, *sorted({row.label for image in entries.values() for row in image.objects})]
    return list(dict.fromkeys(name for name in given if name and name not in ignored))


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
                    raise Rejected("category_unknown", f"label {found.label} is not one of --classes")
                row = annotate(found, image.height, image.width, counters)
            except Rejected as error:
                problems.append(f"{name}: {error.detail}")
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
        raise Rejected("box_empty", "an object covers no pixel of the image")
    box = coco_mask.toBbox(mask).tolist() if found.box is None else found.box
    return {**row, "area": area, "bbox": box, "segmentation": found.segmentation}


def write(targets, splits, names, output, problems):
    """Writes the annotation files and the list of what is left out, each whole or not at all."""
    categories = [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(names, 1)]
    texts = {
        targets[split]: json.dumps({"info": {"description": MADE_BY}, "categories": categories, **content})
        for split, content in splits.items()
        if content["images"]
    }
    if problems:
        texts[output / LEFT_OUT] = "".join(f"{encodable(problem)}\n" for problem in problems)
    try:
        (output / "annotations").mkdir(parents=True, exist_ok=True)
        for path in {*targets.values(), output / LEFT_OUT} - texts.keys():
            path.unlink(missing_ok=True)  # of an earlier call
        for path, text in texts.items():
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror} ({error.filename}); give a folder to write to") from error


def count_table(splits, names):
    """Returns the lines of a table: images, and objects of each class, of each split."""
    counts = {split: Counter(row["category_id"] for row in splits[split]["annotations"]) for split in SPLITS}
    shown = [split for split in SPLITS if split != "test" or splits[split]["images"]]
    rows = [("", shown), ("images", [len(splits[split]["images"]) for split in shown])]
    rows += [(encodable(name), [counts[split][i] for split in shown]) for i, name in enumerate(names, 1)]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}" + "".join(f"{number:>7}" for number in numbers) for name, numbers in rows]


def case_variants(names):
    """Returns a line for the names of classes that differ in case alone."""
    found = {}
    for name in names:
        found.setdefault(name.casefold(), []).append(encodable(name))
    same = ", ".join(" and ".join(variants) for variants in found.values() if len(variants) > 1)
    return [f"warning: different classes by case alone: {same}; rename the labels if they are the same"] if same else []


def boxes_alone(splits):
    """Returns a line about objects without a mask beside others with one, which the preparation rejects."""
    rows = [row for content in splits.values() for row in content["annotations"]]
    masks = sum("segmentation" in row for row in rows)
    if masks in (0, len(rows)):
        return []
    return [
        f"warning: {len(rows) - masks} of {len(rows)} objects have a box and no mask: draw their outlines, or prepare "
        "boxes alone by --masks none"
    ]


def list_problems(problems, path):
    """Returns lines about the first problems; the file `path` lists all of them."""
    if not problems:
        return []
    rest = len(problems) - MAX_LISTED
    shown = [f"  {encodable(problem)}" for problem in problems[:MAX_LISTED]]
    return [f"left out: {len(problems)}, listed in {path}:", *shown, *([f"  and {rest} more"] if rest > 0 else [])]


def next_commands(splits, targets, images, records):
    """Returns the commands that prepare the records in a folder."""
    masks = any("segmentation" in row for content in splits.values() for row in content["annotations"])
    filled = [split for split in SPLITS if splits[split]["images"]]
    return [
        f"{' and:' if place else 'next:'} python -m pipelines.coco_to_tfrecord "
        f"--annotations {shlex.quote(str(targets[split]))} --images {shlex.quote(str(images))} "
        f"--output {shlex.quote(str(records / split))}{'' if masks else ' --masks none'}"
        for place, split in enumerate(filled)
    ]


if __name__ == "__main__":
    main()
