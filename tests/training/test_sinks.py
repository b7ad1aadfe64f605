"""Weights & Biases and MLflow as sinks: offline, resumed, and never the end of a training."""

import json
from types import SimpleNamespace

import pytest

from htc_tf.errors import UserError
from htc_tf.run import Run
from htc_tf.training import sinks
from htc_tf.training.monitor import Monitor

SETTINGS = {"BATCH_SIZE": 2, "PRECISION": "float32"}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_nothing_is_imported_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv(sinks.VARIABLE, raising=False)
    monkeypatch.setattr(sinks, "load_package", lambda name: pytest.fail(name))
    opened = sinks.Sinks(tmp_path, SETTINGS)
    opened.log(1, {"total": 1.0})
    opened.close()
    assert not opened.open and not list(tmp_path.iterdir())


def test_mlflow_keeps_numbers_over_a_resume(offline, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv(sinks.VARIABLE, "mlflow")
    for steps in ((1, 2), (2, 3)):  # killed after step 2, whose checkpoint was not written
        opened = sinks.Sinks(offline, SETTINGS)
        for step in steps:
            opened.log(step, {"total": 1.0 / step, "val_loss/total": 0.5})
        opened.close()
    (run_id,) = json.loads((offline / sinks.IDS).read_text()).values()
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run_id, "total")
    assert {metric.step: metric.value for metric in history} == {1: 1.0, 2: 0.5, 3: 1 / 3}
    found = client.get_run(run_id)
    assert found.data.params == {"BATCH_SIZE": "2", "PRECISION": "float32"}
    assert found.data.metrics["val_loss/total"] == 0.5 and found.info.run_name == "run"


def test_wandb_writes_a_run_offline(offline, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv(sinks.VARIABLE, "wandb")
    opened = sinks.Sinks(offline, SETTINGS)
    opened.log(1, {"total": 0.5})
    opened.close()
    run_id = json.loads((offline / sinks.IDS).read_text())["wandb"]
    (written,) = offline.rglob(f"run-{run_id}.wandb")
    content = written.read_bytes()
    assert b"BATCH_SIZE" in content and b"total" in content


def fake(fail_at=None):
    """A package with wandb's interface that records its calls."""
    calls = []

    def log(numbers):
        if numbers["step"] == fail_at:
            raise ConnectionError("the host\nis away")
        calls.append(numbers)

    run = SimpleNamespace(id="one", log=log, define_metric=lambda *a, **k: None, finish=lambda: calls.append("end"))

    def init(**options):
        calls.append(options)
        return run

    return SimpleNamespace(init=init, teardown=lambda: None, calls=calls)


def test_a_resumed_run_is_the_same_run(monkeypatch, tmp_path):
    package = fake()
    monkeypatch.setenv(sinks.VARIABLE, " wandb ")
    monkeypatch.setattr(sinks, "load_package", lambda name: package)
    for _ in range(2):
        sinks.Sinks(tmp_path, SETTINGS).close()
    starts = [call for call in package.calls if call != "end"]
    assert [start["id"] for start in starts] == [None, "one"] and starts[0]["config"] == SETTINGS
    assert package.calls.count("end") == 2


def test_a_service_that_fails_ends_no_training(monkeypatch, tmp_path, capsys):
    package = fake(fail_at=2)
    monkeypatch.setenv(sinks.VARIABLE, "wandb")
    monkeypatch.setattr(sinks, "load_package", lambda name: package)
    opened = sinks.Sinks(tmp_path, SETTINGS)
    for step in (1, 2, 3):
        opened.log(step, {"total": 1.0})
    opened.close()
    assert [call["step"] for call in package.calls[1:]] == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: wandb gets no more numbers of this training: the host is away"


def test_mistakes_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv(sinks.VARIABLE, "wandb,neptune")
    with pytest.raises(UserError, match=r"^HTC_TF_LOG_TO=neptune: give wandb or mlflow, or both with a comma$"):
        sinks.Sinks(tmp_path, SETTINGS)
    monkeypatch.setitem(sinks.sys.modules, "wandb", None)
    monkeypatch.setenv(sinks.VARIABLE, "wandb")
    with pytest.raises(UserError, match=r"^HTC_TF_LOG_TO=wandb: `pip install 'htc_tf\[wandb\]'` brings the package"):
        sinks.Sinks(tmp_path, SETTINGS)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"wandb": 3}', "[" * 9999])
def test_a_damaged_file_of_ids_begins_a_new_run(content, tmp_path):
    (tmp_path / sinks.IDS).write_text(content)
    assert sinks.read_ids(tmp_path / sinks.IDS) == {}


def test_only_the_chief_of_several_workers_sends_numbers(monkeypatch, tmp_path):
    monkeypatch.setenv(sinks.VARIABLE, "wandb")
    monkeypatch.setattr(sinks, "load_package", lambda name: pytest.fail(name))
    monitor = Monitor(Run(tmp_path), "", first_step=0, steps=1, batch_size=1, epoch_steps=1, chief=False)
    monitor.log(1, {"total": 1.0})
    monitor.close()
