"""Dataset statistics: objects per class and per image, and the sizes and shapes of their boxes."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from htc_tf.data.datasets import Category, DatasetInfo
from htc_tf.data.shard_index import ShardIndex
from htc_tf.visualization import fonts

BAR = 32
ROW = "{name:<22}{count:>9,}  {bar}"
LONGEST_NAME = 19  # letters of a row's name
OBJECTS = (0, 1, 2, 4, 8, 16, 32)  # lower ends of the bins
# COCO's size classes, by the area of the mask in square pixels (pycocotools.cocoeval).
AREAS = {"small, below 32²": 32**2, "medium, below 96²": 96**2, "large": math.inf}
SIDES = (0, 8, 16, 32, 64, 128, 256, 512)  # lower ends of the bins, pixels
# Upper ends of the bins of width / height, symmetric around 1.
ASPECTS = {
    "taller than 1:4": 1 / 4,
    "1:4 to 1:2": 1 / 2,
    "1:2 to 2:3": 2 / 3,
    "2:3 to 3:2": 3 / 2,
    "3:2 to 2:1": 2,
    "2:1 to 4:1": 4,
    "wider than 4:1": math.inf,
}
MIN_SIDE = 1e-6  # pixels; single precision may round the height of a thin box to 0


@dataclass
class Statistics:
    """Counts over records. Sizes and shapes exclude crowd regions."""

    images: int = 0
    crowd: int = 0
    classes: Counter = field(default_factory=Counter)  # category id -> objects
    per_image: Counter = field(default_factory=Counter)  # number of objects -> images
    areas: Counter = field(default_factory=Counter)  # name in AREAS -> objects
    sides: Counter = field(default_factory=Counter)  # lower end in SIDES -> objects
    aspects: Counter = field(default_factory=Counter)  # name in ASPECTS -> objects

    @property
    def objects(self) -> int:
        return self.classes.total()

    def add(self, index: ShardIndex) -> None:
        """Adds the records of an index."""
        self.images += len(index.counts)
        self.crowd += int(index.crowd.sum())
        self.classes.update(index.categories.tolist())
        self.per_image.update(index.counts.tolist())
        single, owners = ~index.crowd, index.owners
        top, left, bottom, right = index.boxes[single].T.astype(np.float64)
        with np.errstate(invalid="ignore"):  # a hostile box counts as large
            # Records hold fractions of the image in single precision: without rounding, 8 pixels may be 7.9999.
            heights = ((bottom - top) * index.heights[owners][single]).round(2)
            widths = ((right - left) * index.widths[owners][single]).round(2)
            sides = np.sqrt(heights * widths)
            aspects = widths / np.maximum(heights, MIN_SIDE)
        self.areas.update(_names(AREAS, index.areas[single]))
        self.aspects.update(_names(ASPECTS, aspects))
        self.sides.update(SIDES[place - 1] for place in np.digitize(sides, SIDES))


def describe(info: DatasetInfo, stats: Statistics) -> str:
    """Returns the statistics as text: totals and histograms."""
    mean = stats.objects / max(stats.images, 1)
    per_image = Counter()
    for number, images in stats.per_image.items():
        per_image[_bin(OBJECTS, number)] += images
    lines = [
        f"{info.folder}: {stats.images:,} images, {stats.objects:,} objects ({stats.crowd:,} crowd regions), "
        f"{info.num_classes} classes",
        f"{describe_masks(info)}; "
        + (f"stuff maps of {info.stuff.labels} labels" if info.stuff.present else "no stuff maps"),
        "",
        f"objects per image: {mean:.1f} on average, at most {max(stats.per_image, default=0)}",
        *_histogram((_range(OBJECTS, least), per_image[least]) for least in OBJECTS),
        "",
        "objects by area, COCO's sizes",
        *_histogram((name, stats.areas[name]) for name in AREAS),
        "",
        "boxes by side, √(width · height), pixels",
        *_histogram((_range(SIDES, least), stats.sides[least]) for least in SIDES),
        "",
        "boxes by aspect, width : height",
        *_histogram((name, stats.aspects[name]) for name in ASPECTS),
        "",
        "objects per class",
    ]
    names = _class_names(info.categories)
    lines += _histogram((names.get(key, str(key)), number) for key, number in stats.classes.most_common())
    unseen = [name for category_id, name in names.items() if not stats.classes[category_id]]
    if unseen:
        lines.append(f"without an object: {', '.join(map(fonts.in_table, unseen))}")
    return "\n".join(lines)


def describe_masks(info: DatasetInfo) -> str:
    """Describes which masks the records hold."""
    if not info.masks:
        return "boxes only, no masks"
    return "masks, and PNGs of them for Model Garden" if info.options.get("masks") == "png" else "masks"


def _class_names(categories: Sequence[Category]) -> dict[int, str]:
    """Returns the classes' names by id; those that several share get their ids, and are cut to leave room for them."""
    counts = Counter(category.name for category in categories)
    names = {}
    for category in categories:
        names[category.id] = category.name
        if counts[category.name] > 1:
            number = f" ({category.id})"
            names[category.id] = fonts.in_table(category.name, LONGEST_NAME - len(number)) + number
    return names


def _bin(bins: Sequence[int], value: float) -> int:
    return next(least for least in reversed(bins) if value >= least)


def _names(ends: dict[str, float], values: np.ndarray) -> list[str]:
    names = list(ends)
    return [names[min(place, len(names) - 1)] for place in np.digitize(values, list(ends.values()))]


def _range(bins: Sequence[int], least: int) -> str:
    place = bins.index(least)
    if place == len(bins) - 1:
        return f"{least} or more"
    last = bins[place + 1] - 1
    return f"{least}" if least == last else f"{least} to {last}"


def _histogram(counts: Iterable[tuple[str, int]]) -> list[str]:
    """Returns a row for each (name, count)."""
    rows = [(fonts.in_table(name, LONGEST_NAME), number) for name, number in counts]
    largest = max([*(number for _, number in rows), 1])
    return [
        ROW.format(name=f"  {name}", count=number, bar="█" * -(-BAR * number // largest)).rstrip()
        for name, number in rows
    ]
