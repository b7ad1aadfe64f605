"""python -m tests.studies.ablation: the four rows of the paper's ablation on the drawn scenes, with three seeds each.

Each trains gin/htc_shapes.gin for the same steps, with the overlays that the row's file in gin/ablation takes from full
HTC, and is evaluated on scenes that no training sees. The table is a section of docs/results.md, written after every
training. Run again, it goes on after the last training that was done.
"""

import argparse
import itertools
import re
from pathlib import Path

import numpy as np

from tests.studies import recorded

CONFIGURATION = "gin/htc_shapes.gin"
STEPS = 1200
SCENES = {"train": 2000, "val": 200}  # as `make demo` draws them
DATA_SEED = 0
SECTION = "The paper's ablation, on drawn scenes"
KINDS = {"box": "bbox/AP", "mask": "segm/AP"}


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.ablation", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/demo"), help="shapes/ and records/; made where absent")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gin_param", action="append", default=[], help="after the gin files; repeatable")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--write_only", action="store_true", help="train nothing; write the table of what is done")
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def switches(row):
    """The overlays that a row's gin file takes from full HTC: ["gin/options/no_semantic.gin", ...]."""
    text = (recorded.ROOT / "gin" / "ablation" / f"{row}.gin").read_text()
    return re.findall(r"^include '(gin/options/no_\w+\.gin)'$", text, re.MULTILINE)


def make_data(folder):
    """The demo's scenes and records, as `make demo` makes them, where they are not there already.

    Returns:
        (records to learn from, records to detect in, the truth of those)
    """
    shapes, records = folder / "shapes", folder / "records"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "data.log"
    if not all((records / split / "dataset_info.json").exists() for split in SCENES):
        counts = [word for split, number in SCENES.items() for word in (f"--{split}", number)]
        recorded.call(log, "pipelines.shapes", "--output", shapes, *counts, "--seed", DATA_SEED)
        for split in SCENES:
            flags = ["--annotations", annotations_of(shapes, split), "--images", shapes / f"{split}2017"]
            flags += ["--stuff", shapes / "stuffthingmaps" / f"{split}2017", "--output", records / split]
            recorded.call(log, "pipelines.coco_to_tfrecord", *flags)
    return records / "train", records / "val", annotations_of(shapes, "val")


def annotations_of(shapes, split):
    return shapes / "annotations" / f"instances_{split}2017.json"


def spread(values):
    """The standard deviation that two values or more let expect of others."""
    return float(np.std(values, ddof=1))


def gains(before, after):
    """What one row has over another.

    Args:
        before, after: [S] AP of the two, by seed.
    Returns:
        (mean of the differences, their standard error: infinite where one seed alone is known)
    """
    differences = np.subtract(after, before)
    count = len(differences)
    return float(differences.mean()), spread(differences) / count**0.5 if count > 1 else float("inf")


def judge(found):
    """A sentence on which differences between rows are more than chance.

    Args:
        found: {row: {kind: [S] AP by seed}}, in the rows' order, of the same seeds.
    """
    told, chance = [], []
    rows = list(found)
    for before, after in itertools.pairwise(rows):
        for kind in KINDS:
            gain, error = gains(found[before][kind], found[after][kind])
            words = f"{recorded.title_of(after)}, {kind} AP {gain:+.3f} ± {error:.3f}"
            (told if abs(gain) > 2 * error else chance).append(words)
    return [
        "Differences from the row above by more than twice their standard error (over the seeds, paired): "
        f"{'; '.join(told) or 'none'}.",
        f"Within it, and so not to be told from chance: {'; '.join(chance) or 'none'}.",
    ]


def report(entries, flags):
    """The section's lines.

    Args:
        entries: {(row, seed): what the notebook has of it}; some may be missing yet.
        flags: of this command.
    """
    params = "".join(f' --gin_param "{param}"' for param in flags.gin_param)
    rows, found = [], {}
    for row in recorded.ROWS:
        done = {seed: entries[row, seed]["metrics"] for seed in flags.seeds if (row, seed) in entries}
        values = {kind: [metrics[name] for metrics in done.values()] for kind, name in KINDS.items()}
        if len(done) == len(flags.seeds):
            found[row] = values
        cells = [recorded.title_of(row)]
        for kind in KINDS:
            each = ", ".join(f"{value:.3f}" for value in values[kind])
            mean = f"**{np.mean(values[kind]):.3f}**" if done else "not yet"
            cells += [f"{mean} ± {spread(values[kind]):.3f}" if len(done) > 1 else mean, each]
        rows.append([*cells, "{:.1f} / {:.1f}".format(*recorded.published(row))])
    cost = [entry[part] for entry in entries.values() for part in ("train", "evaluate")]
    wanted = len(recorded.ROWS) * len(flags.seeds)
    lines = [
        f"`make ablation` (`python -m tests.studies.ablation --steps {flags.steps} --seeds {' '.join(map(str, flags.seeds))}"
        f"{params}`) trains the four rows of the paper's table 3 on the demo's {SCENES['train']:,} drawn scenes: "
        f"`{CONFIGURATION}`, {flags.steps:,} steps of 2 images each, seeds {', '.join(map(str, flags.seeds))} "
        f"(of weights, order and sampling). AP is COCO's, on the {SCENES['val']} scenes that training never sees; ± is "
        "the standard deviation over the seeds.",
        "",
        *recorded.format_table(
            [
                *("row", "box AP", "by seed", "mask AP", "by seed"),
                "box / mask AP in the paper (R50, COCO, 20 epochs)",
            ],
            rows,
        ),
        "",
        f"{len(entries)} of {wanted} trainings are done; with their evaluations they took "
        f"{sum(cpu for cpu, _ in cost):,.0f} CPU-seconds on {recorded.describe_machine()}.",
    ]
    return lines + (["", *judge(found), "", CAVEAT] if len(found) == len(recorded.ROWS) else [])


CAVEAT = (
    "The paper's differences are those of a network that has converged on photographs; here a small one sees small "
    "scenes for a few minutes. The table shows that every row trains and what each part does to begin with, no more."
)


def plan(flags):
    """{(row, seed): the training's configuration flags}, seed by seed: all rows of one come first."""
    params = [f"STEPS={flags.steps}", "CHECKPOINT_EVERY=0", *flags.gin_param]
    return {
        (row, seed): [f"--gin_file={file}" for file in (CONFIGURATION, *switches(row))]
        + [f"--gin_param={param}" for param in params]
        for seed in flags.seeds
        for row in recorded.ROWS
    }


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    notebook = recorded.Notebook(folder / "done.json")
    trainings = {(row, seed, f"{row}_seed{seed}"): how for (row, seed), how in plan(flags).items()}
    found = {(row, seed): notebook.find(name, how) for (row, seed, name), how in trainings.items()}
    entries = {key: entry for key, entry in found.items() if entry}
    if flags.write_only:
        recorded.write_section(flags.output, SECTION, report(entries, flags))
        return
    train_records, records, annotations = make_data(flags.data.resolve())
    for (row, seed, name), how in trainings.items():
        if (row, seed) not in entries:
            print(f"{name}: trains; follow it in {folder / name}.log", flush=True)
            outcome = recorded.play(folder / name, how, train_records, records, annotations, seed)
            entries[row, seed] = notebook.add(name, how, outcome)
        metrics = entries[row, seed]["metrics"]
        print(f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items()), flush=True)
        recorded.write_section(flags.output, SECTION, report(entries, flags))


if __name__ == "__main__":
    main()
