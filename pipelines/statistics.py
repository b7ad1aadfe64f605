"""Dataset statistics: objects per class and per image, and the sizes and shapes of their boxes."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from htc_tf.data.datasets import DatasetInfo
from htc_tf.data.schema import Object, Record
from htc_tf.visualization import fonts

BAR = 32
ROW = "{name:<22}{count:>9,}  {bar}"
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

    def add(self, record: Record) -> None:
        """Adds one record."""
        self.images += 1
        self.per_image[len(record.objects)] += 1
        for item in record.objects:
            self.classes[item.label] += 1
            if item.is_crowd:
                self.crowd += 1
            else:
                self._measure(item, record.image.height, record.image.width)

    def _measure(self, item: Object, height: int, width: int):
        box_height, box_width = (item.ymax - item.ymin) * height, (item.xmax - item.xmin) * width
        self.areas[_first_above(AREAS, item.area)] += 1
        self.sides[_bin(SIDES, math.sqrt(box_height * box_width))] += 1
        self.aspects[_first_above(ASPECTS, box_width / max(box_height, MIN_SIDE))] += 1


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
        *_histogram({_range(OBJECTS, least): per_image[least] for least in OBJECTS}),
        "",
        "objects by area, COCO's sizes",
        *_histogram({name: stats.areas[name] for name in AREAS}),
        "",
        "boxes by side, √(width · height), pixels",
        *_histogram({_range(SIDES, least): stats.sides[least] for least in SIDES}),
        "",
        "boxes by aspect, width : height",
        *_histogram({name: stats.aspects[name] for name in ASPECTS}),
        "",
        "objects per class",
    ]
    names = {category.id: category.name for category in info.categories}
    lines += _histogram({names[category_id]: number for category_id, number in stats.classes.most_common()})
    unseen = [name for category_id, name in names.items() if not stats.classes[category_id]]
    if unseen:
        lines.append(f"without an object: {', '.join(map(fonts.in_table, unseen))}")
    return "\n".join(lines)


def describe_masks(info: DatasetInfo) -> str:
    """Describes which masks the records hold."""
    if not info.masks:
        return "boxes only, no masks"
    return "masks, and PNGs of them for Model Garden" if info.options.get("masks") == "png" else "masks"


def _bin(bins: Sequence[int], value: float) -> int:
    return next(least for least in reversed(bins) if value >= least)


def _first_above(ends: dict[str, float], value: float) -> str:
    return next(name for name, end in ends.items() if value < end)


def _range(bins: Sequence[int], least: int) -> str:
    place = bins.index(least)
    if place == len(bins) - 1:
        return f"{least} or more"
    last = bins[place + 1] - 1
    return f"{least}" if least == last else f"{least} to {last}"


def _histogram(counts: dict[str, int]) -> list[str]:
    largest = max([*counts.values(), 1])
    return [
        ROW.format(name=f"  {fonts.in_table(name, 19)}", count=number, bar="█" * -(-BAR * number // largest)).rstrip()
        for name, number in counts.items()
    ]
