"""Mode `start`: what a cold process takes to print its help, and to find something in its first picture.

Before it: `htc_tf.benchmark`, which has parsed gin; a run of that network, untrained, is written for the purpose. What
is measured is `python -m htc_tf.predict` in processes of their own, whose CPU seconds the system adds up at their end.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gin
import numpy as np
from tqdm import tqdm

from htc_tf.benchmarks.drawn_records import draw_record
from htc_tf.benchmarks.measure import Measurement, summarise
from htc_tf.checkpoint import Checkpoints, count_bytes
from htc_tf.data.schema import unpack
from htc_tf.errors import UserError
from htc_tf.experiment import Experiment
from htc_tf.inference.detector import build_variables
from htc_tf.run import Run

PICTURES = 3  # of the command that tells what a picture after the first takes


def run(work):
    """Work -> Measurement of the first picture, its command from start to end; details have what else was timed."""
    with tempfile.TemporaryDirectory() as folder:
        weights = write_run(Run(Path(folder) / "run"))
        pictures = draw_pictures(Path(folder), work.height, work.width)
        predict = [sys.executable, "-m", "htc_tf.predict"]
        model = ["--checkpoint", Path(folder) / "run", "--output", Path(folder) / "found", "--input"]
        commands = {
            "help": [*predict, "--help"],
            "tensorflow": [sys.executable, "-c", "import tensorflow"],
            "first": [*predict, *model, pictures[0]],
            "several": [*predict, *model, *pictures],
        }
        cpu, wall = ({name: [] for name in commands} for _ in range(2))
        # A first round leaves Python's bytecode behind, and the files in memory.
        for number in tqdm(range(-1, work.repeats), unit="round", desc="measure"):
            for name, words in commands.items():
                seconds = call(words)
                if number >= 0:
                    cpu[name].append(seconds[0])
                    wall[name].append(seconds[1])
    later = (np.array(cpu["several"]) - cpu["first"]) / (PICTURES - 1)
    details = {
        "help": Seconds(cpu["help"]),
        "tensorflow": Seconds(cpu["tensorflow"]),
        "later picture": Seconds(later),
        "weights": f"{weights / 1e6:.0f} MB",
    }
    memory = {"peak": children_peak_bytes()}
    return Measurement("first picture", summarise(cpu["first"]), summarise(wall["first"]), memory, details)


class Seconds(dict):
    """CPU seconds, summarised for the JSON; as text, a line of the table."""

    def __init__(self, values):
        super().__init__(summarise(values))

    def __str__(self):
        return f"CPU {1e3 * self['median']:.0f} ms at the median, {1e3 * self['minimum']:.0f} at least"


def write_run(run):
    """Writes a Run of the network that gin describes, with its initial weights. -> their bytes"""
    experiment = Experiment()
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    build_variables(model)
    categories = [{"id": number + 1, "name": f"class {number + 1}"} for number in range(experiment.num_classes)]
    run.create(gin.config_str(), categories)
    Checkpoints(run, model).save(0)
    return count_bytes(model.variables)


def draw_pictures(folder, height, width):
    """Writes PICTURES JPEGs of that size. -> their paths"""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(PICTURES)]
    for number, path in enumerate(paths):
        path.write_bytes(unpack(draw_record(generator, number, (height, width))).image.encoded)
    return paths


def call(words):
    """Runs a command to its end. -> (CPU seconds, wall seconds)

    Raises:
        UserError: it failed; with the last line that it printed.
    """
    cpu_before, wall_before = children_seconds(), time.perf_counter()
    done = subprocess.run(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise UserError(f"a command of the benchmark ended with {done.returncode}, and said last: {last}")
    return children_seconds() - cpu_before, time.perf_counter() - wall_before


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def children_peak_bytes():
    """The most memory that one of the commands held."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
