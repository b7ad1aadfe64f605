"""Helpers of the studies: trainings by the project's own commands, a cache of results, Markdown tables and sections.

`tests.studies.overfit`, `ablation`, `fine_tuning`, `pretraining` and `photos` each write one section of docs/results.md
by `run_study`; `tests.studies.zoo` and `tests.benchmarks` write pages of their own.
"""

import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from htc_tf.progress import progress_bar

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results.md"
TITLE = "# Does it learn?\n\nRecorded trainings: each section is written by the command that it names; do not edit.\n"
ROWS = tuple(path.stem for path in sorted((ROOT / "gin" / "ablation").glob("row*.gin")))
KINDS = {"box": "bbox/AP", "mask": "segm/AP"}
METRICS = ("bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50")
METRICS_FILE = "metrics.json"  # in a run's folder: its evaluation
PREDICTIONS = "metrics.predictions.json"  # beside it: the detections that are evaluated
LOSSES = 50  # numbers that are kept of a training's losses, each a mean over equally many steps
MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes
UNREPEATABLE = ("images_per_second", "input_wait")  # of the numbers that a step logs


class Killed(SystemExit):
    """A command was killed, as Linux does where memory runs out.

    `peak` is the bytes that it had at most, or this process when it started the command.
    """

    def __init__(self, text, peak):
        super().__init__(text)
        self.peak = peak


def run_module(log, module, *flags):
    """Runs `python -m module flags` from the repository's root and appends its output to the file `log`.

    Returns:
        (CPU seconds, wall seconds)
    Raises:
        SystemExit: The command failed; with the end of its output.
        Killed: Signal 9 ended it.
    """
    began = time.monotonic()
    with open(log, "a") as file:
        command = [sys.executable, "-m", module, *map(str, flags)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        end = f"{module} ended with {child.returncode}; the end of {log}:\n{Path(log).read_text()[-2000:]}"
        raise Killed(end, MAXRSS * used.ru_maxrss) if child.returncode == -signal.SIGKILL else SystemExit(end)
    return used.ru_utime + used.ru_stime, time.monotonic() - began


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_data(folder, scenes, seed, classes=(), stuff=True, kind="shapes"):
    """Draws scenes and writes their records, unless the records exist.

    Args:
        folder: Path; gets shapes/, records/ and data.log.
        scenes: {"train": number of scenes, "val": number of scenes}.
        seed: Seed of the scenes.
        classes: Classes of the shapes; () for all.
        stuff: If True, the records have stuff maps.
        kind: Kind of the scenes, of `pipelines.shapes.SCENES`.
    Returns:
        (records to train on, records to detect in, the annotations of the latter)
    """
    shapes, records = folder / "shapes", folder / "records"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "data.log"
    if not all((records / split / "dataset_info.json").exists() for split in scenes):
        flags = [word for split, number in scenes.items() for word in (f"--{split}", number)]
        flags += ["--classes", *classes] if classes else []
        run_module(log, "pipelines.shapes", "--output", shapes, "--seed", seed, "--scenes", kind, *flags)
        for split in scenes:
            flags = ["--annotations", annotations_of(shapes, split), "--images", shapes / f"{split}2017"]
            flags += ["--stuff", shapes / "stuffthingmaps" / f"{split}2017"] if stuff else []
            run_module(log, "pipelines.coco_to_tfrecord", *flags, "--output", records / split)
    return records / "train", records / "val", annotations_of(shapes, "val")


def annotations_of(shapes, split):
    return shapes / "annotations" / f"instances_{split}2017.json"


def train_and_evaluate(run, configuration, train_records, records, annotations, seed):
    """Trains in the folder `run` and evaluates.

    Args:
        run: Path; what an earlier training left there is removed, so that the seconds cover a whole training.
        configuration: Flags of `htc_tf.train`, such as --gin_file and --gin_param.
        train_records: Folder of records to train on.
        records: Folder of records to detect in.
        annotations: COCO annotation file of `records`.
        seed: Seed of the training.
    Returns:
        {"metrics": {name: value}, "losses": [[step, total], ...] of `shorten`, "first_losses": {name: value} of the
        first step that is logged, "configuration": hash of the resolved configuration, "train": seconds, "evaluate":
        seconds}, where seconds are [CPU, wall].
    """
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    log = Path(f"{run}.log")
    log.unlink(missing_ok=True)
    flags = ["--train_records", train_records, "--workdir", run, "--seed", seed]
    trained = run_module(log, "htc_tf.train", *configuration, *flags)
    output = run / METRICS_FILE
    flags = ["--records", records, "--annotations", annotations, "--output", output]
    evaluated = run_module(log, "htc_tf.eval", "--checkpoint", run, *flags)
    metrics = json.loads(output.read_text())
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in logged if "total" in line]
    return {
        "metrics": {name: metrics[name] for name in METRICS},
        "losses": shorten([[line["step"], line["total"]] for line in logged]),
        "first_losses": {name: value for name, value in logged[0].items() if name not in UNREPEATABLE},
        "configuration": hashlib.sha256((run / "config.gin").read_bytes()).hexdigest()[:12],
        "train": trained,
        "evaluate": evaluated,
    }


def average_end(losses):
    """Returns the mean total of the last tenth of a training's [[step, total], ...]."""
    return float(np.mean([total for _, total in losses[-max(len(losses) // 10, 1) :]]))


def shorten(losses):
    """Returns [[last step, mean total], ...] of LOSSES equal pieces of a training's [[step, total], ...]."""
    pieces = [piece for piece in np.array_split(losses, min(LOSSES, len(losses))) if len(piece)]
    return [[int(piece[-1, 0]), round(float(piece[:, 1].mean()), 4)] for piece in pieces]


class ResultCache:
    """Finished results in a JSON file: {name: {"how": the command, "machine": where it ran, **its outcome}}."""

    def __init__(self, path):
        self.path = Path(path)
        self.entries = json.loads(self.path.read_text()) if self.path.exists() else {}

    def find(self, name, how):
        """Returns the entry if the same command made it, else None."""
        entry = self.entries.get(name)
        return entry if entry and entry["how"] == how else None

    def add(self, name, how, outcome):
        self.entries[name] = {"how": how, "machine": describe_machine(), **outcome}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".aside")
        aside.write_text(json.dumps(self.entries, indent=1) + "\n")
        os.replace(aside, self.path)
        return self.entries[name]


def run_study(title, trainings, cache, train, write, write_only=False):
    """Makes the trainings of a study that its cache lacks, and writes its section after each of them.

    Args:
        title: Name of the study, shown by the progress bar.
        trainings: {training: how it is made}, in the section's order; `training.name` is its name in the cache. How is
            a list of strings, such as the flags of htc_tf.train; a result that was made otherwise does not count.
        cache: ResultCache.
        train: Function of (training, how it is made) that returns the training's outcome.
        write: Function of {training: cached result} that writes the section of the trainings that are finished.
        write_only: If True, makes no training.
    Raises:
        SystemExit: `write_only`, but no training is finished.
    """
    entries = {training: cache.find(training.name, how) for training, how in trainings.items()}

    def write_finished():
        write({training: entry for training, entry in entries.items() if entry})

    if any(entries.values()):
        write_finished()
    elif write_only:
        raise SystemExit(f"error: {cache.path} has no finished training of this command")
    for training, how in progress_bar({} if write_only else trainings.items(), unit="training", desc=title):
        if not entries[training]:
            print(f"{training.name}: training", flush=True)
            entries[training] = cache.add(training.name, how, train(training, how))
            write_finished()
        metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in entries[training]["metrics"].items())
        print(f"{training.name}: {metrics}", flush=True)


def title_of(row):
    """Returns the words after the colon in the first line of the row's gin file: "+ interleaved execution"."""
    first = (ROOT / "gin" / "ablation" / f"{row}.gin").read_text().splitlines()[0]
    return first.partition("): ")[2].rstrip(".")


def published(row):
    """Returns the paper's (box AP, mask AP) of a row, in hundredths, from the header of its gin file."""
    text = (ROOT / "gin" / "ablation" / f"{row}.gin").read_text()
    box, mask = re.search(r"box / mask AP: ([\d.]+) / ([\d.]+?)\.?$", text, re.MULTILINE).groups()
    return float(box), float(mask)


def format_table(header, rows):
    """Returns the lines of a Markdown table; cells are strings."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def deviation(values):
    """Returns the sample standard deviation of two or more values."""
    return float(np.std(values, ddof=1))


def format_seeds(values):
    """Returns two cells of a table: the mean with the standard deviation over the seeds, and each seed's value."""
    if not values:
        return ["not yet", ""]
    mean = f"**{np.mean(values):.3f}**"
    spread = f" ± {deviation(values):.3f}" if len(values) > 1 else ""
    return [mean + spread, ", ".join(f"{value:.3f}" for value in values)]


def find_section(text, title):
    """Returns the section `## title` of a page's text without its heading, or None."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found and found[1].strip("\n")


def replace_section(text, title, lines):
    """Returns `text` with these lines as the section `## title`, replaced or appended."""
    head, *sections = re.split(r"^(?=## )", text or TITLE, flags=re.MULTILINE)
    section = "\n".join([f"## {title}", "", *lines]).rstrip("\n") + "\n"
    names = [old.partition("\n")[0] for old in sections]
    if f"## {title}" in names:
        sections[names.index(f"## {title}")] = section
    else:
        sections.append(section)
    return "\n".join(part.rstrip("\n") + "\n" for part in (head, *sections))


def write_section(path, title, lines):
    path = Path(path)
    text = path.read_text() if path.exists() else ""
    path.write_text(replace_section(text, title, lines))


def describe_machine():
    """Returns "2 cores of AMD EPYC", as Linux describes an x86-64 processor, or "8 cores of arm64"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.MULTILINE)
    return f"{cores} core{'s' * (cores > 1)} of {found[1].strip() if found else platform.machine()}"


def machines_of(entries):
    """Returns the machines of cached results in words: "2 cores of AMD EPYC", or several joined by "and"."""
    named = dict.fromkeys(entry["machine"] for entry in entries if "machine" in entry)
    return " and ".join(named) if named else describe_machine()
