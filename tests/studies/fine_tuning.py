"""python -m tests.studies.fine_tuning: fine-tunes on a few drawn scenes of new classes, and compares with no weights.

A network is trained on scenes of some classes, without objects of others. Then networks for the other classes are
trained on a few scenes, from these weights and from nothing, for the same number of steps, with several seeds each. The
table is a section of docs/results.md, written after every training. --trials also tries other settings in place of the
override's, one training each. Run again, the command continues after the last finished training.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.scenes import THINGS
from tests.studies import recorded
from tests.studies.intervals import gains

CONFIGURATION = "gin/htc_shapes.gin"
OVERRIDE = "gin/options/fine_tune.gin"
NEW = ("triangle", "crescent", "hexagon")
KNOWN = tuple(name for name in THINGS if name not in NEW)
KNOWN_SCENES = {"train": 2000, "val": 150}
VALIDATION = 150  # scenes of new classes
IMAGES = 40  # of a fine-tuning
STEPS = 3000  # of the pretraining
SECTION = "Fine-tuning on a few images of new classes"

TUNED, NOTHING, FULL = "pretrained weights", "nothing", "nothing, at the full learning rate"
# Gin parameters of each row of the tables, in addition to the override's: of the arms, and of --trials.
ARMS = {TUNED: [], NOTHING: [], FULL: ["learning_rate.scale=1.0"]}
SETTINGS = [f"learning_rate.scale={scale}" for scale in (2.0, 1.0, 0.25, 0.1)]
SETTINGS += ["EPOCHS=12", "EPOCHS=48", "ResNet.frozen_stages=1", "ResNet.frozen_stages=2"]
TRIALS = {f"`{param}`": [param] for param in SETTINGS}
TRIALS[f"{FULL}, `EPOCHS=96`"] = [*ARMS[FULL], "EPOCHS=96"]


class Training(NamedTuple):
    """A training of the study: the pretraining, or a fine-tuning."""

    arm: str  # or trial
    seed: int = 0
    images: int = 0  # that it is fine-tuned on

    @property
    def name(self):
        return f"{self.images}_images_{slug(self.arm)}_seed{self.seed}" if self.images else self.arm


PRETRAINING = Training("pretrained")


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.fine_tuning", description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help=f"images to fine-tune on (default: {IMAGES})")
    parser.add_argument("--pretraining", type=int, default=STEPS, help=f"steps (default: {STEPS})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a training per arm and seed")
    parser.add_argument("--gin_param", action="append", default=[], help="a binding of all fine-tunings; repeatable")
    parser.add_argument("--trials", action="store_true", help="also try other settings in place of the override's")
    parser.add_argument("--workdir", type=Path, default=Path("runs/fine_tuning"), help="data, results so far, runs")
    parser.add_argument("--write_only", action="store_true", help="train nothing; write what is finished")
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def plan(flags, folder):
    """Returns {Training: flags of htc_tf.train}: the pretraining, then all arms of one seed, at last the trials.

    Args:
        flags: The flags of this command.
        folder: Path, where the run with the pretrained weights is.
    """
    first = [f"--gin_param=NUM_CLASSES={len(KNOWN)}", f"--gin_param=STEPS={flags.pretraining}"]
    runs = {PRETRAINING: [f"--gin_file={CONFIGURATION}", *first]}
    files = [f"--gin_file={file}" for file in (CONFIGURATION, OVERRIDE)]
    arms = [(arm, seed, params) for seed in flags.seeds for arm, params in ARMS.items()]
    trials = [(trial, 0, params) for trial, params in TRIALS.items()]
    for arm, seed, params in arms + trials:
        params = ["CHECKPOINT_EVERY=0", *flags.gin_param, *params]
        start = [] if arm.startswith(NOTHING) else [f"--init_from={folder / PRETRAINING.name}"]
        runs[Training(arm, seed, flags.images)] = [*files, *(f"--gin_param={param}" for param in params), *start]
    return runs


def report(entries, pretraining, flags):
    """Returns the section's lines.

    Args:
        entries: {(arm or trial, seed): the cached result}; some may be missing yet.
        pretraining: The cached result of the pretraining.
        flags: The flags of this command.
    """
    params = "".join(f' --gin_param "{param}"' for param in flags.gin_param)
    seeds = " ".join(map(str, flags.seeds))
    found, rows = {}, []
    for arm in ARMS:
        done = [entries[arm, seed] for seed in flags.seeds if (arm, seed) in entries]
        found[arm] = {kind: [entry["metrics"][name] for entry in done] for kind, name in recorded.KINDS.items()}
        cells = [cell for values in found[arm].values() for cell in recorded.format_seeds(values)]
        rows.append([arm, *cells, f"{np.mean([entry['train'][0] for entry in done]):.0f}" if done else ""])
    lines = [
        f"`make fine_tuning` (`python -m tests.studies.fine_tuning --images {flags.images} --pretraining "
        f"{flags.pretraining} --seeds {seeds}{params}`) trains on drawn scenes in two stages. The pretraining, "
        f"`{CONFIGURATION}` for {flags.pretraining:,} steps of 2 images, sees {KNOWN_SCENES['train']:,} scenes of "
        f"{', '.join(KNOWN)}. The fine-tuning, with `--gin_file {OVERRIDE} --init_from RUN`, sees {flags.images} "
        f"scenes of {', '.join(NEW)}, which the pretraining never sees; they have no stuff maps, so the semantic "
        f"branch is off. AP is COCO's, on {VALIDATION} other scenes of the new classes.",
        "",
        f"All rows train for the override's {next(iter(entries.values()))['losses'][-1][0]} steps, with seeds "
        f"{', '.join(map(str, flags.seeds))} (of new layers, order and sampling); ± is the standard deviation over "
        "the seeds. From nothing, the override's learning rate and the configuration's own are tried.",
        "",
        *recorded.format_table(
            ["weights from", "box AP", "by seed", "mask AP", "by seed", "CPU-seconds of a training"], rows
        ),
        "",
    ]
    if all(len(values["mask"]) == len(flags.seeds) for values in found.values()):
        lines += [compare(found), ""]
    box, mask = (pretraining["metrics"][name] for name in recorded.KINDS.values())
    cost = [entry[part][0] for entry in (pretraining, *entries.values()) for part in ("train", "evaluate")]
    lines += [
        f"The pretraining took {pretraining['train'][0]:,.0f} CPU-seconds and reaches box AP {box:.3f}, mask AP "
        f"{mask:.3f} on {KNOWN_SCENES['val']} other scenes of its own classes. All trainings and evaluations took "
        f"{sum(cost):,.0f} CPU-seconds on {recorded.machines_of([pretraining, *entries.values()])}.",
    ]
    return [*lines, *report_trials(entries), "", CAVEAT]


def compare(found):
    """Returns a sentence on the arms, given {arm: {kind: [S] AP by seed}}."""
    better = max((NOTHING, FULL), key=lambda arm: np.mean(found[arm]["mask"]))
    words = []
    for kind in recorded.KINDS:
        gain, error = gains(found[better][kind], found[TUNED][kind])
        words.append(f"{kind} AP {gain:+.3f} ± {error:.3f}")
    return (
        f"The pretrained weights against the better of the other two ({better}): {', '.join(words)} (the mean "
        "difference and its standard error, paired by seed)."
    )


def report_trials(entries):
    """Returns the lines on the trials that are finished."""
    done = {trial: entries[trial, 0]["metrics"] for trial in (TUNED, *TRIALS) if (trial, 0) in entries}
    if set(done) <= {TUNED}:
        return []
    rows = [
        ["the override" if trial == TUNED else trial, *(f"{metrics[name]:.3f}" for name in recorded.KINDS.values())]
        for trial, metrics in done.items()
    ]
    return [
        "",
        "Other settings in place of the override's (`--trials`), one training each, with seed 0 and from the "
        "pretrained weights unless the row says otherwise. One training cannot tell differences of about 0.01 from "
        "chance.",
        "",
        *recorded.format_table(["setting", "box AP", "mask AP"], rows),
    ]


CAVEAT = (
    "Drawn scenes are not photographs, and the pretraining's classes resemble the new ones more than COCO's classes "
    "resemble most others. The figures show that fine-tuning works, not how much it helps on your images."
)


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    cache, runs = recorded.ResultCache(folder / "done.json"), plan(flags, folder)
    override = [line for line in (recorded.ROOT / OVERRIDE).read_text().splitlines() if line and line[0] != "#"]
    # A fine-tuning is made by the override, and starts from what the pretraining's flags give.
    how = {run: own if run == PRETRAINING else [*own, *override, *runs[PRETRAINING]] for run, own in runs.items()}
    kept = {run for run in runs if flags.trials or run == PRETRAINING or run.arm in ARMS}
    kept |= {run for run in runs if cache.find(run.name, how[run])}

    def train(training, _):
        scenes = {"train": flags.images, "val": VALIDATION}
        if training == PRETRAINING:
            data = recorded.make_data(folder / "known", KNOWN_SCENES, seed=0, classes=KNOWN)
        else:
            data = recorded.make_data(folder / f"new{flags.images}", scenes, seed=1, classes=NEW, stuff=False)
        return recorded.train_and_evaluate(folder / training.name, runs[training], *data, training.seed)

    def write(entries):
        tuned = {(run.arm, run.seed): entry for run, entry in entries.items() if run != PRETRAINING}
        if tuned and PRETRAINING in entries:
            recorded.write_section(flags.output, SECTION, report(tuned, entries[PRETRAINING], flags))

    wanted = {run: how[run] for run in runs if run in kept}
    recorded.run_study("fine-tuning", wanted, cache, train, write, flags.write_only)
    print(f"wrote the section '{SECTION}' of {flags.output}")


def slug(text):
    """Returns "nothing_at_the_full_learning_rate" for a row's title: a name of a folder."""
    return "_".join("".join(c if c.isalnum() or c == "." else " " for c in text).split())


if __name__ == "__main__":
    main()
