"""Fine-tuning: the options of gin/options/fine_tune.gin, and the command with --init_from."""

import pytest

from htc_tf import config, train
from htc_tf.errors import UserError
from htc_tf.run import Run
from htc_tf.training import first_weights
from tests.training.adopting import PLAIN, SMALL


@pytest.mark.parametrize("name", ["htc_r50_fpn_1x_coco", "htc_r50_fpn_20e_coco", "cascade_mask_rcnn_r50_fpn_1x_coco"])
def test_the_override_follows_any_experiment_config(name, tiny_data):
    files = [f"gin/{name}.gin", "gin/options/fine_tune.gin"]
    experiment, _ = config.load(files, [], train_records=tiny_data.records)
    assert (experiment.num_classes, experiment.batch_size, experiment.steps) == (8, 4, 24 * 2)
    assert experiment.optimizer.schedule.peak == pytest.approx(0.0025) and experiment.checkpoint_every == 2
    assert experiment.optimizer.schedule.warmup_steps == 100


def test_the_override_and_a_cosine_schedule(tiny_data):
    files = ["gin/htc_shapes.gin", "gin/options/fine_tune.gin"]
    experiment, _ = config.load(files, [], train_records=tiny_data.records)
    schedule = experiment.optimizer.schedule
    assert (experiment.steps, schedule.peak, schedule.warmup_steps) == (48, 8e-3 / 4 / 2, 100)


def test_the_override_and_another_optimizer(tiny_data):
    for options in (["fine_tune", "swin_t"], ["swin_t", "fine_tune"]):
        files = ["gin/mask_rcnn_r50_fpn_1x_coco.gin", *(f"gin/options/{name}.gin" for name in options)]
        experiment, _ = config.load(files, [], train_records=tiny_data.records)
        assert experiment.optimizer.schedule.peak == pytest.approx(1e-4 / 2 / 4)


def test_the_command(detector_file, tiny_data, tmp_path, monkeypatch, capsys):
    """The command of fine_tune.gin, on a model as small as that of the file: the name leads to the file."""
    path, _ = detector_file
    (tmp_path / "small.gin").write_text("include 'tests/tiny.gin'\nNUM_STAGES = 2\n" + "\n".join(PLAIN))
    monkeypatch.setattr(first_weights, "locate", lambda text, flag: (path, "mmdet"))
    flags = ["--gin_file", str(tmp_path / "small.gin"), "--gin_file", "gin/options/fine_tune.gin"]
    flags += ["--gin_param", "STEPS=0", "--init_from", "htc_r50_fpn_1x_coco", "--workdir", str(tmp_path / "run")]
    flags += ["--train_records", str(tiny_data.records)]
    monkeypatch.setattr("sys.argv", ["train", *flags])
    train.main()
    printed = capsys.readouterr().out
    assert "weights from" in printed and "taken; 0 of 8 classes kept" in printed
    assert "starting from htc_r50_fpn_1x_coco" in printed and "finished 0 steps" in printed
    assert Run(tmp_path / "run").config.exists()


def test_a_source_that_does_not_fit_leaves_no_folder(trained, tiny_data, tmp_path):
    from htc_tf.training.trainer import train as train_model

    experiment, resolved = config.load(["tests/tiny.gin"], [*SMALL, "ResNet.width=16"])
    with pytest.raises(UserError, match=r"--init_from .* of another architecture"):
        train_model(experiment, resolved, tiny_data.records, None, Run(tmp_path / "run"), init_from=trained[0])
    assert not (tmp_path / "run").exists()
