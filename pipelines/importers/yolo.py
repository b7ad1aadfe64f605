"""YOLO's text files, one per image: an object a line, as a box or a polygon in fractions of the image's size.

Format: https://docs.ultralytics.com/datasets/segment. The images are in a folder `images` where the text files are in
`labels`, or beside them. data.yaml or classes.txt names the classes.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from htc_tf.errors import listed

from ..checks import Rejected, show
from . import documents, image_files
from .labeled import LabeledImage, LabeledObject

ENDINGS = (".txt",)
IGNORED = ()
CLASS_FILES = ("classes.txt", "obj.names")
YAML_FILES = ("data.yaml", "dataset.yaml")
SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}  # keys of data.yaml
MAX_YAML = 1 << 20  # bytes of data.yaml
MAX_FRACTION = 2  # of a point: further outside of the image, it is in pixels


def read(path: Path, images: Path) -> Iterator[LabeledImage]:
    """Yields the image of a file; nothing if the file is a list of classes or of images, or a text to read."""
    stated = os.path.basename(path).lower()
    if stated in CLASS_FILES or stated.startswith("readme"):
        return
    text = documents.read_text(path)
    places = [*_swapped(path.parent, "labels", "images"), path.parent, images]
    name = image_files.find_by_stem(path.stem, places, images)
    if name is None:
        first = text.split(maxsplit=1)[:1]
        if first and not _is_number(first[0]):
            return
        raise Rejected("image_missing", f"no image {path.stem}.* beside it, in the folder 'images', or in {images}")
    names, _ = _names(str(path.parent), str(images))
    height, width = image_files.read_size(os.path.join(images, name))
    found, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line.strip():
                row = read_line(line.split(), names, height, width)
                found.append(row._replace(place=f"{path}: line {number}"))
        except Rejected as error:
            problems.append(f"line {number}: {error.detail}")
    yield LabeledImage(name, height, width, found, problems, _split(images, name, str(path.parent)))


def read_unlabeled(path: Path, images: Path) -> LabeledImage | None:
    """Returns an image without objects if the image's folder has labels: then no file means no object."""
    folders = [*_swapped(path.parent, "images", "labels"), path.parent]
    if any(os.path.isfile(folder / f"{path.stem}.txt") for folder in folders):
        return None
    if not any(folder.is_dir() for folder in folders[:-1]):
        return None
    name = path.relative_to(images).as_posix()
    return LabeledImage(name, *image_files.read_size(path), [], [], _split(images, name, str(path.parent)))


def read_classes(paths: list[Path], images: Path) -> list[str]:
    """Returns the names of data.yaml or classes.txt, in their order."""
    return list(dict.fromkeys(name for names in _name_lists(paths, images).values() for name in names))


def list_warnings(paths: list[Path], images: Path) -> list[str]:
    """Returns a text for each name that several classes of a data.yaml or classes.txt have."""
    texts = []
    for file, names in _name_lists(paths, images).items():
        places = defaultdict(list)
        for place, name in enumerate(names):
            places[name].append(str(place))
        texts += [
            f"{len(ids)} classes are named {show(name)} (numbers {listed(ids)} in {file}): they become one class"
            for name, ids in places.items()
            if name and len(ids) > 1
        ]
    return texts


def _name_lists(paths, images):
    """Returns {data.yaml or classes.txt: names} of label files."""
    found = {}
    for folder in dict.fromkeys(str(path.parent) for path in paths):
        try:
            names, file = _names(folder, str(images))
        except Rejected:  # its files are left out for that reason
            continue
        found[file] = names
    return found


def read_line(words: list[str], names: list[str], height: int, width: int) -> LabeledObject:
    """Returns the object of a line: class x y width height, or class x1 y1 x2 y2 x3 y3 ..."""
    if not all(map(_is_number, words)):
        raise Rejected("annotation_malformed", f"{show(' '.join(words))} are not numbers")
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise Rejected(
            "annotation_malformed", f"{len(words)} numbers: a class with a box has 5, with a polygon 7, 9, 11, ..."
        )
    number, *values = map(float, words)
    if not (number.is_integer() and 0 <= number < len(names) and names[int(number)]):
        raise Rejected("category_unknown", f"class {show(words[0])}: data.yaml or classes.txt has {len(names)} names")
    if abs(largest := max(values, key=abs)) > MAX_FRACTION:
        raise Rejected(
            "polygon_malformed", f"the numbers are not fractions of the image's width and height: {largest:g}"
        )
    label = names[int(number)]
    scaled = [value * (height if place % 2 else width) for place, value in enumerate(values)]
    if len(scaled) == 4:
        x, y, box_width, box_height = scaled
        return LabeledObject(label, None, [x - box_width / 2, y - box_height / 2, box_width, box_height])
    return LabeledObject(label, [scaled])


def _is_number(word):
    try:
        return abs(float(word)) < float("inf")
    except ValueError:
        return False


def _swapped(folder, old, new):
    """Yields the folder with the last of its parts that is `old` replaced by `new`, as Ultralytics finds labels."""
    parts = list(folder.parts)
    for place in reversed(range(len(parts))):
        if parts[place] == old:
            yield Path(*parts[:place], new, *parts[place + 1 :])
            return


@documents.cached(maxsize=1024)
def _names(folder: str, images: str) -> tuple[list[str], str]:
    """Returns the names of the classes for the labels in a folder, and the file that states them."""
    for above in _above(folder, images):
        for path in _yaml_files(above):
            content = _read_yaml(path)
            if "kpt_shape" in content:  # points with two numbers each look like those of an outline
                raise Rejected("annotation_malformed", f"{path} has kpt_shape: its labels are key points, not outlines")
            names = content["names"]
            if isinstance(names, dict) and all(key.isdecimal() and len(key) < 7 for key in names):
                names = [names.get(str(number), "") for number in range(max(map(int, names), default=-1) + 1)]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise Rejected("file_malformed", f"names in {path} is not a list of names")
            return [name.strip() for name in names], path
        for name in CLASS_FILES:
            if os.path.isfile(path := os.path.join(above, name)):
                return documents.read_lines(Path(path)), path
    raise Rejected(
        "category_unknown",
        f"no data.yaml or classes.txt in {folder} or above names the classes: write one name a line",
    )


@documents.cached(maxsize=1024)
def _stated_splits(folder: str, images: str) -> dict[str, str]:
    """Returns the split of each folder, or each image of a list, that data.yaml names, by real path."""
    splits, repeated = {}, set()
    for above in _above(folder, images):
        for file in _yaml_files(above):
            content = _read_yaml(file)
            root = content.get("path") if isinstance(content.get("path"), str) else ""
            for key in SPLITS.keys() & content.keys():
                stated = content[key] if isinstance(content[key], list) else [content[key]]
                for place in stated:
                    for path in _split_paths(place, [os.path.join(above, root), above]):
                        if splits.setdefault(path, SPLITS[key]) != SPLITS[key]:
                            repeated.add(path)
            return {path: split for path, split in splits.items() if path not in repeated}
    return {}


def _split_paths(stated, roots):
    """Returns the real path of a folder of data.yaml, or of each image that a list names."""
    if not isinstance(stated, str) or "\0" in stated:
        return []
    for root in roots:
        for name in (stated, stated.removeprefix("../")):  # Roboflow writes ../train/images for train/images
            path = os.path.join(root, name)
            if os.path.isdir(path):
                return [os.path.realpath(path)]
            if os.path.isfile(path) and name.endswith(".txt"):
                lines = documents.read_lines(Path(path))
                return [_listed_path(os.path.dirname(path), line) for line in lines if line and "\0" not in line]
    return []


def _listed_path(folder, line):
    path = os.path.join(folder, line)
    if not os.path.lexists(path):
        path = os.path.join(folder, line.removeprefix("data/"))  # CVAT writes data/images/train for images/train
    return os.path.realpath(path)


def _split(images, name, folder):
    """Returns the split that data.yaml states for an image; None if it states none or several."""
    stated = _stated_splits(folder, str(images))
    if not stated:
        return None
    path = os.path.realpath(os.path.join(images, name))
    while path not in stated and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return stated.get(path)


def _above(folder, images):
    """Yields a folder and those above it, up to the one that also holds the images."""
    folder, root = os.path.abspath(folder), os.path.abspath(images)
    top = os.path.commonpath([folder, root])
    while True:
        yield folder
        if folder == top:
            return
        folder = os.path.dirname(folder)


def _yaml_files(folder):
    """Returns the folder's YAML files that name classes, data.yaml first. Others may be anything, also unreadable."""
    try:
        listed = os.listdir(folder)
    except OSError:  # of a folder above, such as /home
        return []
    found = []
    for name in sorted(listed, key=lambda name: (name.lower() not in YAML_FILES, name)):
        if name.lower().endswith((".yaml", ".yml")):
            try:
                if "names" in _read_yaml(path := os.path.join(folder, name)):
                    found.append(path)
            except Rejected:
                if name.lower() in YAML_FILES:
                    raise
    return found


@documents.cached(maxsize=64)
def _read_yaml(path: str) -> dict[str, Any]:
    """Returns the content of a YAML file, in which all values are strings, lists and dicts."""
    try:
        if os.path.getsize(path) > MAX_YAML:
            raise Rejected("file_malformed", f"{path} has more than {MAX_YAML:,} bytes")
        # The base loader makes no other objects, and leaves a class `no` a string.
        content = yaml.load(documents.read_text(Path(path)), yaml.BaseLoader)
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise Rejected("file_malformed", f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    return content if isinstance(content, dict) else {}
