"""python -m tests.studies.photos: a learning curve on photographs, people in the COCO sample.

The demo's small network learns to find people in some, and then in more, of the sample's training images, from the
weights of drawn letters and from nothing, and is evaluated on the sample's validation images. The table and the plot
are a section of docs/results.md, written after every training. Run again, the command continues after the last finished
training.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tests.studies import recorded

CONFIGURATION, OVERRIDE = "gin/htc_shapes.gin", "gin/options/few_photos.gin"
WEIGHTS = "gin/weights/letters.safetensors"
SAMPLE = Path("../shared/data/coco_sample")
CLASS = "person"
IMAGES = (150, 75, 38)  # training images; the smaller sets are parts of the larger ones
SEEDS = (0,)
STARTS = {"letters": [f"--init_from={WEIGHTS}"], "nothing": []}
SECTION = "People in photographs"
PLOT = "photos.png"  # beside the page
RESULTS = recorded.ROOT / "docs" / "photos.json"


class Training(NamedTuple):
    """A training of the study."""

    images: int
    start: str  # of STARTS
    seed: int

    @property
    def name(self):
        return f"{self.images}_images_from_{self.start}_seed{self.seed}"


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.photos", description=__doc__)
    parser.add_argument("--sample", type=Path, default=SAMPLE, help="a small data set in COCO's layout")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES, help="numbers of training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="a training per number, start and seed")
    parser.add_argument("--gin_param", action="append", default=[], help="a binding after the gin files; repeatable")
    parser.add_argument("--workdir", type=Path, default=Path("runs/photos"), help="records, runs and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file of the results so far")
    parser.add_argument("--write_only", action="store_true", help="train nothing; write what is finished")
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def choose(data, number=None):
    """Returns COCO annotations of one class in the first images by id, the images without it included.

    Args:
        data: COCO annotations of all classes.
        number: Number of images; None for all.
    """
    (kept,) = (category for category in data["categories"] if category["name"] == CLASS)
    images = sorted(data["images"], key=lambda image: image["id"])[:number]
    ids = {image["id"] for image in images}
    objects = [o for o in data["annotations"] if o["category_id"] == kept["id"] and o["image_id"] in ids]
    return {**data, "images": images, "annotations": objects, "categories": [kept]}


def prepare(sample, folder, split, number=None):
    """Writes the annotations that `choose` returns and their records, unless they exist.

    Returns:
        (records, annotations)
    """
    records = folder / (split if number is None else f"{split}_{number}")
    annotations = records.with_suffix(".json")
    if not (records / "dataset_info.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        data = json.loads((sample / "annotations" / f"instances_{split}2017.json").read_text())
        annotations.write_text(json.dumps(choose(data, number)))
        flags = ["--annotations", annotations, "--images", sample / f"{split}2017", "--output", records]
        recorded.run_module(folder / "data.log", "pipelines.coco_to_tfrecord", *flags)
    return records, annotations


def plan(training, params):
    """Returns the flags of htc_tf.train for a Training."""
    params = ["CHECKPOINT_EVERY=0", *params]
    files = [f"--gin_file={file}" for file in (CONFIGURATION, OVERRIDE)]
    return [*files, *(f"--gin_param={param}" for param in params), *STARTS[training.start]]


def group(entries):
    """Returns {(images, start): {kind: [AP of each seed]}} of {Training: the cached result}."""
    groups = {}
    for training, entry in entries.items():
        found = groups.setdefault((training.images, training.start), {name: [] for name in recorded.METRICS})
        for name, values in found.items():
            values.append(entry["metrics"][name])
    return groups


def report(entries, plot, flags):
    """Returns the section's lines.

    Args:
        entries: {Training: the cached result}; some may be missing yet.
        plot: Path of the plot to write.
        flags: The flags of this command.
    """
    draw(entries).savefig(plot, dpi=100)
    rows = []
    for (images, start), found in sorted(group(entries).items()):
        cells = [recorded.format_seeds(values)[0] for values in found.values()]
        rows.append([str(images), start, *cells, recorded.format_seeds(found["segm/AP50"])[1]])
    cost = sum(entry[part][0] for entry in entries.values() for part in ("train", "evaluate"))
    steps = next(iter(entries.values()))["losses"][-1][0] if entries else 0
    params = "".join(
        f" --{name} {' '.join(map(str, chosen))}"
        for name, chosen, usual in (("images", flags.images, IMAGES), ("seeds", flags.seeds, SEEDS))
        if tuple(chosen) != usual
    )
    params += "".join(f' --gin_param "{param}"' for param in flags.gin_param)
    seeds = ", ".join(map(str, flags.seeds))
    return [
        f"`make photos` (`python -m tests.studies.photos --sample DIR{params}`) trains `{CONFIGURATION}` with "
        f"`{OVERRIDE}` for {steps:,} steps of 4 images to find people in the first training images, by id, of a small "
        "part of COCO, and evaluates on all of its validation images: from the weights that the demo starts from, "
        "which have seen drawn letters only, and from nothing. "
        + (f"Seeds {seeds}; ± is the standard deviation over them." if len(flags.seeds) > 1 else f"Seed {seeds}."),
        "",
        "The figures are low, as they must be: a network of 4 million weights that has never seen a photograph learns "
        "from at most 150. They rise with the number of images, which is what this section shows. Begin with weights "
        "of COCO or ImageNet instead ([training.md](training.md)).",
        "",
        *recorded.format_table(
            ["training images", "weights from", "box AP", "box AP50", "mask AP", "mask AP50", "mask AP50 by seed"], rows
        ),
        "",
        f"![AP50 over the number of training images]({plot.name})",
        "",
        f"{len(entries)} trainings and their evaluations took {cost:,.0f} CPU-seconds on "
        f"{recorded.machines_of(entries.values())}. [{RESULTS.name}]({RESULTS.name}) has each training's losses.",
    ]


def draw(entries):
    """Draws AP50 over the number of training images, from letters and from nothing: a matplotlib Figure."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    groups = sorted(group(entries).items())
    for axes, (kind, name) in zip(figure.subplots(1, 2), recorded.KINDS.items(), strict=True):
        for start, color in (("letters", "#0072b2"), ("nothing", "#d55e00")):
            points = [(images, found[f"{name}50"]) for (images, begun), found in groups if begun == start]
            if points:
                numbers, values = zip(*points, strict=True)
                axes.plot(numbers, [np.mean(of) for of in values], color=color, label=f"weights from {start}")
                seeds = [(number, value) for number, of in points for value in of]
                axes.plot(*zip(*seeds, strict=True), "o", color=color, alpha=0.6)
        axes.set(xlabel="training images", ylim=(0, None), xlim=(0, None))
        axes.set_title(f"{kind} AP50, people", loc="left")
        axes.grid(color="#e2e2e0")
    axes.legend(frameon=False, loc="lower right")
    return figure


def main():
    flags = parse()
    folder = flags.workdir.resolve()

    def train(training, how):
        records, _ = prepare(flags.sample, folder / "data", "train", training.images)
        validation = prepare(flags.sample, folder / "data", "val")
        run = folder / training.name
        return recorded.train_and_evaluate(run, how, records, *validation, training.seed)

    def write(entries):
        recorded.write_section(flags.output, SECTION, report(entries, flags.output.with_name(PLOT), flags))

    trainings = [Training(images, start, seed) for seed in flags.seeds for images in flags.images for start in STARTS]
    plans = {training: plan(training, flags.gin_param) for training in trainings}
    recorded.run_study("photos", plans, recorded.ResultCache(flags.results), train, write, flags.write_only)
    print(f"wrote the section '{SECTION}' of {flags.output}")


if __name__ == "__main__":
    main()
