"""python -m tests.studies.kills: kills a training again and again by -9, and compares it with one that was never killed.

The same command starts the training after each kill, as a user or a supervisor would. At the end every number of every
step and every variable of the last checkpoint must be the same, bit for bit. --output adds the record to a file.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"images_per_second", "input_wait"}  # what two runs of the same training may differ in
STARTS_KILLED = 0.25  # share of the kills that come before a first step


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="replicas; one round for each number")
    parser.add_argument("--gin_param", action="append", default=[], help="of the tiny configuration; repeatable")
    parser.add_argument("--records", help="records to train on (default: six scenes, drawn for it)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, help="Markdown file to add the record to")
    return parser.parse_args()


def draw_records(folder):
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
    command = [sys.executable, "-m", "htc_tf.train", "--gin_file", "tests/tiny.gin", "--train_records", records]
    params = [f"STEPS={flags.steps}", "CHECKPOINT_EVERY=3", "DETERMINISTIC=True", *flags.gin_param]
    command += [f"--gin_param={param}" for param in params]
    command += ["--workdir", run, "--devices", *(f"CPU:{i}" for i in range(devices))]
    with open(f"{run}.log", "a") as log:
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log)


def records_of(run):
    """{step: its line of metrics.jsonl, without times}; a line that is being written does not count."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    records = map(json.loads, lines)
    return {record["step"]: {k: v for k, v in record.items() if k not in TIMES} for record in records}


def listed(run):
    """The checkpoint that the run would go on from, and whether the kill left half of another."""
    path = run / "checkpoints"
    state = (path / "checkpoint").read_text() if (path / "checkpoint").exists() else ""
    newest = state.partition('model_checkpoint_path: "')[2].partition('"')[0] or "none"
    number = int(newest.rpartition("-")[2]) if newest != "none" else -1
    halves = [p for p in path.glob("ckpt-*") if "_temp" in p.name or int(p.name.split("-")[1].split(".")[0]) > number]
    return newest, bool(halves)


def kill_once(process, run, moment, startup):
    """Kills at a random moment: of the start, or some way after the first new step. Returns a row, or None if the
    training had ended before."""
    before = len(records_of(run))
    began = time.monotonic()
    if moment.random() < STARTS_KILLED:
        pause = moment.uniform(0, startup)
    else:
        while process.poll() is None and len(records_of(run)) <= before:
            time.sleep(0.02)
        pause = moment.uniform(0, 1.5)
    time.sleep(pause)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest, half = listed(run)
    return time.monotonic() - began, max(records_of(run), default=0), newest, half


def variables(run):
    """{name: bytes} of the last checkpoint."""
    import tensorflow as tf

    newest = str(run / "checkpoints" / listed(run)[0])
    names = [name for name, _ in tf.train.list_variables(newest)]
    wanted = [name for name in names if name.startswith(("model/", "optimizer/", "step/"))]
    return {name: tf.train.load_variable(newest, name).tobytes() for name in wanted}


def finish(process, run):
    if process.wait() != 0:
        raise SystemExit(f"the training failed:\n{Path(f'{run}.log').read_text()[-3000:]}")


def play(flags, folder, records, devices):
    """One round. Returns (lines of Markdown, whether both trainings are the same)."""
    moment = random.Random(flags.seed + devices)
    whole, killed = folder / f"whole{devices}", folder / f"killed{devices}"
    began = time.monotonic()
    process = start(flags, records, whole, devices)
    while process.poll() is None and not records_of(whole):
        time.sleep(0.05)
    startup = time.monotonic() - began
    finish(process, whole)
    rows = []
    while len(rows) < flags.kills:
        row = kill_once(start(flags, records, killed, devices), killed, moment, startup)
        if row is None:
            break
        rows.append(row)
        print(f"kill {len(rows)}: after {row[0]:.1f} s, step {row[1]}, newest checkpoint {row[2]}, a half {row[3]}")
    finish(start(flags, records, killed, devices), killed)
    numbers, others = records_of(whole), records_of(killed)
    apart = [step for step in numbers if numbers[step] != others.get(step)]
    theirs = variables(killed)
    changed = [name for name, value in variables(whole).items() if theirs.get(name) != value]
    left = [path.name for path in (killed / "checkpoints").iterdir() if "_temp" in path.name or path.suffix == ".aside"]
    lines = [
        f"### {devices} replica{'s' * (devices > 1)}, {len(numbers)} steps, {len(rows)} kills",
        "",
        "| kill | seconds after the start | last step logged | goes on from | killed inside a save |",
        "|---|---|---|---|---|",
    ]
    for number, (seconds, step, newest, half) in enumerate(rows, start=1):
        lines.append(f"| {number} | {seconds:.1f} | {step} | {newest} | {'yes' if half else 'no'} |")
    lines += [
        "",
        f"Steps whose numbers differ from the training never killed: {len(apart)} of {len(numbers)}. Variables of the "
        f"last checkpoint (weights, optimiser, step) that differ in any bit: {len(changed)} of {len(theirs)}. Halves "
        f"left in the end: {len(left)}.",
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
            more, good = play(flags, folder, records, devices)
            lines, same = lines + more, same and good
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(lines))
    if flags.output:
        with flags.output.open("a") as file:
            file.write("\n".join(lines) + "\n")
    sys.exit(not same)


if __name__ == "__main__":
    main()
