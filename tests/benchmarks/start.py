"""Benchmark of cold processes: `htc_tf.predict` prints its help and detects in an image, `htc_tf.train` makes a step.

Each command runs in a process of its own, whose CPU seconds the system adds up at its end.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gin
import numpy as np

from htc_tf.checkpoint import Checkpoints, count_bytes
from htc_tf.data.schema import unpack
from htc_tf.data.synthetic import draw_record
from htc_tf.errors import UserError
from htc_tf.experiment import Experiment
from htc_tf.measurement import Measurement, summarize
from htc_tf.process_memory import peak_bytes
from htc_tf.progress import progress_bar
from htc_tf.run import Run
from tests.studies import recorded

TRAINED = "gin/htc_shapes.gin"  # the demo's network
IMAGES = 3  # of the command that shows what an image after the first takes


def run(flags):
    """Measures the first image, its command from start to end; the details hold the other commands' CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        weights = write_run(Run(Path(folder) / "run"))
        images = draw_images(Path(folder), flags.height, flags.width)
        records, *_ = recorded.make_data(Path(folder) / "data", {"train": 8, "val": 2}, seed=0)
        run_folder = Path(folder) / "training"
        predict = [sys.executable, "-m", "htc_tf.predict"]
        train = [sys.executable, "-m", "htc_tf.train", "--gin_file", TRAINED, "--gin_param", "STEPS=1"]
        model = ["--checkpoint", Path(folder) / "run", "--output", Path(folder) / "found", "--input"]
        commands = {
            "help": [*predict, "--help"],
            "tensorflow": [sys.executable, "-c", "import tensorflow"],
            "first": [*predict, *model, images[0]],
            "several": [*predict, *model, *images],
            "training": [*train, "--train_records", records, "--workdir", run_folder],
        }
        cpu, wall = ({name: [] for name in commands} for _ in range(2))
        # The first round, which is not counted, leaves Python's bytecode and the files in memory behind.
        for number in progress_bar(range(-1, flags.repeats), unit="round", desc="measure"):
            shutil.rmtree(run_folder, ignore_errors=True)
            for name, words in commands.items():
                seconds = call(words)
                if number >= 0:
                    cpu[name].append(seconds[0])
                    wall[name].append(seconds[1])
    later = (np.array(cpu["several"]) - cpu["first"]) / (IMAGES - 1)
    details = {
        "help": summarize(cpu["help"]),
        "tensorflow": summarize(cpu["tensorflow"]),
        "later image": summarize(later),
        "training": summarize(cpu["training"]),
        "weights": f"{weights / 1e6:.0f} MB",
    }
    memory = {"peak": peak_bytes(children=True)}
    return Measurement("first image", summarize(cpu["first"]), summarize(wall["first"]), memory, details)


def write_run(run):
    """Writes a Run of the configured network with its initial weights and returns their bytes."""
    experiment = Experiment()
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    model.build_variables()
    categories = [{"id": number + 1, "name": f"class {number + 1}"} for number in range(experiment.num_classes)]
    run.create(gin.config_str(), categories)
    Checkpoints(run, model).save(0)
    return count_bytes(model.variables)


def draw_images(folder, height, width):
    """Writes IMAGES JPEGs of that size and returns their paths."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(IMAGES)]
    for number, path in enumerate(paths):
        path.write_bytes(unpack(draw_record(generator, number, (height, width))).image.encoded)
    return paths


def call(words):
    """Runs a command and returns its (CPU seconds, wall seconds).

    Raises:
        UserError: It failed; with the last line that it printed.
    """
    cpu_before, wall_before = recorded.children_seconds(), time.perf_counter()
    done = subprocess.run(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise UserError(f"a command of the benchmark ended with status {done.returncode}; its last line: {last}")
    return recorded.children_seconds() - cpu_before, time.perf_counter() - wall_before
