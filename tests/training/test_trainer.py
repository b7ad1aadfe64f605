"""Training: the files of a run, resuming it, and errors before and during it."""

import json
import math
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.inference.detector import restore
from htc_tf.run import Run
from htc_tf.training import trainer
from htc_tf.training.monitor import Monitor
from htc_tf.training.stop import StopRequest
from tests import toy_detector
from tests.training import toy
from tests.training.runs import TINY, checkpoints, copy, lines, spoiled, start, start_toy, steps

LOSSES = ["rpn_class", "rpn_box", *(f"stage{t}_{name}" for t in (1, 2) for name in ("class", "box", "mask"))]
LOSSES.append("semantic")
SPEED = ["images_per_second", "input_wait"]
SAMPLING = [
    "sampling/proposal_recall",
    *(f"sampling/stage{t}_{name}" for t in (1, 2) for name in ("foreground", "iou")),
]


def test_the_files_of_a_run(tiny_run):
    records = steps(tiny_run)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    for record in records:
        known = {"step", "epoch", "total", "learning_rate", "gradient_norm", *SPEED, *LOSSES, *SAMPLING}
        assert set(record) == known and record["epoch"] == pytest.approx(record["step"] / 3, abs=1e-4)
        assert record["total"] == pytest.approx(sum(record[name] for name in LOSSES), rel=1e-5)
        assert 0 <= record["input_wait"] <= 1
        assert all(math.isfinite(value) for value in record.values()) and record["images_per_second"] > 0
    # 4e-3 for 16 images is 5e-4 for two; a hundredth of it at first; then a cosine.
    wanted = [5e-6, *(5e-4 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / 4))) for step in (1, 2, 3))]
    np.testing.assert_allclose([record["learning_rate"] for record in records], wanted, rtol=1e-5)
    assert checkpoints(tiny_run) == ["ckpt-2", "ckpt-4"]
    assert "STEPS = 4" in tiny_run.read_config()
    assert [row["id"] for row in tiny_run.read_categories()] == list(range(1, 9))
    (evaluation,) = (record for record in lines(tiny_run) if "bbox/AP" in record)
    assert evaluation["step"] == 4 and evaluation["epoch"] == 1.3333 and evaluation["evaluation_seconds"] > 0
    losses = {f"val_loss/{name}" for name in ("total", *LOSSES)}
    assert {"segm/AP50", *losses} < set(evaluation) and {n for n in evaluation if n.startswith("val")} == losses
    # After four steps nothing is memorized yet: the losses on the same images are alike.
    assert evaluation["val_loss/total"] == pytest.approx(records[-1]["total"], rel=0.5)


@pytest.fixture(scope="module")
def toy_run(tiny_data, tmp_path_factory):
    """A trained Run of the toy: four logged steps, two checkpoints."""
    run = Run(tmp_path_factory.mktemp("toy") / "run")
    start_toy(run, tiny_data.records)
    return run


def test_a_finished_run_has_nothing_left_to_do(toy_run, tiny_data, tmp_path):
    run = copy(toy_run, tmp_path / "run", newest=4)
    before = run.metrics.read_text()
    start_toy(run, tiny_data.records)
    assert run.metrics.read_text() == before and checkpoints(run) == ["ckpt-2", "ckpt-4"]


def test_what_a_resumed_training_does_otherwise_is_noted(toy_run, tiny_data, tmp_path, capsys):
    run = copy(toy_run, tmp_path / "run", newest=4)
    manifest = run.checkpoints / "ckpt-4.json"
    content = json.loads(manifest.read_text())
    assert content["replicas"] == 1
    manifest.write_text(json.dumps({**content, "replicas": 2}))
    start_toy(run, tiny_data.records, seed=1, init_from="nowhere")
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    since = f"changed since {run.checkpoints / 'ckpt-4'}: the run will differ from the original"
    assert notes == [
        "note: --init_from is not read: the run continues from its own checkpoint",
        f"note: seed {since}",
        f"note: the number of devices {since}",
    ]


@pytest.mark.parametrize("state", [None, b"", b"\0" * 100])
def test_a_run_without_tensorflows_list_keeps_everything(toy_run, tiny_data, tmp_path, state, capsys):
    run = copy(toy_run, tmp_path / "run", newest=4)
    path, before = run.checkpoints / "checkpoint", run.metrics.read_text()
    path.unlink() if state is None else path.write_bytes(state)
    start_toy(run, tiny_data.records)
    assert run.metrics.read_text() == before and checkpoints(run) == ["ckpt-2", "ckpt-4"]
    printed = capsys.readouterr()
    assert "resuming from" in printed.out and "ckpt-4: repaired" in printed.err


def test_a_run_whose_newest_checkpoint_is_damaged_resumes_from_the_one_before(toy_run, tiny_data, tmp_path, capsys):
    run = copy(toy_run, tmp_path / "run", newest=4)
    before = lines(run)
    path = run.checkpoints / "ckpt-4.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-100])
    start_toy(run, tiny_data.records, "STEPS=2")
    assert [record["step"] for record in lines(run)] == [1, 2]
    assert [json.loads(line) for line in run.metrics_cut.read_text().splitlines()] == before[2:]
    printed = capsys.readouterr()
    assert f"resuming from {run.checkpoints / 'ckpt-2'}" in printed.out
    (line,) = [line for line in printed.err.splitlines() if "is damaged" in line]
    assert f"note: {path} is damaged" in line and f"using {run.checkpoints / 'ckpt-2'}" in line


def test_a_run_without_an_intact_checkpoint_is_left_unchanged(toy_run, tiny_data, tmp_path):
    run = copy(toy_run, tmp_path / "run", newest=2)
    path = run.checkpoints / "ckpt-2.index"
    path.write_bytes(bytes(len(path.read_bytes())))
    before = run.metrics.read_text(), sorted(run.checkpoints.iterdir())
    with pytest.raises(UserError, match=rf"{path} is damaged.*No intact checkpoint"):
        start_toy(run, tiny_data.records)
    with pytest.raises(UserError, match=rf"{path} is damaged"):
        start_toy(Run(tmp_path / "other"), tiny_data.records, init_from=run)
    assert (run.metrics.read_text(), sorted(run.checkpoints.iterdir())) == before


@pytest.mark.parametrize("name", ["checkpoints", "best"])
def test_a_run_whose_folders_are_gone_is_left_unchanged(toy_run, tiny_data, tmp_path, name):
    """Such as a link to a disk that is not mounted."""
    run = copy(toy_run, tmp_path / "run", newest=4)
    folder, before = run.folder / name, run.metrics.read_text()
    shutil.rmtree(folder, ignore_errors=True)
    folder.symlink_to(tmp_path / "not_mounted")
    with pytest.raises(UserError, match=f"{folder} is no folder"):
        start_toy(run, tiny_data.records)
    assert run.metrics.read_text() == before and not run.metrics_cut.exists()


def test_a_run_that_cannot_resume_is_left_unchanged(tiny_run, tiny_data, tmp_path):
    run = copy(tiny_run, tmp_path / "run", newest=4)
    before = run.read_config(), run.metrics.read_text()
    with pytest.raises(UserError, match=r"ckpt-4 does not fit.*mask_head"):
        start(run, tiny_data.records, "NUM_STAGES=2", "MASKS=False", "STEPS=5")
    with pytest.raises(UserError, match=r"ckpt-4 does not fit.*lacks"):
        start(run, tiny_data.records, "NUM_STAGES=2", "BoxHead.channels=32", "STEPS=5")
    assert (run.read_config(), run.metrics.read_text()) == before


def test_another_optimizer_is_named(toy_run, tiny_data, tmp_path):
    run = copy(toy_run, tmp_path / "run", newest=4)
    with pytest.raises(UserError, match=r"ckpt-4 does not fit.*optimizer is another, or .*PRECISION.*--init_from"):
        start_toy(run, tiny_data.records, "PRECISION='float16'", "STEPS=5")


def test_no_steps_still_leave_a_run(tiny_data, tmp_path):
    run = Run(tmp_path)
    start_toy(run, tiny_data.records, "STEPS=0")
    assert checkpoints(run) == ["ckpt-0"] and run.config.exists() and not lines(run)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_data, tmp_path, eagerly, monkeypatch, capsys):
    monkeypatch.setattr(toy, "objective", spoiled(toy.objective, "few", at=3))
    run = Run(tmp_path)
    with pytest.raises(FloatingPointError, match=r"step 4 \(learning rate .*: few, total") as error:
        start_toy(run, tiny_data.records, "CHECKPOINT_EVERY=1", "Experiment.skip_non_finite=1")
    assert "some" not in str(error.value)
    assert "failed_batch.npz" in str(error.value)
    # Step 3 was allowed to pass: it is counted, but not logged, and its checkpoint is that of step 2.
    assert "skipped step 3" in capsys.readouterr().err
    assert checkpoints(run) == ["ckpt-1", "ckpt-2", "ckpt-3"] and [r["step"] for r in lines(run)] == [1, 2]
    names = [name for name, _ in tf.train.list_variables(str(run.checkpoints / "ckpt-3")) if name.startswith("model/")]
    for name in names:
        values = [tf.train.load_variable(str(run.checkpoints / f"ckpt-{n}"), name) for n in (2, 3)]
        np.testing.assert_array_equal(*values, err_msg=name)
    with np.load(run.failed_batch) as batch:
        assert batch["step"] == 4 and batch["truth.boxes"].shape == (2, 8, 4)
        experiment, _ = config.load([TINY], [])
        batches = experiment.train_input.dataset(tiny_data.records, seed=0).take(4)
        np.testing.assert_array_equal(batch["images"], [*batches.as_numpy_iterator()][-1].images)
    assert json.loads((run.checkpoints / "ckpt-3.json").read_text())["skipped"] == 1


@pytest.fixture
def ctrl_c():
    """Enables SIGINT even if the tests run in the background. Returns the handler before any training."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_request_before_the_first_step_saves_the_start(tiny_data, tmp_path, eagerly, capsys):
    run, stop = Run(tmp_path), StopRequest()
    stop.made = True
    assert start_toy(run, tiny_data.records, "STEPS=2", stop=stop) is True
    assert checkpoints(run) == ["ckpt-0"] and "stopped after step 0, saved in" in capsys.readouterr().out


def test_ctrl_c_saves_and_the_run_continues(tiny_data, tmp_path, eagerly, monkeypatch, capsys, ctrl_c):
    """The signal comes with the line of step 1; no handler is left behind."""
    run, log = Run(tmp_path), Monitor.log

    def log_and_terminate(self, step, numbers):
        log(self, step, numbers)
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Monitor, "log", log_and_terminate)
    params = ["STEPS=2", "Experiment.ema_decay=0.5"]
    assert start_toy(run, tiny_data.records, *params) is True
    assert checkpoints(run) == ["ckpt-1"] and signal.getsignal(signal.SIGINT) == ctrl_c
    assert f"stopped after step 1, saved in {run.folder}: the same command continues" in capsys.readouterr().out
    assert start_toy(run, tiny_data.records, *params) is False
    told = capsys.readouterr().out
    assert (
        f"resuming from {run.checkpoints / 'ckpt-1'}" in told
        and f"finished 2 steps (0.67 epochs): {run.folder}\n" in told
    )
    assert f"next: python -m htc_tf.eval --checkpoint {run.folder} " in told
    assert checkpoints(run) == ["ckpt-1", "ckpt-2"] and [record["step"] for record in lines(run)] == [1, 2]
    # The averages were saved and are what the other commands take.
    newest = str(run.checkpoints / "ckpt-2")
    average = tf.train.load_variable(newest, "averages/weights/0/.ATTRIBUTES/VARIABLE_VALUE")
    experiment = toy_detector.use(config.load([TINY], params)[0])
    restored = restore(experiment, run).model.trainable_variables[0].numpy()
    np.testing.assert_array_equal(restored, average)
    experiment = toy_detector.use(config.load([TINY], params[:-1])[0])
    assert (restore(experiment, run).model.trainable_variables[0].numpy() != average).any()


def test_a_corrupt_record_is_named(tiny_data, tmp_path):
    records = Path(shutil.copytree(tiny_data.records, tmp_path / "records"))
    shard = sorted(records.glob("*.tfrecord"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=shard.name):
        start_toy(Run(tmp_path / "run"), records)


def test_records_and_configuration_must_fit(tiny_data, tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"8 classes.*NUM_CLASSES=8"):
        start(run, tiny_data.records, "NUM_CLASSES=7")
    with pytest.raises(UserError, match=r"13 semantic labels.*NUM_LABELS=13"):
        start(run, tiny_data.records, "NUM_LABELS=12", "NUM_STAGES=1")
    with pytest.raises(UserError, match="nowhere"):
        start(run, "nowhere")
    with pytest.raises(UserError, match=r"--devices GPU:9.*CPU:0"):
        start(run, tiny_data.records, devices=["GPU:9"])
    assert not run.folder.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written"):
        start(Run(tmp_path / "file"), tiny_data.records, "NUM_STAGES=1")


def test_workers_compare_their_flags(tiny_data, tmp_path, monkeypatch):
    """Workers with other first weights would train other networks, and with another profile wait for each other."""
    compared = {}

    def compare(strategy, cluster, values):
        compared.update(values)
        raise UserError("they differ")

    monkeypatch.setattr(trainer, "check_same", compare)
    with pytest.raises(UserError, match="they differ"):
        start_toy(Run(tmp_path), tiny_data.records, init_from=Run("other"), backbone_weights="none", profile=(1, 2))
    assert str(compared["--init_from"]) == "other" and compared["--backbone_weights"] == "none"
    assert compared["--profile"] == (1, 2)


def test_the_next_commands_quote_paths(tmp_path):
    run = Run("my runs/one")
    experiment, best = SimpleNamespace(steps=4), SimpleNamespace(metric=None, saved=lambda: None)
    loop = SimpleNamespace(number=4, best=best, monitor=SimpleNamespace(epoch_steps=2), experiment=experiment)
    _, evaluation, prediction = trainer.closing_lines(run, loop, False, "the records/val")
    expected = "--checkpoint 'my runs/one' --records 'the records/val' --output 'my runs/one/metrics.json'"
    assert evaluation == f"next: python -m htc_tf.eval {expected}"
    assert "--checkpoint 'my runs/one' --input 'photos/*.jpg' --output pictures" in prediction
