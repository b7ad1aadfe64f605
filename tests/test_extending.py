"""The examples of docs/extending.md run together, as the page has them: a dataset, records and a training."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.run import Run
from tests import forks

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`(\S+)`[^`\n]*(?:`[^`\n]*`[^`\n]*)*:\n\n```\w*\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
PARTS = ["convolution_head", "vgg", "dice", "gray", "polynomial"]
SMALL = [
    "STEPS=2",
    "NUM_STAGES=1",
    "XLA=False",
    "VGG.depths=(1, 1, 1, 1, 1)",
    "VGG.widths=(16, 16, 16, 16, 16)",
    "ConvolutionHead.hidden=16",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the page, and a few images like those of its dataset."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name in ("PNGImages", "PedMasks"):
        (folder / name).mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        masks = np.zeros((60, 64), np.uint8)
        masks[5:30, 10:30], masks[20:50, 40:60] = 1, 2
        pixels = generator.integers(0, 80, (60, 64, 3)) + 80 * masks[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "PNGImages" / f"{number}.png")
        Image.fromarray(masks).save(folder / "PedMasks" / f"{number}_mask.png")
    return folder


# Runs commands one after the other in one process, which imports TensorFlow once, and trains without a trace.
PROGRAM = """
import json, runpy, sys
from tests.eagerly import run_eagerly

with run_eagerly():
    for name, *words in json.loads(sys.argv[1]):
        sys.argv = [name, *words]
        (runpy.run_path if name.endswith(".py") else runpy.run_module)(name, run_name="__main__")
"""


def test_the_page_has_all_parts_in_short_files():
    modules = {name: text for name, text in FILES.items() if name.endswith(".py")}
    assert set(modules) == {f"{name}.py" for name in [*PARTS, "numbered_masks"]}
    assert {name for name, text in modules.items() if text.count("\n") >= 30} == set()


def test_the_examples_train_together(folder, monkeypatch):
    flags = ["--annotations", "annotations.json", "--images", "PNGImages", "--output", "records"]
    commands = [["numbered_masks.py", "PNGImages", "PedMasks", "annotations.json"]]
    commands += [["pipelines.coco_to_tfrecord", *flags]]

    overrides = ["gin/options/no_semantic.gin", *(f"{name}.gin" for name in [*PARTS, "numbered_masks"])]
    flags = [part for name in ["tests/tiny.gin", *overrides] for part in ("--gin_file", name)]
    flags += [part for binding in SMALL for part in ("--gin_param", binding)]
    commands += [["htc_tf.train", *flags, "--train_records", "records", "--workdir", "run"]]
    done = forks.run("-c", PROGRAM, json.dumps(commands), cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2

    # The run's configuration builds the same model once its modules are named.
    monkeypatch.syspath_prepend(folder)
    run = Run(folder / "run")
    with pytest.raises(UserError, match=r"config\.gin has the line 'import convolution_head'.*--trust_config"):
        config.load([], [], run)
    for words, trust in (([f"import {part}" for part in PARTS], False), ([], True)):
        experiment, _ = config.load([], words, run, trust)
        model = experiment.build_model()
        parts = [model.backbone, model.stages[0].box_head, experiment.optimizer.schedule]
        assert [type(part).__name__ for part in parts] == ["VGG", "ConvolutionHead", "PolynomialSchedule"]
        assert [function.__name__ for function in experiment.train_input.augment] == ["flip", "gray"]
