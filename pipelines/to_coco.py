"""Converts the files of an annotation tool to COCO's format.

    python -m pipelines.to_coco --from labelme --input DIR --output DIR

    DIR/annotations/instances_train.json, instances_val.json    for `pipelines.coco_to_tfrecord`
    DIR/left_out.txt                                            a line for each file, image or shape that is left out

The images stay where they are. Documentation: docs/data.md.
"""

import hashlib
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
from pipelines import labelme, objects
from pipelines.checks import Counters, Rejected, encodable
from pipelines.file_names import IMAGE_SUFFIXES

READERS = {"labelme": (labelme.read, "*.json", labelme.IGNORED)}
MADE_BY = "python -m pipelines.to_coco"
SPLITS = ("train", "val")
LEFT_OUT = "left_out.txt"
MAX_LISTED = 10  # problems that are printed


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
    read, pattern, ignored = READERS[flags.source]
    records = output.parent / "records"
    written = {folder.resolve() for folder in (output / "annotations", records)}
    paths = sorted(path for path in source.rglob(pattern) if written.isdisjoint(path.resolve().parents))
    if not paths:
        raise UserError(f"--input {source} holds no {pattern}: name the folder of the annotation files")
    entries, problems = read_all(paths, images, read)
    names = choose_classes(flags.classes, entries, ignored)
    splits, left_out, skipped = divide(entries, names, ignored, flags.val_fraction)
    problems += left_out
    if not splits["train"]["annotations"]:
        why = f"; first: {problems[0]}" if problems else ""
        raise UserError(f"--input {source}: no object for training in {len(paths)} files{why}")
    write(targets, splits, names, output, problems)
    print("\n".join(count_table(splits, names)))
    if skipped:
        print(f"{skipped} objects labeled {' or '.join(ignored)} are no objects")
    lines = [*case_variants(names), *list_problems(problems, output / LEFT_OUT)]
    print("\n".join([*lines, *next_commands(splits, targets, images, records)]))
    if flags.val_fraction and not splits["val"]["images"]:
        print(f"no image is for validation: give a larger --val_fraction than {flags.val_fraction:g}")


def parse(arguments=None):
    parser = command_line.Parser(prog="python -m pipelines.to_coco", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--from", dest="source", required=True, choices=READERS, help="the annotation tool")
    add("--input", required=True, metavar="DIR", help="folder of its files, searched with all folders in it")
    add("--images", metavar="DIR", help="folder that holds the images, --images of coco_to_tfrecord; default: --input")
    add("--output", required=True, metavar="DIR", help="folder to write to")
    add(
        "--val_fraction",
        type=command_line.fraction,
        default=0.2,
        help="share of the images for validation, chosen by a hash of their names, so that further images leave the "
        "choice unchanged; default 0.2",
    )
    add("--classes", nargs="+", metavar="NAME", help="classes in their order, or a file with one a line; default: all")
    return parser.parse_args(arguments)


def refuse_foreign(path):
    """Refuses to replace an annotation file that this command has not written."""
    if path.exists() and MADE_BY not in path.read_text(encoding="utf-8", errors="replace")[:200]:
        raise UserError(f"{path} is not a file that this command wrote: give another --output")


def read_all(paths, images, read):
    """Returns ({file name: (image, objects)} in the order of names, problems)."""
    entries, problems = {}, []
    for path in progress_bar(paths, desc="files", unit="file"):
        try:
            image, found, shapes = read(path, images)
            if image["file_name"] in entries:
                raise Rejected("image_duplicate", f"another file describes the image {image['file_name']}")
        except Rejected as error:
            problems.append(f"{path}: {error.detail}")
            continue
        entries[image["file_name"]] = image, found
        problems += [f"{path}: {problem}" for problem in shapes]
    unlabeled = sorted(
        name
        for name in (p.relative_to(images).as_posix() for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if name not in entries
    )
    problems += [f"{images / name}: no usable annotation file" for name in unlabeled]
    return dict(sorted(entries.items())), problems


def choose_classes(given, entries, ignored):
    """Returns the names of the classes, in their order."""
    if given and len(given) == 1 and os.path.isfile(given[0]):
        given = [line.strip() for line in Path(given[0]).read_text(encoding="utf-8-sig").splitlines()]
    found = {label for _, labeled in entries.values() for label, _ in labeled}
    return list(dict.fromkeys(name for name in given or sorted(found) if name and name not in ignored))


def divide(entries, names, ignored, val_fraction):
    """Returns ({split: {"images", "annotations"}}, problems, number of ignored objects)."""
    splits = {split: {"images": [], "annotations": []} for split in SPLITS}
    numbers, problems, skipped = itertools.count(1), [], 0
    for image_id, (name, (image, labeled)) in enumerate(entries.items(), 1):
        split = splits["val" if share(name) < val_fraction else "train"]
        split["images"].append({"id": image_id, **image})
        for label, segmentation in labeled:
            if label in ignored:
                skipped += 1
                continue
            try:
                if label not in names:
                    raise Rejected("category_unknown", f"label {label} is not one of --classes")
                row = annotate(segmentation, image["height"], image["width"])
            except Rejected as error:
                problems.append(f"{name}: {error.detail}")
                continue
            ids = {"id": next(numbers), "image_id": image_id, "category_id": names.index(label) + 1}
            split["annotations"].append({**ids, **row})
    return splits, problems, skipped


def share(name: str) -> float:
    """Returns a number of 0 ... 1 that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big") / 2**32


def annotate(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Returns COCO's annotation without ids."""
    mask = {"size": [height, width], "counts": objects.to_rle(segmentation, height, width, Counters())}
    area = int(coco_mask.area(mask))
    if not area:
        raise Rejected("box_empty", "an object covers no pixel of the image")
    box = coco_mask.toBbox(mask).tolist()
    return {"iscrowd": 0, "area": area, "bbox": box, "segmentation": segmentation}


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
    rows = [("", SPLITS), ("images", [len(splits[split]["images"]) for split in SPLITS])]
    rows += [(encodable(name), [counts[split][i] for split in SPLITS]) for i, name in enumerate(names, 1)]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}" + "".join(f"{number:>7}" for number in numbers) for name, numbers in rows]


def case_variants(names):
    """Returns a line for the names of classes that differ in case alone."""
    found = {}
    for name in names:
        found.setdefault(name.casefold(), []).append(encodable(name))
    same = ", ".join(" and ".join(variants) for variants in found.values() if len(variants) > 1)
    return [f"warning: different classes by case alone: {same}; rename the labels if they are the same"] if same else []


def list_problems(problems, path):
    """Returns lines about the first problems; the file `path` lists all of them."""
    if not problems:
        return []
    rest = len(problems) - MAX_LISTED
    shown = [f"  {encodable(problem)}" for problem in problems[:MAX_LISTED]]
    return [f"left out: {len(problems)}, listed in {path}:", *shown, *([f"  and {rest} more"] if rest > 0 else [])]


def next_commands(splits, targets, images, records):
    """Returns the commands that prepare the records in a folder."""
    return [
        f"{word} python -m pipelines.coco_to_tfrecord --annotations {shlex.quote(str(targets[split]))} "
        f"--images {shlex.quote(str(images))} --output {shlex.quote(str(records / split))}"
        for word, split in (("next:", "train"), (" and:", "val"))
        if splits[split]["images"]
    ]


if __name__ == "__main__":
    main()
