"""Benchmark of two TensorFlows: the same steps in this Python's environment and in the one of HTC_TF_OTHER_PYTHON.

Both environments stay loaded, in a process each, and take turns with every step, so that other programs on the machine
disturb them alike.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from htc_tf import benchmark, config, measurement
from htc_tf.errors import UserError, command
from htc_tf.measurement import Measurement, summarize
from htc_tf.process_memory import peak_bytes
from htc_tf.progress import progress_bar
from tests.benchmarks.figures import OTHER
from tests.studies import recorded

SMALL, QUARTER = "gin/htc_shapes.gin", "RoISampler.limit=128"


class Case(NamedTuple):
    """Steps to compare; `rounds` of them for each repeat, of about a second together."""

    mode: str  # of htc_tf.benchmark
    height: int
    width: int
    batch: int
    rounds: int
    gin_file: str
    gin_param: tuple = ()


CASES = {
    "training step of two images, small network": Case("train", 192, 192, 2, 10, SMALL),
    "inference of an image, R50": Case("inference", 256, 256, 1, 2, benchmark.PAPER),
    "training step of an image, R50, 128 RoIs": Case("train", 256, 256, 1, 1, benchmark.PAPER, (QUARTER,)),
}


class Environment:
    """A process of one Python that prepares the steps of a case and takes the first.

    Attributes: `first`, after `start`: what it has answered then, as `serve` does.
    """

    def __init__(self, command):
        """
        Args:
            command: List of strings, the path of a Python and its arguments.
        """
        self.python = command[0]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(
            command,
            cwd=recorded.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.first = None

    def start(self):
        """Waits for the first step."""
        self.first = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip() or "nothing").splitlines()[-1]
            raise UserError(f"{self.python} ended with status {self.process.returncode}; its last line: {last}")
        return json.loads(line)

    def step(self):
        """Returns the CPU and wall seconds of one more step."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        """Ends the process and returns the most memory that it has held, in bytes."""
        self.process.stdin.close()
        peak = self.read()
        self.process.wait()
        self.errors.close()
        return peak


def run(flags):
    """Measures every case in both environments; with --gin_file, every case has that configuration and the flags' size.

    The details hold, for each case, the figures of this environment and of the other one, and the median of the ratios
    of the steps of one round.

    Raises:
        UserError: There is no other environment, or a process of one of them failed.
    """
    pythons = [sys.executable, os.environ.get(OTHER)]
    if not pythons[1]:
        raise UserError(f"--mode {flags.mode} requires {OTHER}, the path of the other environment's Python")
    details, seconds = {}, None
    for name, case in CASES.items():
        if flags.gin_file:
            case = Case(case.mode, flags.height, flags.width, case.batch, 1, flags.gin_file[-1])
        commands = [[python, *words_of(case)] for python in pythons]
        cpu, wall, found = compare(name, commands, flags.repeats * case.rounds)
        details[name] = found | {"work": case._asdict()}
        seconds = seconds or (cpu, wall)
    return Measurement("step", *map(summarize, seconds), {"peak": peak_bytes()}, details)


def compare(name, commands, rounds):
    """Returns the CPU seconds and the wall seconds of the first command's steps, and the figures of both."""
    environments = [Environment(command) for command in commands]
    for environment in environments:
        environment.start()
    taken = np.empty([rounds, 2, 2])  # environments; CPU and wall seconds
    for number in progress_bar(range(rounds), unit="round", desc=name):
        order = (0, 1) if number % 2 else (1, 0)
        for place in order:
            taken[number, place] = environments[place].step()
    figures = [
        {
            **environment.first,
            "cpu_seconds": summarize(taken[:, place, 0]),
            "wall_seconds": summarize(taken[:, place, 1]),
            "peak_bytes": environment.end(),
        }
        for place, environment in enumerate(environments)
    ]
    ratio = float(np.median(taken[:, 1, 0] / taken[:, 0, 0]))
    return *taken[:, 0].T.tolist(), {"this": figures[0], "other": figures[1], "ratio": ratio}


def words_of(case):
    """Returns the words after a Python that serve the steps of a case."""
    sizes = [f"--{name}={getattr(case, name)}" for name in ("mode", "height", "width", "batch", "gin_file")]
    return ["-m", "tests.benchmarks.environments", *sizes, *(f"--gin_param={one}" for one in case.gin_param)]


@command
def serve():
    """Prepares the benchmark of the command line, and answers each line of the standard input with a step's seconds.

    The first answer is {"tensorflow": version, "imports": CPU seconds until everything is imported, "step": CPU seconds
    until the first step is done}, the last one the most memory that the process has held, in bytes.
    """
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    config.import_gin()
    import tensorflow as tf

    imports = time.process_time()

    def take_turns(step, unit, units, repeats, warmup, details=None, before=None):
        step()
        answer({"tensorflow": tf.__version__, "imports": imports, "step": time.process_time()})
        for _ in sys.stdin:
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            answer([time.process_time() - cpu, time.perf_counter() - wall])
        answer(peak_bytes())
        sys.exit()

    benchmark.measure = take_turns  # in place of a measurement without pauses
    flags = benchmark.parse()
    measurement.configure(flags, benchmark.MODES[flags.mode])
    benchmark.MODES[flags.mode].run(flags)


if __name__ == "__main__":
    serve()
