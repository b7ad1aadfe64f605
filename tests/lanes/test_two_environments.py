"""Two environments give the same numbers: each reads what the other wrote, and makes of it what the other makes.

`make lanes` names the other environment's Python in HTC_TF_OTHER_PYTHON. `job.py` runs twice in each environment, first
to write and then to read; a test compares the files.

Without oneDNN, weights, boxes, classes, run lengths and files are equal bit for bit, scores and mask probabilities up
to rounding. With it, boxes differ by up to 1.5e-5 pixels.
TensorFlow 2.15 and 2.21 add up gradients in different orders, so trainings are equal up to rounding, too. On an AMD
EPYC with AVX2 the losses of six steps differ by up to 1.7e-5 of their value, the norm of the gradients by 3.1e-4, and
the numbers of tests/training/toy.py not at all.
"""

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.lanes.job import OPTIMIZERS, STEPS, STOP

ROOT = Path(__file__).resolve().parents[2]
OTHER = os.environ.get("HTC_TF_OTHER_PYTHON")
PYTHONS = {"this": sys.executable, "other": OTHER}
# The two bring different versions of oneDNN, which TensorFlow uses on some processors only.
SETTINGS = {"CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0"}
READER = {"this": "other", "other": "this"}  # of a writer's files
TIMES = {"images_per_second", "input_wait"}
# Greatest differences of scores and mask probabilities; measured: 7.5e-9 and 1.2e-7.
ROUNDING = {"scores": 1e-7, "masks": 1e-6, "masks_28": 1e-6}
LOSSES = 1e-3  # relative difference of six steps' losses
TOY = 1e-6  # the same, and of all values, for the toy network
# Adam's first steps are as large for gradients of rounding noise as for others: of all values 0.1 % differ by more.
VALUES, SHARE = 1e-5, 0.01

pytestmark = [
    pytest.mark.skipif(not OTHER, reason="HTC_TF_OTHER_PYTHON names no Python of another environment: make lanes does"),
    pytest.mark.timeout(1800),
]


class Folders:
    """The folders of the jobs: `wrote(writer)` and `read(writer)`, which is the reader's, by the name of a job."""

    def __init__(self, folder):
        self.folder = folder

    def wrote(self, writer, job):
        return self.find(self.folder / writer, job)

    def read(self, writer, job):
        return self.find(self.folder / f"{READER[writer]} reads {writer}", job)

    def find(self, folder, job):
        failure = folder / f"{job}.error"
        if failure.exists():
            pytest.fail(f"the job {job} failed in {folder.name}:\n{failure.read_text()}")
        return folder / job


@pytest.fixture(scope="module")
def folders(tiny_data, tmp_path_factory):
    """Runs the jobs, two processes at a time."""
    folder = tmp_path_factory.mktemp("two_environments")
    data = folder / "data"
    data.mkdir()
    stuff = tiny_data.images.parent / "stuffthingmaps" / tiny_data.images.name
    places = {"images": tiny_data.images, "annotations.json": tiny_data.annotations, "records": tiny_data.records}
    for name, place in {**places, "stuff": stuff}.items():
        (data / name).symlink_to(place)
    for reading in (False, True):
        processes = []
        for writer in PYTHONS:
            name = f"{READER[writer]} reads {writer}" if reading else writer
            python = PYTHONS[READER[writer] if reading else writer]
            flags = ["--other", folder / writer] if reading else []
            processes.append(start(python, folder / name, data, *flags))
        for process in processes:
            assert process.wait(1500) == 0, Path(process.args[4] + ".log").read_text()[-3000:]
    return Folders(folder)


def start(python, folder, *flags):
    folder.mkdir()
    # TF_USE_LEGACY_KERAS is this process's.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TF_USE_LEGACY_KERAS", "PYTHONPATH")
    }
    with open(f"{folder}.log", "w") as log:
        command = [python, "-m", "tests.lanes.job", str(folder), *map(str, flags)]
        return subprocess.Popen(command, cwd=ROOT, env=environment | SETTINGS, stdout=log, stderr=log)


def assert_same_files(first, second):
    """Both folders have the same files with the same bytes."""
    names = sorted(path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file())
    assert names and names == sorted(
        path.relative_to(second).as_posix() for path in second.rglob("*") if path.is_file()
    )
    _, differ, missing = filecmp.cmpfiles(first, second, names, shallow=False)
    assert not differ and not missing


def assert_same_arrays(first, second):
    """Both folders have the same arrays: probabilities up to rounding, all others bit for bit."""
    paths = sorted(first.rglob("*.npz"))
    assert paths
    for path in paths:
        arrays = np.load(path), np.load(second / path.relative_to(first))
        assert set(arrays[0].files) == set(arrays[1].files)
        for name in arrays[0].files:
            values, tolerance = (arrays[0][name], arrays[1][name]), ROUNDING.get(name)
            assert values[0].dtype == values[1].dtype
            if tolerance and values[0].dtype.kind == "f":
                np.testing.assert_allclose(*values, 0, tolerance, err_msg=f"{path.name}: {name}")
            else:
                np.testing.assert_array_equal(*values, f"{path.name}: {name}")


def metrics(run):
    """Returns {step: {name: number}} without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: {name: value for name, value in line.items() if name not in TIMES} for line in lines}


def assert_close_metrics(first, second, tolerance):
    assert first.keys() == second.keys()
    for step, numbers in first.items():
        assert numbers.keys() == second[step].keys()
        for name, number in numbers.items():
            assert second[step][name] == pytest.approx(number, rel=tolerance, abs=1e-6), f"step {step}: {name}"


def losses(folder):
    return {int(step): loss for step, loss in json.loads((folder / "losses.json").read_text()).items()}


def assert_close_losses(first, second):
    assert first.keys() == second.keys()
    assert list(second.values()) == pytest.approx(list(first.values()), rel=TOY)


def assert_close_checkpoints(first, second, tolerance, share=0.0):
    """The last checkpoints of both have the same variables, of the same types and shapes, with close values.

    Args:
        first, second: Folders of a training, with checkpoint.npz.
        tolerance: Difference of floats; others are equal.
        share: Share of all floats that may differ by more.
    """
    stored = [np.load(folder / "checkpoint.npz") for folder in (first, second)]
    assert stored[0].files == stored[1].files
    differences = []
    for name in stored[0].files:
        values = [arrays[name] for arrays in stored]
        assert [value.dtype for value in values] == [values[0].dtype] * 2
        assert values[0].shape == values[1].shape
        if values[0].dtype.kind == "f":
            differences.append(np.abs(values[0] - values[1]).ravel())
        else:
            assert values[0] == values[1], name
    assert np.mean(np.concatenate(differences) > tolerance) <= share


def test_scenes_have_the_same_bytes(folders):
    assert_same_files(folders.wrote("this", "shapes"), folders.wrote("other", "shapes"))


def test_records_have_the_same_bytes(folders):
    assert_same_files(folders.wrote("this", "records"), folders.wrote("other", "records"))


def test_batches_are_equal(folders):
    assert_same_arrays(folders.wrote("this", "batches"), folders.wrote("other", "batches"))


def test_trainings_from_one_seed(folders):
    runs = folders.wrote("this", "training"), folders.wrote("other", "training")
    assert set(metrics(runs[0])) == set(range(1, STEPS + 1))
    assert_close_metrics(metrics(runs[0]), metrics(runs[1]), LOSSES)
    assert_close_checkpoints(*runs, VALUES, SHARE)
    for name in ("config.gin", "classes.json"):
        assert filecmp.cmp(runs[0] / name, runs[1] / name, shallow=False)
    manifests = [json.loads((run / f"checkpoints/ckpt-{STOP}.json").read_text()) for run in runs]
    for manifest in manifests:
        del manifest["files"]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("writer", READER)
def test_a_killed_training_goes_on(folders, writer):
    """A run that was killed after its last step, before that was saved, repeats the steps since its checkpoint."""
    whole, resumed = folders.wrote(writer, "training"), folders.read(writer, "training")
    log = resumed.with_suffix(".log").read_text()
    assert f"ckpt-{STOP}" in log and "changed since" not in log
    cut = [json.loads(line)["step"] for line in (resumed / "metrics.cut.jsonl").read_text().splitlines()]
    assert cut == list(range(STOP + 1, STEPS + 1))
    steps = metrics(whole), metrics(resumed)
    assert [steps[0][step] for step in range(1, STOP + 1)] == [steps[1][step] for step in range(1, STOP + 1)]
    assert_close_metrics(*steps, LOSSES)
    assert filecmp.cmp(whole / "config.gin", resumed / "config.gin", shallow=False)
    assert_close_checkpoints(whole, resumed, VALUES, SHARE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_from_one_seed(folders, optimizer):
    first, second = (folders.wrote(writer, "optimizers") / optimizer for writer in PYTHONS)
    assert_close_losses(losses(first), losses(second))
    assert_close_checkpoints(first, second, TOY)


@pytest.mark.parametrize("writer", READER)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_goes_on(folders, optimizer, writer):
    whole, resumed = (find(writer, "optimizers") / optimizer for find in (folders.wrote, folders.read))
    assert list(losses(resumed)) == list(range(STOP + 1, STEPS + 1))
    assert_close_losses({step: losses(whole)[step] for step in losses(resumed)}, losses(resumed))
    assert_close_checkpoints(whole, resumed, TOY)


@pytest.mark.parametrize("writer", READER)
def test_a_run_gives_the_same_detections(folders, writer):
    """Boxes, scores, classes, run lengths, mask probabilities, and the moving averages that are the weights."""
    own = folders.wrote(writer, "detections")
    assert all(len(np.load(path)["scores"]) for path in own.glob("*.raw.npz"))
    assert_same_arrays(own, folders.read(writer, "detections"))


@pytest.mark.parametrize("writer", READER)
def test_an_export_gives_the_same_detections(folders, writer):
    """All outputs of all signatures, and the lines of the client."""
    own, other = folders.wrote(writer, "served"), folders.read(writer, "served")
    assert_same_arrays(own, other)
    graphs = [json.loads((place / "graph.json").read_text()) for place in (own, other)]
    assert graphs[0] == graphs[1] and graphs[0]["operations"] and not graphs[0]["unknown"]
    assert (own / "client/detections.jsonl").read_bytes() == (other / "client/detections.jsonl").read_bytes()


@pytest.mark.parametrize("writer", READER)
def test_predictions_have_the_same_metrics(folders, writer):
    own, other = folders.wrote(writer, "evaluation"), folders.read(writer, "evaluation")
    assert (own / "metrics.json").read_bytes() == (other / "metrics.json").read_bytes()


@pytest.mark.parametrize("writer", READER)
def test_a_converted_checkpoint_has_the_same_weights(folders, writer):
    assert_same_arrays(folders.wrote(writer, "conversion"), folders.read(writer, "conversion"))
    assert_same_arrays(folders.wrote("this", "conversion"), folders.wrote("other", "conversion"))
