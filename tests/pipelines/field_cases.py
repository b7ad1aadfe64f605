"""Data sets as labeling tools and public bug reports have them, each the smallest of its kind, and what becomes of it.

`CASES` is the table "Kinds of input" of docs/data.md: a kind, what a user sees of it, and the function that makes it of
a sound data set. `test_field_cases` prepares every one.
"""

import gzip
import json
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 64, 48
BOXES = ((8, 6, 20, 16), (30, 20, 24, 18))
CASES = []


class EvalInputs(NamedTuple):
    """`outcome` is "works", or begins with "repaired", "left out", "warning" or "refused". After a colon there is a
    name of `checks`, or words of the message.

    `change(folder, coco)` alters the sound data set, and returns further flags, the name of another annotation file, or
    its bytes.
    """

    kind: str
    outcome: str
    change: Callable

    @property
    def name(self):
        return self.change.__name__


def case(kind, outcome):
    def add(change):
        CASES.append(EvalInputs(kind, outcome, change))
        return change

    return add


def make(case, folder):
    """Writes the case below `folder`; returns the command's arguments."""
    coco = sound(folder)
    changed = case.change(folder, coco)
    path = folder / "coco.json"
    if isinstance(changed, bytes):
        path.write_bytes(changed)
    elif isinstance(changed, str):
        path = folder / changed
    else:
        path.write_text(json.dumps(coco), encoding="utf-8")
    flags = changed if isinstance(changed, list) else []
    return [f"--annotations={path}", f"--images={folder / 'images'}", f"--output={folder / 'records'}", *flags]


def sound(folder):
    """Three images of two objects each."""
    images, annotations = [], []
    for i in range(1, 4):
        save(folder / "images" / f"{i}.jpg", pixels())
        images.append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        for j, box in enumerate(BOXES):
            row = {"id": 2 * i + j - 1, "image_id": i, "category_id": j + 1, "bbox": [float(v) for v in box]}
            annotations.append(row | {"segmentation": [rectangle(*box)], "area": float(box[2] * box[3]), "iscrowd": 0})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "nut"}],
    }


def pixels(width=WIDTH, height=HEIGHT):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 5, x + y], -1).astype(np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path, **options)


def rectangle(x, y, w, h):
    return [float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]


def run_lengths(box, order="F"):
    x, y, w, h = (int(v) for v in box)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order=order)])))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, mask.size]).tolist()}


def compressed(box):
    counts = coco_mask.frPyObjects(run_lengths(box), HEIGHT, WIDTH)["counts"].decode()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def each(key, value):
    """A change of one key of every annotation: `value(row)`."""

    def change(folder, coco):
        for row in coco["annotations"]:
            row[key] = value(row)

    return change


def add(kind, outcome, name, change):
    change.__name__ = name
    case(kind, outcome)(change)


# ---- ids -------------------------------------------------------------------------------------------------------------


@case("COCO's own form", "works")
def sound_set(folder, coco):
    pass


@case("ids and sizes as strings of digits", "repaired: numbers_converted")
def digit_strings(folder, coco):
    for row in coco["images"]:
        row |= {key: str(row[key]) for key in ("id", "height", "width")}
    for row in coco["annotations"]:
        row |= {key: str(row[key]) for key in ("id", "image_id", "category_id")}
    for row in coco["categories"]:
        row["id"] = str(row["id"])


add(
    "ids as strings in the annotations alone",
    "repaired: numbers_converted",
    "string_image_ids",
    each("image_id", lambda row: str(row["image_id"])),
)


@case("ids as floats (1.0)", "repaired: numbers_converted")
def float_ids(folder, coco):
    for key in ("images", "annotations"):
        for row in coco[key]:
            row["id"] = float(row["id"])


@case("names or UUIDs as image ids", "refused: no integer id")
def uuids(folder, coco):
    for row in coco["images"]:
        row["id"] = f"3f2504e0-{row['id']}"


@case("image ids beyond 8 bytes", "refused: no integer id")
def ids_beyond_int64(folder, coco):
    for row in coco["images"]:
        row["id"] += 2**100


@case("ids up to 8 bytes", "works")
def ids_above_2_53(folder, coco):
    for row in coco["images"]:
        row["id"] += 2**62
    for row in coco["annotations"]:
        row["image_id"] += 2**62


add("annotation ids from 0", "repaired: ids_renumbered", "ids_from_0", each("id", lambda row: row["id"] - 1))
add(
    "annotation ids that restart in every image",
    "repaired: ids_renumbered",
    "ids_per_image",
    each("id", lambda row: row["category_id"]),
)
add("annotation ids absent", "repaired: ids_renumbered", "no_ids", each("id", lambda row: None))


@case("an annotation listed twice with the same id", "left out: annotation_duplicate")
def annotation_twice(folder, coco):
    coco["annotations"].append(dict(coco["annotations"][0]))


@case("one image id for several files", "refused: image_duplicate")
def image_id_twice(folder, coco):
    coco["images"][2]["id"] = 2


@case("one file under several image ids", "warning: share")
def file_twice(folder, coco):
    coco["images"][2]["file_name"] = "2.jpg"


@case("image_id under another key", "refused: no integer image_id; the entry has category_id, item_id")
def item_id(folder, coco):
    for row in coco["annotations"]:
        row["item_id"] = row.pop("image_id")


# ---- classes ---------------------------------------------------------------------------------------------------------


@case("category ids with gaps, from 0, in any order", "works")
def category_gaps(folder, coco):
    coco["categories"] = [{"id": 907, "name": "nut"}, {"id": 0, "name": "cell"}]
    each("category_id", lambda row: {1: 0, 2: 907}[row["category_id"]])(folder, coco)


@case("a class without objects", "warning: classes have no object: part")
def unused_class(folder, coco):
    coco["categories"].append({"id": 0, "name": "part"})


@case("two classes with the same name", "warning: 2 classes are named 'cell'")
def names_twice(folder, coco):
    coco["categories"][1]["name"] = "cell"


@case("class names beyond ASCII", "works")
def unicode_names(folder, coco):
    coco["categories"][0]["name"] = "细胞"
    return json.dumps(coco, ensure_ascii=False).encode()


@case("no categories", "refused: no list 'categories'")
def no_categories(folder, coco):
    del coco["categories"]


@case("an undefined category id", "left out: category_unknown")
def undefined_category(folder, coco):
    coco["annotations"][0]["category_id"] = 9


# ---- boxes and masks -------------------------------------------------------------------------------------------------

add("one flat polygon", "repaired: polygons_nested", "flat", each("segmentation", lambda row: row["segmentation"][0]))
add(
    "a polygon as a list of [x, y] points",
    "refused: a list of [x, y] points",
    "pairs",
    each("segmentation", lambda row: np.reshape(row["segmentation"][0], (-1, 2)).tolist()),
)
add(
    "polygons nested too deeply",
    "refused: one too deep",
    "too_deep",
    each("segmentation", lambda row: [row["segmentation"]]),
)
add(
    "numbers as strings in polygons",
    "refused: strings: write them without quotes",
    "polygon_strings",
    each("segmentation", lambda row: [[str(v) for v in row["segmentation"][0]]]),
)
add("run lengths, as numbers", "works", "runs", each("segmentation", lambda row: run_lengths(row["bbox"])))
add("run lengths, as a string", "works", "run_string", each("segmentation", lambda row: compressed(row["bbox"])))
add(
    "run lengths inside a list",
    "repaired: run_lengths_unwrapped",
    "run_list",
    each("segmentation", lambda row: [compressed(row["bbox"])]),
)
add(
    "run lengths as Python writes bytes, b'...'",
    "repaired: run_lengths_unwrapped",
    "run_bytes",
    each(
        "segmentation",
        lambda row: compressed(row["bbox"]) | {"counts": str(compressed(row["bbox"])["counts"].encode())},
    ),
)
add(
    "run lengths whose size is [width, height]",
    "refused: it must be [height, width]",
    "size_swapped",
    each("segmentation", lambda row: run_lengths(row["bbox"]) | {"size": [WIDTH, HEIGHT]}),
)
add(
    "run lengths along the rows",
    "refused: the run lengths go along the rows",
    "row_major",
    each("segmentation", lambda row: run_lengths(row["bbox"], "C")),
)
add(
    "bbox as [x1, y1, x2, y2]",
    "refused: it looks as if bbox is [x1, y1, x2, y2]",
    "corners",
    each("bbox", lambda row: [row["bbox"][i] + (row["bbox"][i - 2] if i > 1 else 0) for i in range(4)]),
)
add(
    "bbox in fractions of the image",
    "refused: it looks as if bbox is in fractions of the image",
    "fractions",
    each("bbox", lambda row: np.divide(row["bbox"], (WIDTH, HEIGHT) * 2).tolist()),
)
add(
    "numbers as strings in bbox",
    "refused: contains strings: write the numbers without quotes",
    "box_strings",
    each("bbox", lambda row: [str(v) for v in row["bbox"]]),
)
add("bbox absent beside a mask", "repaired: boxes_computed", "no_boxes", each("bbox", lambda row: None))
add("area absent, NaN or infinite", "repaired: areas_computed", "nan_area", each("area", lambda row: float("nan")))
add("iscrowd absent", "works", "no_iscrowd", each("iscrowd", lambda row: None))
add("every object is a crowd region", "warning: objects are crowd regions", "all_crowd", each("iscrowd", lambda row: 1))
add("no masks at all", "warning: these records hold boxes only", "boxes_only", each("segmentation", lambda row: []))
add(
    "no masks at all, as [[]]", "repaired: segmentations_emptied", "empty_lists", each("segmentation", lambda row: [[]])
)


@case("boxes only, in fractions of the image", "refused: their boxes look like fractions of the image")
def fractions_only(folder, coco):
    each("segmentation", lambda row: [])(folder, coco)
    each("bbox", lambda row: np.divide(row["bbox"], (WIDTH, HEIGHT) * 2).tolist())(folder, coco)


@case("half of the objects without a mask", "refused: --masks none prepares boxes only")
def half_without_masks(folder, coco):
    for row in coco["annotations"][::2]:
        row["segmentation"] = []


def first(kind, outcome, name, **changes):
    """A case of one bad annotation among six."""

    def change(folder, coco):
        coco["annotations"][0] |= changes

    add(kind, outcome, name, change)


first("an object without box and mask", "left out: mask_missing", "empty_object", segmentation=[], bbox=[0, 0, 0, 0])
first("a box without area", "left out: box_empty", "empty_box", bbox=[8, 6, 0, 16])
first("a polygon of two points", "left out: polygon_malformed", "two_points", segmentation=[[8, 6, 28, 22]])
first("NaN or null in a polygon", "left out: polygon_malformed", "nan", segmentation=[[8, 6, float("nan"), 6, 28, 22]])
first("integers too large for floats", "left out: box_malformed", "huge_integer", bbox=[8, 6, 20, 10**400])
first(
    "run lengths that do not add up",
    "left out: rle_malformed",
    "runs_too_long",
    segmentation=run_lengths(BOXES[0]) | {"counts": [5, 9]},
)
first("a point far outside the image", "left out: polygon_far_outside", "far", segmentation=[[8, 6, 2e8, 6, 28, 22]])
first("a box and a mask that disagree", "left out: box_mask_disagree", "one_disagrees", bbox=[30, 6, 20, 16])
first("specks beside a polygon", "repaired: polygons_dropped", "specks", segmentation=[rectangle(*BOXES[0]), [9, 9]])
first(
    "an object smaller than one pixel",
    "repaired: objects_tiny",
    "below_one_pixel",
    bbox=[8.1, 6.1, 0.3, 0.3],
    segmentation=[rectangle(8.1, 6.1, 0.3, 0.3)],
)
first(
    "a box that extends outside the image",
    "repaired: boxes_clipped",
    "outside",
    bbox=[-4, -3, 20, 16],
    segmentation=[rectangle(-4, -3, 20, 16)],
)
first("a hole as a second polygon", "works", "hole", segmentation=[rectangle(*BOXES[0]), rectangle(12, 10, 8, 6)])


@case("outlines of more than 2,000,000 pixels", "left out: polygon_too_long")
def endless_outline(folder, coco):
    coco["annotations"][0]["segmentation"] = [[v for i in range(50_000) for v in (0, i % 40, 60, i % 40)]]


# ---- names of files --------------------------------------------------------------------------------------------------


def renamed(kind, outcome, name, spelling, on_disk=None):
    """A case of image files called `on_disk(i)`, which the annotation file spells `spelling(i)`."""

    def change(folder, coco):
        for row in coco["images"]:
            if on_disk:
                target = folder / "images" / on_disk(row["id"])
                target.parent.mkdir(parents=True, exist_ok=True)
                (folder / "images" / row["file_name"]).rename(target)
            row["file_name"] = spelling(row["id"])

    add(kind, outcome, name, change)


renamed(
    "file names with folders, spaces, #, %, accents", "works", "names", "a b/é#50%{}.jpg".format, "a b/é#50%{}.jpg".format
)
renamed("backslashes in names", "repaired: file_names_corrected", "backslashes", "a\\{}.jpg".format, "a/{}.jpg".format)
renamed("upper or lower case differs", "repaired: file_names_corrected", "case_differs", "{}.JPG".format)
renamed("percent-encoded names", "repaired: file_names_corrected", "encoded", "a%20{}.jpg".format, "a {}.jpg".format)
renamed("the image folder's name in front", "repaired: file_names_corrected", "own_folder", "images/{}.jpg".format)
renamed(
    "another Unicode form of accents",
    "repaired: file_names_corrected",
    "unicode_form",
    lambda i: unicodedata.normalize("NFD", f"é{i}.jpg"),
    lambda i: f"é{i}.jpg",
)
renamed("names that leave the folder", "refused: leaves the folder through ..", "parent", "../images/{}.jpg".format)
renamed("absolute names of another machine", "refused: is absolute", "absolute", "/data/{}.jpg".format)
renamed("absolute names of Windows", "refused: is absolute", "windows", "C:\\data\\{}.jpg".format)
renamed("another suffix", "refused: no such file, but there is 1.jpg", "ending", "{}.png".format)
renamed("a URL as a name", "refused: is directly in --images", "url", "http://host/upload/{}.jpg".format)
renamed("half a surrogate pair in a name", "refused: half a character", "surrogate", "\ud800{}.jpg".format)


@case("absolute names inside of --images", "repaired: file_names_relative")
def absolute_inside(folder, coco):
    for row in coco["images"]:
        row["file_name"] = str(folder / "images" / row["file_name"])


@case("coco_url without file_name (LVIS)", "repaired: file_names_from_url")
def lvis(folder, coco):
    for row in coco["images"]:
        row["coco_url"] = f"http://images.cocodataset.org/train2017/{row.pop('file_name')}"


@case("another key than file_name", "refused: rename 'filename'")
def filename(folder, coco):
    for row in coco["images"]:
        row["filename"] = row.pop("file_name")


@case("images that are links to elsewhere", "refused: image_outside_root")
def links(folder, coco):
    for row in coco["images"]:
        path = folder / "images" / row["file_name"]
        path.symlink_to(path.rename(folder / f"blob{row['id']}"))


# ---- images ----------------------------------------------------------------------------------------------------------


@case("height and width absent, null or -1", "refused: both must be the image's, in pixels")
def no_sizes(folder, coco):
    for row in coco["images"]:
        row |= {"height": None, "width": -1}


@case("height and width swapped, or of another scale", "refused: image_size_differs")
def swapped_sizes(folder, coco):
    for row in coco["images"]:
        row |= {"height": WIDTH, "width": HEIGHT}


def oriented(kind, outcome, name, orientation, width, height):
    """A case of images stored as `width` x `height` with an EXIF orientation."""

    def change(folder, coco):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        for row in coco["images"]:
            save(folder / "images" / row["file_name"], pixels(width, height), exif=exif)

    add(kind, outcome, name, change)


oriented("an EXIF quarter turn, annotated upright", "repaired: images_turned", "upright", 6, HEIGHT, WIDTH)
oriented("an EXIF quarter turn, annotated as stored", "repaired: exif_ignored", "as_stored", 6, WIDTH, HEIGHT)
oriented("an EXIF half turn without further evidence", "repaired: images_turned", "half_turn", 3, WIDTH, HEIGHT)


@case("PNG, WebP, BMP, TIFF, palette, alpha, 16 bits", "repaired: images_converted")
def formats(folder, coco):
    for row, name in zip(coco["images"], ("a.webp", "b.bmp", "c.tif"), strict=True):
        row["file_name"] = name
        save(folder / "images" / name, pixels())


def broken(kind, outcome, name, content):
    def change(folder, coco):
        for row in coco["images"]:
            (folder / "images" / row["file_name"]).write_bytes(content)

    add(kind, outcome, name, change)


broken("an HTML page for an image", "refused: image_unreadable", "page", b"<html>404 Not Found</html>")
broken(
    "a Git LFS pointer for an image", "refused: git lfs pull", "lfs", b"version https://git-lfs.github.com/spec/v1\n"
)
broken("an empty file for an image", "refused: image_unreadable", "empty", b"")


@case("a truncated image", "left out: image_unreadable")
def cut_image(folder, coco):
    path = folder / "images" / "1.jpg"
    path.write_bytes(path.read_bytes()[:400])


@case("an image larger than --max_pixels", "refused: raise --max_pixels")
def large(folder, coco):
    return ["--max_pixels=100"]


# ---- the annotation file ---------------------------------------------------------------------------------------------


@case("a byte order mark, or UTF-16", "repaired: file_recoded")
def byte_order_mark(folder, coco):
    return json.dumps(coco).encode("utf-8-sig")


@case("Latin-1", "refused: is not UTF-8")
def latin1(folder, coco):
    return json.dumps(coco).replace("nut", "Nüsse").encode("latin-1")


@case("truncated JSON", "refused: it was cut")
def cut(folder, coco):
    return json.dumps(coco).encode()[:-200]


@case("compressed (gzip, zip, ...)", "refused: unpack it first")
def compressed_file(folder, coco):
    return gzip.compress(json.dumps(coco).encode())


@case("text that is not JSON (CSV, YOLO's labels)", "refused: is not JSON: it begins with")
def text(folder, coco):
    return b"0 0.5 0.5 0.1 0.1\n"


@case("JSON lines", "refused: contains several JSON values")
def lines(folder, coco):
    return b'{"a": 1}\n{"a": 2}\n'


@case("a list (COCO's results)", "refused: it holds a list")
def results(folder, coco):
    return b"[]"


@case("another tool's JSON", "refused: its keys are shapes")
def labelme(folder, coco):
    return b'{"shapes": []}'


@case("annotations as a dict by id (LIVECell)", "repaired: lists_from_dicts")
def dict_of_annotations(folder, coco):
    coco["annotations"] = {str(row["id"]): row for row in coco["annotations"]}


@case("a test set without annotations", "refused: a test set")
def test_set(folder, coco):
    del coco["annotations"]


@case("a panoptic file", "refused: this is a panoptic file")
def panoptic(folder, coco):
    coco["annotations"] = [{"image_id": i, "file_name": f"{i}.png", "segments_info": []} for i in (1, 2, 3)]


@case("no images, or no annotations", "refused: is empty")
def nothing(folder, coco):
    coco["annotations"] = []


@case("images without objects beside others", "works")
def background(folder, coco):
    coco["annotations"] = [*coco["annotations"][:2], coco["annotations"][3]]


@case("several files", "refused: merge several files first")
def several(folder, coco):
    return "*.json"
