"""Kinds of input: file names, images, and the annotation file itself."""

import bz2
import gzip
import json
import unicodedata
import zlib

import PIL.Image

from tests.pipelines.field_cases.case import (
    HEIGHT,
    WIDTH,
    add,
    case,
    pixels,
    save,
)

# ---- names of files --------------------------------------------------------------------------------------------------


def renamed(kind, outcome, name, spelling, on_disk=None):
    """Adds a case of image files named `on_disk(i)`, which the annotation file spells `spelling(i)`."""

    def change(folder, coco):
        for row in coco["images"]:
            if on_disk:
                target = folder / "images" / on_disk(row["id"])
                target.parent.mkdir(parents=True, exist_ok=True)
                (folder / "images" / row["file_name"]).rename(target)
            row["file_name"] = spelling(row["id"])

    add(kind, outcome, name, change)


renamed(
    "file names with folders, spaces, #, %, accents",
    "works",
    "names",
    "a b/é#50%{}.jpg".format,
    "a b/é#50%{}.jpg".format,
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
renamed("half a surrogate pair in a name", "refused: unpaired surrogate", "surrogate", "\ud800{}.jpg".format)


@case("absolute names inside --images", "repaired: file_names_relative")
def absolute_inside(folder, coco):
    for row in coco["images"]:
        row["file_name"] = str(folder / "images" / row["file_name"])


@case("coco_url without file_name (LVIS)", "repaired: file_names_from_url")
def lvis(folder, coco):
    for row in coco["images"]:
        row["coco_url"] = f"http://images.cocodataset.org/train2017/{row.pop('file_name')}"
        row |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    for row in coco["annotations"]:
        del row["iscrowd"]


@case("another key than file_name", "refused: rename 'filename'")
def filename(folder, coco):
    for row in coco["images"]:
        row["filename"] = row.pop("file_name")


@case("images that are links to elsewhere", "refused: image_outside_root")
def links(folder, coco):
    for row in coco["images"]:
        path = folder / "images" / row["file_name"]
        path.symlink_to(path.rename(folder / f"blob{row['id']}"))


@case("the same with --follow_links", "works")
def followed_links(folder, coco):
    links(folder, coco)
    return ["--follow_links"]


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
    """Adds a case of images stored as `width` x `height` with an EXIF orientation."""

    def change(folder, coco):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        for row in coco["images"]:
            save(folder / "images" / row["file_name"], pixels(width, height), exif=exif)

    add(kind, outcome, name, change)


oriented("an EXIF quarter turn, annotated upright", "repaired: images_turned", "upright", 6, HEIGHT, WIDTH)
oriented("an EXIF quarter turn, annotated as stored", "repaired: exif_ignored", "as_stored", 6, WIDTH, HEIGHT)
oriented("an EXIF half turn without further evidence", "repaired: images_turned", "half_turn", 3, WIDTH, HEIGHT)


@case("WebP, BMP, TIFF, palette, alpha, 16-bit gray", "repaired: images_converted")
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


@case("compressed with gzip", "repaired: file_unpacked")
def gzipped(folder, coco):
    return gzip.compress(json.dumps(coco).encode())


@case("compressed otherwise (zip, bzip2, xz, ...)", "refused: unpack it first")
def compressed_file(folder, coco):
    return bz2.compress(json.dumps(coco).encode())


@case("a few bytes of gzip that unpack to gigabytes", "refused: unpacks to more than")
def bomb(folder, coco):
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()


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


@case("no images", "refused: is empty")
def nothing(folder, coco):
    coco["images"] = []


@case("no annotations (background only)", "warning: no record contains an object")
def background_only(folder, coco):
    coco["annotations"] = []


@case("images without objects beside others", "works")
def background(folder, coco):
    coco["annotations"] = [*coco["annotations"][:2], coco["annotations"][3]]


def write(folder, name, coco):
    (folder / name).write_text(json.dumps(coco), encoding="utf-8")


@case("several files whose ids repeat", "repaired: image_ids_renumbered")
def several(folder, coco):
    write(folder, "1.json", coco | {"images": coco["images"][:2], "annotations": coco["annotations"][:4]})
    part = coco | {"images": coco["images"][2:], "annotations": coco["annotations"][4:]}
    write(folder, "2.json", json.loads(json.dumps(part).replace('"id": 3,', '"id": 1,').replace('_id": 3', '_id": 1')))
    return "?.json"


@case("several files of the same images", "repaired: annotations_repeated")
def several_copies(folder, coco):
    write(folder, "1.json", coco)
    write(folder, "2.json", coco)
    return "?.json"


@case("several files with other classes or ids of classes", "warning: it lacks nut")
def several_classes(folder, coco):
    write(folder, "1.json", coco)
    one = {"categories": [{"id": 2, "name": "cell"}], "annotations": [coco["annotations"][0] | {"category_id": 2}]}
    write(folder, "2.json", coco | one)
    return "?.json"
