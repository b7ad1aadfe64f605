"""Runs the parts of the kit, each with a time limit of its own, and prints a table of their results.

The most valuable parts come first. A part that hangs is killed at its limit, and none starts after SECONDS (default
600), so the whole takes at most that long and a few seconds more. Results are written as they arrive: what a killed
part, or a killed kit, has printed is kept. Needs Python alone; the parts need jax, torch or torchvision.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import table

HERE = Path(__file__).resolve().parent
LEAST = 10  # seconds: with less time left, a part does not start
# (seconds, script, argument, ...) of each part.
PARTS = (
    (90, "rates.py"),
    (150, "program.py", "inference_b8_bfloat16"),
    (240, "program.py", "train_b4_bfloat16"),
    (60, "program.py", "roi_align"),
    (60, "program.py", "roi_align_gradient"),
    (60, "peer.py", "roi_align"),
    (60, "peer.py", "inference", "8", "bfloat16"),
    (60, "peer.py", "train", "4", "bfloat16"),
    (150, "program.py", "inference_b1_float32"),
    (60, "peer.py", "inference", "1", "float32"),
    (240, "program.py", "train_b4_float32"),
    (60, "peer.py", "train", "4", "float32"),
    (150, "program.py", "inference_b8_float32"),
    (60, "peer.py", "inference", "8", "float32"),
    (150, "program.py", "inference_b1_bfloat16"),
    (60, "peer.py", "inference", "1", "bfloat16"),
)


def run_part(limit, command, results, log):
    """Runs a command, whose output is added to `results`, and kills it and its children after `limit` seconds.

    Returns:
        The exit status, or "killed after N s".
    """
    child = subprocess.Popen(command, stdout=results, stderr=log, cwd=HERE, start_new_session=True)
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        return f"killed after {limit:.0f} s"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver can hold a killed process
                child.wait(5)


def run(folder, seconds, parts, options=()):
    """Runs the parts and writes results.jsonl, log and table.md into `folder`.

    Args:
        folder: Path.
        seconds: Time limit of the whole run; no part starts after it, and a running part is killed.
        parts: ((limit, script, argument, ...), ...).
        options: Further arguments of every part.
    Returns:
        The text of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    path = folder / "results.jsonl"
    try:
        with open(path, "wb") as results, open(folder / "log", "wb") as log:
            for limit, *words in parts:
                name, left = " ".join(words), ends - time.monotonic()
                if left < LEAST:
                    note = "not started"
                else:
                    print(f"{name}: at most {min(limit, left):.0f} s", file=sys.stderr, flush=True)
                    note = run_part(min(limit, left), [sys.executable, *words, *options], results, log)
                if note != 0:
                    results.write(f"\n{json.dumps({'part': name, 'failed': note})}\n".encode())
                    results.flush()
    finally:
        text = table.make(path.read_text())
        (folder / "table.md").write_text(text)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("--runs", type=int, default=20, help="timed runs of every part")
    parser.add_argument("--cpu", action="store_true", help="a trial without a GPU")
    flags = parser.parse_args()
    options = ["--runs", str(flags.runs), *(["--cpu"] if flags.cpu else [])]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the table is written
    print(run(flags.folder.resolve(), flags.seconds, PARTS, options))


if __name__ == "__main__":
    main()
