"""python -m tests.studies.kills: kills a training repeatedly with SIGKILL and compares it with an uninterrupted one.

The same command restarts the training after each kill, as a user or a supervisor would. In the end every number of
every step and every variable of the last checkpoint must be equal, bit for bit; if not, the exit status is 1.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from htc_tf.progress import progress_bar

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"images_per_second", "input_wait"}  # metrics that differ between two runs of the same training
STARTS_KILLED = 0.25  # share of the kills that happen before a first step


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="kills per training (default: 10)")
    parser.add_argument("--steps", type=int, default=100, help="training steps (default: 100)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="replicas; one round for each number")
    parser.add_argument("--gin_param", action="append", default=[], help="a binding after tests/tiny.gin; repeatable")
    parser.add_argument("--records", help="records to train on (default: six drawn scenes)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--output", type=Path, help="Markdown file to append the record to")
    return parser.parse_args()


def draw_records(folder):
    """Draws six scenes and returns the folder of their records."""
    for module, flags in (
        ("pipelines.shapes", ["--output", folder, "--train", 6, "--val", 1, "--seed", 4]),
        (
            "pipelines.coco_to_tfrecord",
            [
                *("--annotations", folder / "annotations/instances_train2017.json", "--images", folder / "train2017"),
                *("--stuff", folder / "stuffthingmaps/train2017", "--output", folder / "records", "--shards", 2),
            ],
        ),
    ):
        subprocess.run([sys.executable, "-m", module, *map(str, flags)], cwd=ROOT, check=True, capture_output=True)
    return folder / "records"


def start(flags, records, run, devices):
    """Starts or resumes the training in the folder `run` and returns its process."""
    command = [sys.executable, "-m", "htc_tf.train", "--gin_file", "tests/tiny.gin", "--train_records", records]
    params = [f"STEPS={flags.steps}", "CHECKPOINT_EVERY=3", "DETERMINISTIC=True", *flags.gin_param]
    command += [f"--gin_param={param}" for param in params]
    command += ["--workdir", run, "--devices", *(f"CPU:{i}" for i in range(devices))]
    with open(f"{run}.log", "a") as log:
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log)


def metrics_of(run):
    """Returns {step: metrics without times} of metrics.jsonl, without a line that is being written."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    records = map(json.loads, lines)
    return {record["step"]: {k: v for k, v in record.items() if k not in TIMES} for record in records}


def newest_checkpoint(run):
    """Returns the name of the checkpoint that the run would resume from, and True if an unfinished one exists."""
    path = run / "checkpoints"
    state = (path / "checkpoint").read_text() if (path / "checkpoint").exists() else ""
    newest = state.partition('model_checkpoint_path: "')[2].partition('"')[0] or "none"
    number = int(newest.rpartition("-")[2]) if newest != "none" else -1
    halves = [p for p in path.glob("ckpt-*") if "_temp" in p.name or int(p.name.split("-")[1].split(".")[0]) > number]
    return newest, bool(halves)


def kill_once(process, run, moment, startup, stepping):
    """Kills the process at a random moment before its first new step, or shortly after it.

    Args:
        startup: Seconds that an uninterrupted training took to its first step. A process that is faster is killed at
            its first step.
        stepping: Longest time from the first new step to a kill, in seconds.
    Returns:
        (seconds since the start, last logged step, newest checkpoint, True if an unfinished one exists), or None if the
        training ended first.
    """
    before = len(metrics_of(run))
    began = time.monotonic()
    early = moment.random() < STARTS_KILLED
    pause = moment.uniform(0, startup if early else stepping)
    while process.poll() is None and len(metrics_of(run)) <= before:
        if early and time.monotonic() - began > pause:
            break
        time.sleep(0.02)
    if not early:
        time.sleep(pause)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest, half = newest_checkpoint(run)
    return time.monotonic() - began, max(metrics_of(run), default=0), newest, half


def variables(run):
    """Returns {name: bytes} of the last checkpoint's variables."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    newest = str(run / "checkpoints" / newest_checkpoint(run)[0])
    names = [name for name, _ in tf.train.list_variables(newest)]
    wanted = [name for name in names if name.startswith(("model/", "optimizer/", "step/"))]
    return {name: tf.train.load_variable(newest, name).tobytes() for name in wanted}


def finish(process, run):
    if process.wait() != 0:
        raise SystemExit(f"the training failed:\n{Path(f'{run}.log').read_text()[-3000:]}")


def compare(flags, folder, records, devices):
    """Runs both trainings and returns (lines of Markdown, True if they are equal)."""
    moment = random.Random(flags.seed + devices)
    whole, killed = folder / f"whole{devices}", folder / f"killed{devices}"
    began = time.monotonic()
    process = start(flags, records, whole, devices)
    while process.poll() is None and not metrics_of(whole):
        time.sleep(0.05)
    startup = time.monotonic() - began
    finish(process, whole)
    # On a machine that has become faster or idle since, all kills still come before the last step.
    stepping = min(1.5, (time.monotonic() - began - startup) / (4 * flags.kills))
    rows = []
    for _ in progress_bar(range(flags.kills), unit="kill", desc=f"kills, {devices} replica{'s' * (devices > 1)}"):
        row = kill_once(start(flags, records, killed, devices), killed, moment, startup, stepping)
        if row is None:
            break
        rows.append(row)
        seconds, step, newest, half = row
        print(f"kill {len(rows)}: after {seconds:.1f} s, step {step}, checkpoint {newest}, inside a save: {half}")
    finish(start(flags, records, killed, devices), killed)
    numbers, others = metrics_of(whole), metrics_of(killed)
    apart = [step for step in numbers if numbers[step] != others.get(step)]
    theirs = variables(killed)
    changed = [name for name, value in variables(whole).items() if theirs.get(name) != value]
    left = [path.name for path in (killed / "checkpoints").iterdir() if "_temp" in path.name or path.suffix == ".aside"]
    lines = [
        f"### {devices} replica{'s' * (devices > 1)}, {len(numbers)} steps, {len(rows)} kills",
        "",
        "| kill | seconds after the start | last step logged | resumes from | killed inside a save |",
        "|---|---|---|---|---|",
    ]
    for number, (seconds, step, newest, half) in enumerate(rows, start=1):
        lines.append(f"| {number} | {seconds:.1f} | {step} | {newest} | {'yes' if half else 'no'} |")
    lines += [
        "",
        f"Steps that differ from the uninterrupted training: {len(apart)} of {len(numbers)}. Variables of the last "
        f"checkpoint (weights, optimizer, step) that differ in any bit: {len(changed)} of {len(theirs)}. Unfinished "
        f"checkpoints left in the end: {len(left)}.",
        "",
    ]
    same = not apart and not changed and not left and len(numbers) == len(others) == flags.steps
    return lines, same and len(rows) == flags.kills


def main():
    flags = parse()
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    try:
        records = Path(flags.records).resolve() if flags.records else draw_records(folder)
        lines, same = [], True
        for devices in flags.devices:
            more, good = compare(flags, folder, records, devices)
            lines, same = lines + more, same and good
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(lines))
    if flags.output:
        with flags.output.open("a") as file:
            file.write("\n".join(lines) + "\n")
        print(f"appended to {flags.output}")
    failure = "not all as it should be: the trainings differ, or one ended before all kills (give more --steps)"
    print("all trainings are equal" if same else failure)
    sys.exit(not same)


if __name__ == "__main__":
    main()
