"""The plan and the report of `tests.studies.fine_tuning`."""

import sys
from pathlib import Path

import pytest

from htc_tf import config
from tests.studies import fine_tuning
from tests.studies.fine_tuning import ARMS, FULL, NOTHING, PRETRAINING, TRIALS, TUNED


@pytest.fixture
def flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fine_tuning"])
    return fine_tuning.parse()


def entry(box, mask):
    metrics = {"bbox/AP": box, "bbox/AP50": 1.0, "segm/AP": mask, "segm/AP50": 1.0}
    return {"metrics": metrics, "losses": [[480, 1.0]], "train": [100, 1.0], "evaluate": [1.0, 1.0]}


def test_every_training_can_be_configured(flags):
    """With the default flags: by its gin files and gin parameters as `htc_tf.train` reads them."""
    runs = fine_tuning.plan(flags, Path("runs"))
    assert len({run.name for run in runs}) == len(runs) == 1 + len(ARMS) * len(flags.seeds) + len(TRIALS)
    for run in (run for run in runs if run.seed == 0):
        given = {"--gin_file": [], "--gin_param": [], "--init_from": []}
        for flag, _, value in (word.partition("=") for word in runs[run]):
            given[flag].append(value)
        experiment, resolved = config.load(given["--gin_file"], given["--gin_param"])
        if run == PRETRAINING:
            assert experiment.num_classes == len(fine_tuning.KNOWN) and f"STEPS = {flags.pretraining}" in resolved
        from_nothing = run == PRETRAINING or run.arm.startswith(NOTHING)
        assert given["--init_from"] == ([] if from_nothing else ["runs/pretrained"])


def test_the_section(flags):
    pairs = {TUNED: (0.5, 0.4), NOTHING: (0.1, 0.05), FULL: (0.3, 0.2)}
    entries = {(arm, seed): entry(box + seed / 100, mask) for arm, (box, mask) in pairs.items() for seed in flags.seeds}
    text = "\n".join(fine_tuning.report(entries, entry(0.6, 0.5), flags))
    assert f"--images 40 --pretraining {flags.pretraining} --seeds 0 1 2" in text
    assert "| pretrained weights | **0.510** ± 0.010 | 0.500, 0.510, 0.520 | **0.400** ± 0.000 |" in text
    assert f"({FULL}): box AP +0.200 ± 0.000, mask AP +0.200 ± 0.000" in text
    assert "reaches box AP 0.600, mask AP 0.500" in text
