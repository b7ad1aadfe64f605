"""The benchmark of the evaluation evaluates something, and holds its figures against pycocotools' own."""

import pytest

from htc_tf.benchmarks import eval as evaluation
from htc_tf.benchmarks.drawn_records import OBJECTS
from htc_tf.benchmarks.measure import Work, format_table
from htc_tf.errors import UserError
from htc_tf.evaluation.evaluator import FIGURES

WORK = Work(60, 80, 2, "float32", None, 1)


def test_an_image_is_measured():
    found = evaluation.run(WORK)
    assert found.unit == "image" and 0 < found.cpu_seconds["median"] < 60
    assert found.details["figures"].startswith(f"{2 * len(FIGURES)}, equal")
    # Drawn so that some are found and some are not.
    box, mask = (float(part.split()[-1]) for part in found.details["AP"].split(","))
    assert 0.1 < box < 0.99 and 0.1 < mask < 0.99
    assert found.details["pycocotools"]["cpu_seconds"] > 0
    assert f"{OBJECTS} an image, 100 detections" in format_table("eval", WORK, found)


def test_a_difference_is_an_error(monkeypatch):
    ours = evaluation.evaluate_results
    monkeypatch.setattr(evaluation, "evaluate_results", lambda *case: {**ours(*case), "segm/AR10": 0.5})
    with pytest.raises(UserError, match=r"segm/AR10 is 0\.5, pycocotools says"):
        evaluation.run(WORK)
