"""python -m tests.studies.ablation: the paper's ablation on drawn scenes, four rows with three seeds each.

Each training runs gin/htc_shapes.gin for the same number of steps, with the overlays by which the row's file in
gin/ablation differs from full HTC, and is evaluated on scenes that no training sees. The table is a section of
docs/results.md, written after every training. Run again, the command continues after the last finished training.
"""

import argparse
import itertools
import re
from pathlib import Path

import numpy as np

from htc_tf.progress import progress_bar
from tests.studies import recorded

CONFIGURATION = "gin/htc_shapes.gin"
STEPS = 1200
SCENES = {"train": 2000, "val": 200}  # as `make demo` draws them
DATA_SEED = 0
SECTION = "The paper's ablation, on drawn scenes"


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.ablation", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/demo"), help="shapes/ and records/; made if missing")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default: {STEPS})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a training per row and seed")
    parser.add_argument("--gin_param", action="append", default=[], help="a binding after the gin files; repeatable")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"), help="results so far, runs and logs")
    parser.add_argument(
        "--write_only", action="store_true", help="train nothing; write the table of finished trainings"
    )
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def overlays(row):
    """Returns the overlays by which a row's gin file differs from full HTC: ["gin/options/no_semantic.gin", ...]."""
    text = (recorded.ROOT / "gin" / "ablation" / f"{row}.gin").read_text()
    return re.findall(r"^include '(gin/options/no_\w+\.gin)'$", text, re.MULTILINE)


def gains(before, after):
    """Compares two rows, paired by seed.

    Args:
        before, after: [S] AP of the two rows.
    Returns:
        (mean difference, its standard error: infinite for a single seed)
    """
    differences = np.subtract(after, before)
    count = len(differences)
    return float(differences.mean()), recorded.deviation(differences) / count**0.5 if count > 1 else float("inf")


def judge(found):
    """Returns lines on which differences between consecutive rows exceed chance.

    Args:
        found: {row: {kind: [S] AP by seed}}, in the rows' order, with the same seeds.
    """
    beyond, within = [], []
    for before, after in itertools.pairwise(found):
        for kind in recorded.KINDS:
            gain, error = gains(found[before][kind], found[after][kind])
            words = f"{recorded.title_of(after)}, {kind} AP {gain:+.3f} ± {error:.3f}"
            (beyond if abs(gain) > 2 * error else within).append(words)
    return [
        "Differences from the row above of more than twice their standard error (over the seeds, paired): "
        f"{'; '.join(beyond) or 'none'}.",
        f"Smaller ones, indistinguishable from chance: {'; '.join(within) or 'none'}.",
    ]


def report(entries, flags):
    """Returns the section's lines.

    Args:
        entries: {(row, seed): the cached result}; some may be missing yet.
        flags: The flags of this command.
    """
    params = "".join(f' --gin_param "{param}"' for param in flags.gin_param)
    seeds = " ".join(map(str, flags.seeds))
    rows, found = [], {}
    for row in recorded.ROWS:
        done = {seed: entries[row, seed]["metrics"] for seed in flags.seeds if (row, seed) in entries}
        values = {kind: [metrics[name] for metrics in done.values()] for kind, name in recorded.KINDS.items()}
        if len(done) == len(flags.seeds):
            found[row] = values
        cells = [recorded.title_of(row)]
        for kind in recorded.KINDS:
            cells += recorded.format_seeds(values[kind])
        rows.append([*cells, "{:.1f} / {:.1f}".format(*recorded.published(row))])
    cost = [entry[part] for entry in entries.values() for part in ("train", "evaluate")]
    wanted = len(recorded.ROWS) * len(flags.seeds)
    lines = [
        f"`make ablation` (`python -m tests.studies.ablation --steps {flags.steps} --seeds {seeds}{params}`) trains "
        f"the four rows of the paper's table 3 on the demo's {SCENES['train']:,} drawn scenes: `{CONFIGURATION}`, "
        f"{flags.steps:,} steps of 2 images, seeds {', '.join(map(str, flags.seeds))} (of weights, order and "
        f"sampling). AP is COCO's, on the {SCENES['val']} scenes that training never sees; ± is the standard deviation "
        "over the seeds.",
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
    "The paper's differences are those of a converged network on photographs; here a small network trains on small "
    "scenes for a few minutes. The table shows that every row trains and what each part contributes early on."
)


def plan(flags):
    """Returns {(row, seed): configuration flags}; all rows of one seed come first."""
    params = [f"STEPS={flags.steps}", "CHECKPOINT_EVERY=0", *flags.gin_param]
    return {
        (row, seed): [f"--gin_file={file}" for file in (CONFIGURATION, *overlays(row))]
        + [f"--gin_param={param}" for param in params]
        for seed in flags.seeds
        for row in recorded.ROWS
    }


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    cache = recorded.ResultCache(folder / "done.json")
    trainings = {(row, seed, f"{row}_seed{seed}"): how for (row, seed), how in plan(flags).items()}
    found = {(row, seed): cache.find(name, how) for (row, seed, name), how in trainings.items()}
    entries = {key: entry for key, entry in found.items() if entry}
    if flags.write_only:
        recorded.write_section(flags.output, SECTION, report(entries, flags))
        return
    train_records, records, annotations = recorded.make_data(flags.data.resolve(), SCENES, DATA_SEED)
    for (row, seed, name), how in progress_bar(trainings.items(), unit="training", desc="ablation"):
        if (row, seed) not in entries:
            print(f"{name}: training; its log is {folder / name}.log", flush=True)
            outcome = recorded.train_and_evaluate(folder / name, how, train_records, records, annotations, seed)
            entries[row, seed] = cache.add(name, how, outcome)
        metrics = entries[row, seed]["metrics"]
        print(f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items()), flush=True)
        recorded.write_section(flags.output, SECTION, report(entries, flags))
    print(f"wrote the section '{SECTION}' of {flags.output}")


if __name__ == "__main__":
    main()
