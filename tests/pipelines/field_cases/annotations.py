"""Kinds of input: ids, classes, boxes and masks."""

import json

import numpy as np

from tests.pipelines.field_cases.case import BOXES, HEIGHT, WIDTH, add, case, compressed, each, rectangle, run_lengths

# ---- ids -------------------------------------------------------------------------------------------------------------


@case("COCO's own form", "works")
def valid(folder, coco):
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


@case("names or UUIDs as image ids", "repaired: image_ids_renumbered")
def uuids(folder, coco):
    for row in coco["images"]:
        row["id"] = f"3f2504e0-{row['id']}"
    each("image_id", lambda row: f"3f2504e0-{row['image_id']}")(folder, coco)


@case("ids as strings and flat polygons (VIA)", "repaired: image_ids_renumbered")
def via(folder, coco):
    keys = {row["id"]: f"{row['file_name']}24671" for row in coco["images"]}  # name and bytes of the file
    for row in coco["images"]:
        row |= {"id": keys[row["id"]], "width": str(row["width"])}
    for row in coco["annotations"]:
        row |= {"id": str(row["id"]), "image_id": keys[row["image_id"]], "segmentation": row["segmentation"][0]}


@case("image ids as names in the images alone", "refused: image_id 1 is not among the images")
def uuids_without_reference(folder, coco):
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
add(
    "area absent, 0, negative, NaN or infinite",
    "repaired: areas_computed",
    "nan_area",
    each("area", lambda row: float("nan")),
)
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
    """Adds a case of one bad annotation among six."""

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
