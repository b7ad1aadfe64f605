"""Demo dataset in COCO's layout, drawn instead of downloaded: python -m pipelines.shapes --output DIR.

    DIR/annotations/instances_{train,val}2017.json    written last, so that it marks a complete split
    DIR/{train,val}2017/000000000001.jpg
    DIR/stuffthingmaps/{train,val}2017/000000000001.png

`pipelines.scenes` paints shapes on patterned ground; for --scenes letters `pipelines.letters` paints letters on clouds
and sand, and for --scenes contexts `pipelines.contexts` crowded shapes whose class depends on the ground. The same seed
gives the same bytes, on any number of workers and with NumPy 1 or 2. On a processor with other vector instructions,
which round float32 sines differently, about one scene in fifty differs, by 1 in one value of its image. Letters come
from Pillow's own font, which its versions may render differently.
"""

import contextlib
import functools
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf import command_line
from htc_tf.errors import UserError, command
from htc_tf.progress import progress_bar

from . import contexts, files, letters, scenes

SCENES = {"shapes": scenes, "letters": letters, "contexts": contexts}  # modules with THINGS and draw_scene
SPLITS = ("train2017", "val2017")
IDS_PER_SPLIT = 1_000_000  # splits share no image id
IDS_PER_IMAGE = 20  # more than the things of a scene


@command
def main():
    flags = parse_flags()
    check(flags)
    output = Path(flags.output)
    things = SCENES[flags.scenes].THINGS
    labels = [label for label, name in enumerate(things) if flags.classes is None or name in flags.classes]
    counts = {split: count for split, count in zip(SPLITS, (flags.train, flags.val), strict=True) if count}
    for split, count in counts.items():
        refuse_foreign_files(output, split, count)
    for split in counts:
        make_folders(output, split)
    with contextlib.ExitStack() as stack:
        run = map
        if flags.workers > 1:  # fresh interpreters behave alike on every system
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(min(flags.workers, sum(counts.values())), context))
            run = functools.partial(pool.map, chunksize=8)
        for split, count in counts.items():
            scenes = run(
                functools.partial(write_scene, output, split, flags.seed, labels, kind=flags.scenes), range(count)
            )
            progress = progress_bar(scenes, desc=f"drawing {split}", total=count, unit="image")
            write_annotations(annotations_path(output, split), flags.seed, labels, list(progress), flags.scenes)


def parse_flags():
    parser = command_line.Parser(
        prog=f"python -m {__package__}.shapes",
        description="Draws a dataset of overlapping shapes or letters in COCO's layout: images, instance annotations "
        "and stuff-thing maps. The same seed gives the same bytes.",
    )
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="folder to write to; created if missing")
    add(
        "--train",
        type=command_line.whole(0),
        default=2000,
        help="number of training images, 0 to omit the split (default: %(default)s)",
    )
    add(
        "--val",
        type=command_line.whole(0),
        default=200,
        help="number of validation images, 0 to omit the split (default: %(default)s)",
    )
    add(
        "--scenes",
        choices=SCENES,
        default="shapes",
        help="what to draw: textured shapes on patterned ground, letters on clouds and sand, or crowded shapes whose "
        "class depends on the ground below them (default: %(default)s)",
    )
    add(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="classes to draw (default: all), of "
        + "; or ".join(f"{', '.join(module.THINGS)} ({kind})" for kind, module in SCENES.items()),
    )
    add("--seed", type=command_line.seed, default=0, help="random seed of the scenes (default: %(default)s)")
    add(
        "--workers",
        type=command_line.positive,
        default=os.cpu_count() or 1,
        help="number of processes (default: one per core)",
    )
    return parser.parse_args()


def check(flags):
    """Refuses impossible counts before anything is written."""
    if not 0 < max(flags.train, flags.val) < IDS_PER_SPLIT:
        raise UserError(
            f"--train {flags.train} --val {flags.val}: at least one must be 1 to {IDS_PER_SPLIT - 1} images"
        )
    things = SCENES[flags.scenes].THINGS
    if unknown := [name for name in flags.classes or () if name not in things]:
        raise UserError(
            f"--classes {unknown[0]}: not a class of --scenes {flags.scenes}; choose of {', '.join(things)}"
        )


def refuse_foreign_files(output, split, count):
    """Refuses a folder with files that this command did not write, which would mix with its own or be overwritten."""
    there = {path.name for path in (output / split).glob("*")}
    strangers = there - {f"{image_id(split, index):012d}.jpg" for index in range(count)}
    annotations = annotations_path(output, split)
    if strangers or (annotations.exists() and not there):
        found = output / split / min(strangers) if strangers else annotations
        raise UserError(f"--output {output}: {found} belongs to another dataset; give a new folder")


def make_folders(output, split):
    try:
        for folder in (output / split, output / "stuffthingmaps" / split, output / "annotations"):
            folder.mkdir(parents=True, exist_ok=True)
        annotations_path(output, split).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror} ({error.filename}); give a folder to write to") from error


def annotations_path(output, split):
    return output / "annotations" / f"instances_{split}.json"


def write_annotations(path, seed, labels, records, kind="shapes"):
    """Writes COCO's annotation file atomically, from the (image, annotations) of every scene of a kind."""
    content = {
        "info": {"description": "Shapes drawn by htc_tf", "version": "1", "seed": seed},
        "licenses": [],
        "categories": [{"id": i + 1, "name": SCENES[kind].THINGS[i], "supercategory": "shape"} for i in labels],
        "images": [image for image, _ in records],
        "annotations": [annotation for _, annotations in records for annotation in annotations],
    }
    with files.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")))


def image_id(split, index):
    return SPLITS.index(split) * IDS_PER_SPLIT + index + 1


def make_scene(seed, split, index, labels=None, kind="shapes"):
    """Returns a Scene of a kind of SCENES; `labels` are indexes of its THINGS, by default all."""
    return SCENES[kind].draw_scene(stream(seed, split, index), labels or SCENES[kind].LABELS)


def stream(seed, split, index):
    """Returns a scene's own random stream, so that neither the order nor the number of scenes matters."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index)))


def write_scene(output, split, seed, labels, index, kind="shapes"):
    """Draws one scene and writes its image and stuff-thing map. Returns COCO's (image, annotations)."""
    scene = make_scene(seed, split, index, labels, kind)
    height, width = scene.semantic.shape
    number = image_id(split, index)
    name = f"{number:012d}.jpg"
    Image.fromarray(scene.image).save(output / split / name, quality=95, subsampling=0)
    Image.fromarray(scene.semantic).save((output / "stuffthingmaps" / split / name).with_suffix(".png"))
    image = {"id": number, "file_name": name, "height": height, "width": width}
    return image, [annotate(thing, number, place) for place, thing in enumerate(scene.things)]


def annotate(thing, image, place):
    """Returns COCO's annotation of one thing. Box and area cover its visible pixels."""
    mask = np.asfortranarray(thing.mask, np.uint8)
    encoded = coco_mask.encode(mask)
    return {
        "id": image * IDS_PER_IMAGE + place,
        "image_id": image,
        "category_id": thing.label + 1,
        "iscrowd": int(thing.crowd),
        "area": int(coco_mask.area(encoded)),
        "bbox": coco_mask.toBbox(encoded).tolist(),
        "segmentation": uncompressed_rle(mask) if thing.crowd else polygons(mask) or compressed_rle(encoded),
    }


def uncompressed_rle(mask):
    """Returns COCO's uncompressed RLE: lengths of the runs down the columns, zeros first."""
    pixels = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(pixels, prepend=0, append=1 - int(pixels[-1])))
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}


def compressed_rle(encoded):
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def polygons(mask):
    """Traces a mask along the pixel edges: one polygon [x, y, x, y, ...] per connected part; None if a part has a hole.

    Sorted along a row, the corners of the outline pair up as the ends of its horizontal edges; sorted along a column,
    as the ends of its vertical edges. Where two pixels touch at a corner only, two corners share a point; their order
    keeps the pixels apart.
    """
    # [H + 1, W + 1], one value per pixel corner: ±1 at a corner of the outline, ±2 where two pixels touch only there.
    turns = np.diff(np.diff(np.pad(mask, 1).astype(np.int8), axis=0), axis=1)
    y, x = np.nonzero(turns != 0)
    turn = turns[y, x]
    y, x, turn = (np.repeat(values, np.abs(turn)) for values in (y, x, turn))  # [corners] each
    right = (np.diff(y, prepend=-1) == 0) & (np.diff(x, prepend=-1) == 0)  # the second of two corners at one point
    lower = right ^ (turn == -2)
    along_row = pair_ends(np.lexsort((right, x, y)))
    along_column = pair_ends(np.lexsort((lower, y, x)))
    # Follow each loop of the outline, along a row and a column in turn.
    found, unseen = [], np.ones(len(y), bool)
    for first in range(len(y)):
        if not unseen[first]:
            continue
        if turn[first] < 0:  # the top left corner of a hole, which the part surrounds
            return None
        loop, corner = [], first
        while unseen[corner]:
            for mate in (along_row, along_column):
                loop += [int(x[corner]), int(y[corner])]
                unseen[corner] = False
                corner = mate[corner]
        found.append(loop)
    return found


def pair_ends(order):
    """Returns for each corner the other end of its edge, where `order` lists the ends pair by pair."""
    other = np.empty(len(order), np.int64)  # [corners]
    other[order[::2]], other[order[1::2]] = order[1::2], order[::2]
    return other


if __name__ == "__main__":
    main()
