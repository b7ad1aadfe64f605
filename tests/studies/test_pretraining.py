"""The plan and the report of `tests.studies.pretraining`, and the weights that it writes."""

from pathlib import Path

import numpy as np

from tests.studies import pretraining, recorded


def entry(seconds, box, mask):
    metrics = {"bbox/AP": box, "bbox/AP50": 1.0, "segm/AP": mask, "segm/AP50": 1.0}
    return {
        "metrics": metrics,
        "losses": [[800, 1.0]],
        "train": [seconds, 1.0],
        "evaluate": [1.0, 1.0],
        "machine": "2 cores",
    }


def test_a_training_starts_from_the_whole_one_of_the_other_kind():
    folder = Path("runs")
    names = [training.name for training in pretraining.TRAININGS]
    assert len(set(names)) == len(names)
    for training in pretraining.TRAININGS:
        flags, starts = pretraining.plan(training), pretraining.start_of(training, folder)
        assert f"--gin_param=STEPS={training.steps}" in flags
        assert (pretraining.LETTERS in " ".join(flags)) == (training.scenes == "letters")
        if training.start == "nothing":
            assert not starts
        elif training.start == "letters":
            assert starts == [f"--init_from={pretraining.WEIGHTS}"] and training.scenes == "shapes"
        else:
            first = pretraining.FIRST["shapes"]
            assert starts == [f"--init_from={folder / first.name}"] and training.scenes == "letters"
            assert names.index(first.name) < names.index(training.name)


def test_the_section(tmp_path):
    first, *demo = [training for training in pretraining.TRAININGS if training.start == "letters"][:3]
    entries = {
        first: entry(100, 0.5, 0.4),
        demo[0]: entry(102, 0.52, 0.44),
        pretraining.FIRST["shapes"]: entry(900, 0.6, 0.5),
    }
    text = "\n".join(pretraining.report(entries, tmp_path / "plot.png"))
    assert (
        "| shapes | letters | 450 | 101 | **0.510** ± 0.014 | 0.500, 0.520 | **0.420** ± 0.028 | 0.400, 0.440 |" in text
    )
    assert "| shapes | nothing | 6,000 | 900 | **0.600** | 0.600 |" in text
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_weights_that_ship_fit_the_demo():
    """All variables but those of the classes are taken."""
    import htc_tf
    from htc_tf.weights.assign import entries
    from htc_tf.weights.sources import read_weights

    path = recorded.ROOT / pretraining.WEIGHTS
    arrays = read_weights(path).arrays
    model, _ = htc_tf.build(pretraining.CONFIGURATION)
    other = [e.name for e in entries(model) if np.shape(arrays[e.name]) != e.their_shape(model)]
    assert all(any(part in name for part in ("fc_cls", "conv_logits", "fc_reg")) for name in other), other
