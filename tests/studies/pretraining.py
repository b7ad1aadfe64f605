"""python -m tests.studies.pretraining: trains the weights from which `make demo` starts, and shows what they are worth.

The demo's network learns one kind of drawn scenes, letters, and then another, the demo's shapes; also the reverse, and
each from nothing. Trainings of several lengths give AP over CPU seconds. The table and the plot are a section of
docs/results.md, written after every training. Run again, the command continues after the last finished training.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from safetensors.numpy import save_file

import htc_tf
from htc_tf.weights.assign import mmdet_arrays
from htc_tf.weights.names import COUNTER
from tests.studies import recorded

CONFIGURATION = "gin/htc_shapes.gin"
LETTERS, SHORT = "gin/options/letters.gin", "gin/options/from_letters.gin"
WEIGHTS = Path("gin/weights/letters.safetensors")
SCENES = {"train": 4000, "val": 200}
SECTION = "The demo's pretrained weights"
PLOT = "pretraining.png"  # beside the page
RESULTS = recorded.ROOT / "docs" / "pretraining.json"
# mmdetection's HTC on the same kind of scenes, on the reference machine: CPU seconds, box AP, mask AP.
PEER = (1200, 0.330, 0.301)


class Training(NamedTuple):
    """A row of the table."""

    scenes: str  # kind of the scenes, of `pipelines.shapes.SCENES`
    start: str  # kind of the scenes of the training whose weights it starts from, or "nothing"
    steps: int
    seed: int = 0

    @property
    def name(self):
        return f"{self.scenes}_from_{self.start}_{self.steps}_seed{self.seed}"


FULL, DEMO = 6000, 450  # steps
FIRST = {kind: Training(kind, "nothing", FULL) for kind in ("letters", "shapes")}
TRAININGS = [
    *FIRST.values(),
    *(Training("shapes", "letters", DEMO, seed) for seed in range(3)),
    Training("shapes", "nothing", DEMO),
    *(Training("letters", start, DEMO) for start in ("shapes", "nothing")),
    *(Training("shapes", "letters", steps) for steps in (125, 250, 1000)),
    *(Training("shapes", "nothing", steps) for steps in (1000, 2000)),
]


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.pretraining", description=__doc__)
    parser.add_argument("--weights", action="store_true", help=f"write {WEIGHTS} from the training on letters, and end")
    parser.add_argument("--workdir", type=Path, default=Path("runs/pretraining"), help="data, runs and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file of the results so far")
    parser.add_argument("--write_only", action="store_true", help="train nothing; write what is finished")
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def plan(training):
    """Returns the flags of htc_tf.train for a Training, without those of the weights that it starts from."""
    files = [CONFIGURATION, SHORT, *([LETTERS] if training.scenes == "letters" else [])]
    flags = [f"--gin_file={file}" for file in files]
    params = ["CHECKPOINT_EVERY=0", "EVALUATE_EVERY=0", f"STEPS={training.steps}"]
    return flags + [f"--gin_param={param}" for param in params]


def start_of(training, folder):
    """Returns the flags of the weights that a Training starts from: those that ship, of a run in `folder`, or none."""
    starts = {"letters": WEIGHTS, "shapes": folder / FIRST["shapes"].name}
    return [f"--init_from={starts[training.start]}"] if training.start in starts else []


def write_weights(run, path):
    """Writes all weights of a run in float16, by mmdetection's names."""
    arrays = mmdet_arrays(htc_tf.load(run).detector.model)
    kept = {name: array.astype(np.float16) for name, array in arrays.items() if not name.endswith(COUNTER)}
    path.parent.mkdir(exist_ok=True)
    save_file(kept, path)


def group(entries):
    """Returns {(scenes, start, steps): [the cached result of each seed]} of {Training: the cached result}."""
    groups = {}
    for training, entry in entries.items():
        groups.setdefault(training[:3], []).append(entry)
    return dict(sorted(groups.items(), reverse=True))


def report(entries, plot):
    """Returns the section's lines.

    Args:
        entries: {Training: the cached result}; some may be missing yet.
        plot: Path of the plot to write.
    """
    rows = []
    for (scenes, start, steps), done in group(entries).items():
        values = [[entry["metrics"][name] for entry in done] for name in recorded.KINDS.values()]
        cost = np.mean([entry["train"][0] for entry in done])
        rows.append([scenes, start, f"{steps:,}", f"{cost:,.0f}", *recorded.format_seeds(values[0])])
        rows[-1] += recorded.format_seeds(values[1])
    picture = []
    if any(training.scenes == "shapes" for training in entries):
        draw(entries).savefig(plot, dpi=100)
        picture = [f"![AP over CPU seconds]({plot.name})", ""]
    header = ["scenes", "weights from", "steps", "CPU-seconds", "box AP", "by seed", "mask AP", "by seed"]
    return [
        f"`make pretraining` (`python -m tests.studies.pretraining`) trains `{CONFIGURATION}` on {SCENES['train']:,} "
        f"scenes of one kind and evaluates it on {SCENES['val']} others of this kind: steps of 4 images, by `{SHORT}`. "
        f"Weights from the other kind are those after {FULL:,} steps on its scenes, taken by `--init_from`: all but "
        f"the layers of classes. Those of letters are the ones that ship, `{WEIGHTS}`, in float16. The kinds share no "
        "surface and no outline (`pipelines.scenes`, `pipelines.letters`), so the weights carry no habit of one "
        f"generator. The demo trains as the row of {DEMO} steps from letters does, on 1,200 scenes.",
        "",
        *recorded.format_table(header, rows),
        "",
        *picture,
        f"{len(entries)} of {len(TRAININGS)} trainings are done, on {recorded.machines_of(entries.values())}; "
        "mmdetection's HTC ran on another machine, with which these seconds cannot be compared exactly. "
        f"[{RESULTS.name}]({RESULTS.name}) has each training's losses.",
    ]


def draw(entries):
    """Draws AP on shapes over the CPU seconds of the training, from letters and from nothing: a matplotlib Figure."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for place, (axes, kind) in enumerate(zip(figure.subplots(1, 2), recorded.KINDS, strict=True)):
        for start, color in (("letters", "#0072b2"), ("nothing", "#d55e00")):
            found = [
                done for (scenes, begun, _), done in group(entries).items() if (scenes, begun) == ("shapes", start)
            ]
            points = sorted(
                (np.mean([entry["train"][0] for entry in done]), np.mean([entry["metrics"][name] for entry in done]))
                for done in found
                for name in [recorded.KINDS[kind]]
            )
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=color, label=f"weights from {start}")
        axes.plot(PEER[0], PEER[1 + place], "s", color="#787880", label="mmdetection's HTC, from nothing")
        axes.set(xlabel="CPU seconds of the training", ylim=(0, None), xlim=(0, None))
        axes.set_title(f"{kind} AP", loc="left")
        axes.grid(color="#e2e2e0")
    axes.legend(frameon=False, loc="lower right")
    return figure


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    if flags.weights:
        write_weights(folder / FIRST["letters"].name, recorded.ROOT / WEIGHTS)
        print(f"wrote {WEIGHTS}")
        return

    def train(training, how):
        first = FIRST["shapes"]
        if training.start == "shapes" and not (folder / first.name / recorded.METRICS_FILE).exists():
            train(first, plan(first))  # its results may come from another clone, without the weights
        data = recorded.make_data(folder / training.scenes, SCENES, seed=0, kind=training.scenes)
        how = [*how, *start_of(training, folder)]
        return recorded.train_and_evaluate(folder / training.name, how, *data, training.seed)

    def write(entries):
        recorded.write_section(flags.output, SECTION, report(entries, flags.output.with_name(PLOT)))

    plans = {training: plan(training) for training in TRAININGS}
    recorded.run_study("pretraining", plans, recorded.ResultCache(flags.results), train, write, flags.write_only)
    print(f"wrote the section '{SECTION}' of {flags.output}")


if __name__ == "__main__":
    main()
