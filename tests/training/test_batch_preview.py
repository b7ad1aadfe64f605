"""The preview draws the images of the first training batches, in their order."""

import dataclasses
import sys

import numpy as np
import pytest
from PIL import Image

from htc_tf import preview
from htc_tf.data.datasets import load_info
from htc_tf.training.batch_preview import draw_training_images


def call(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["preview", *map(str, flags)])
    preview.main()


def test_the_command(tiny_data, tiny_experiment, tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "sheet.png"
    flags = ["--gin_file", "tests/tiny.gin", "--records", tiny_data.records, "--output", output, "--images", 3]
    call(monkeypatch, *flags, "--columns", 3)
    assert "3 augmented training images" in capsys.readouterr().out
    sheet = np.asarray(Image.open(output))
    assert sheet.shape[1] > 2.5 * sheet.shape[0]  # a row of three squares
    pictures = draw_training_images(tiny_experiment().train_input, load_info(tiny_data.records), seed=0, count=3)
    assert [picture.shape for picture in pictures] == [(640, 640, 3)] * 3
    assert all(np.any(pictures[0] != picture) for picture in pictures[1:])


def test_a_class_name_without_glyphs_is_drawn_by_its_id(tiny_data, tiny_experiment):
    info = load_info(tiny_data.records)

    def first(name):
        categories = tuple(dataclasses.replace(row, name=name(row.id)) for row in info.categories)
        view = draw_training_images
        return view(tiny_experiment().train_input, dataclasses.replace(info, categories=categories), 0, 1)[0]

    np.testing.assert_array_equal(first(lambda _: "\U000e0fff"), first(str))


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--output", "sheet.txt"], "--output sheet.txt must end in .png, .jpg, .jpeg, .webp"),
        (["--output", "sheet.png", "--images", "0"], "--images: 0"),
        (["--output", "sheet.png", "--gin_file", "tests/tiny.gin"], "nowhere"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, flags, named):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "--records", "nowhere", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and named in line
