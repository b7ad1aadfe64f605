"""The model card of an export: what the run's files state, and TODO where they state nothing."""

import hashlib
import json

import pytest

from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.run import Run
from htc_tf.serving import model_card
from htc_tf.weights.public_weights import WEIGHTS

CATEGORIES = [{"id": 1, "name": "circle"}, {"id": 5, "name": "star"}]


@pytest.fixture
def version(tmp_path):
    """EXPORT/1 without a model."""
    folder = tmp_path / "EXPORT" / "1"
    for name in ("saved_model.pb", "variables/variables.index", "assets.extra/classes.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def run(tmp_path):
    """A run whose checkpoint of step 4 is intact as far as its manifest says."""
    run = Run(tmp_path / "my_run")
    run.create("STEPS = 4\n", CATEGORIES)
    run.checkpoints.mkdir()
    files = {}
    for name in ("ckpt-4.index", "ckpt-4.data-00000-of-00001"):
        (run.checkpoints / name).write_bytes(b"x")
        files[name] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    manifest = {"format": 1, "step": 4, "data": "da7a", "files": files}
    (run.checkpoints / "ckpt-4.json").write_text(json.dumps(manifest))
    lines = [{"step": 2, "bbox/AP": 0.1}, {"step": 4, "total": 1.0}, {"step": 4, "bbox/AP": 0.4321, "segm/AP": 0.389}]
    run.metrics.write_text("\n".join([*map(json.dumps, lines), '{"step": 4, "bbox']))
    return run


def test_a_trained_run(version, run):
    card = model_card.write_card(version, run, "STEPS = 4\n", CATEGORIES, "Apache-2.0").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\nlibrary_name: htc_tf\n')
    assert "# my_run\n" in card and "- License: Apache-2.0\n" in card and "- 2 classes: circle, star\n" in card
    assert "records with the fingerprint `da7a`" in card
    assert "| box AP | mask AP |\n| --- | --- |\n| 43.2 | 38.9 |\n\nMeasured on the validation records" in card
    assert f"| saved_model.pb | `{hashlib.sha256(b'saved_model.pb').hexdigest()}` |" in card
    assert f"| checkpoint ckpt-4.index | `{hashlib.sha256(b'x').hexdigest()}` |" in card
    assert "```\nSTEPS = 4\n```" in card


def test_the_best_weights_have_their_own_metrics(version, run):
    path = run.checkpoints / "ckpt-4.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {"segm/AP": 0.5}}))
    card = model_card.write_card(version, run, "", CATEGORIES).read_text()
    assert "| mask AP |\n| --- |\n| 50.0 |" in card


@pytest.mark.parametrize("metrics", [{"bbox/AP": "high"}, {"bbox/AP": 10**400}, {"bbox/AP": None}, 3, "bbox/AP", []])
def test_metrics_of_a_damaged_manifest_are_not_taken(version, run, metrics):
    path = run.checkpoints / "ckpt-4.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": metrics}))
    assert "| 43.2 | 38.9 |" in model_card.write_card(version, run, "", CATEGORIES).read_text()


@pytest.mark.parametrize("files", [{"x": 1}, {"ckpt-4.index": {"sha256": "b" * 64}}, 3, ["x"]])
def test_hashes_are_those_of_the_files_not_of_a_damaged_manifest(version, run, files, monkeypatch):
    monkeypatch.setattr(CheckpointFiles, "_read", lambda self, number: None)  # every value matches its checksum
    path = run.checkpoints / "ckpt-4.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": files}))
    card = model_card.write_card(version, run, "", CATEGORIES).read_text()
    for name in ("ckpt-4.data-00000-of-00001", "ckpt-4.index"):
        assert f"| checkpoint {name} | `{hashlib.sha256(b'x').hexdigest()}` |" in card
    assert card.count("| checkpoint ") == 2


def test_a_metric_without_objects_is_left_out(version, run):
    run.metrics.write_text(json.dumps({"step": 4, "bbox/AP": 0.4321, "segm/AP": -1.0}))
    assert "| box AP |\n| --- |\n| 43.2 |\n" in model_card.write_card(version, run, "", CATEGORIES).read_text()


def test_a_run_that_states_nothing(version, tmp_path):
    run = Run(tmp_path / "other")
    run.create("", [])
    card = model_card.write_card(version, run, "", []).read_text()
    assert 'license: "unknown"' in card and "TODO: state it by --license" in card and "- 0 classes: \n" in card
    assert "Not known: no evaluation of these weights" in card and "unknown: the weights come from" in card


def test_public_weights(version, run):
    public = WEIGHTS["htc_r50_fpn_1x_coco"]
    card = model_card.write_card(version, run, "", CATEGORIES, None, public).read_text()
    assert "# htc_r50_fpn_1x_coco\n" in card and "- License: Apache-2.0\n" in card and public.addresses[0] in card
    assert "| 42.3 | 37.4 |\n\nPublished for COCO val2017" in card


def test_the_head_is_yaml_for_every_license():
    yaml = pytest.importorskip("yaml")
    for license in {weights.license for weights in WEIGHTS.values()} - {None}:
        text = json.dumps(license.split(",")[0].lower())
        assert isinstance(yaml.safe_load(f"license: {text}")["license"], str)


def test_many_classes_are_cut(version, run):
    many = [{"id": index, "name": f"c{index}"} for index in range(300)]
    card = model_card.write_card(version, run, "", many).read_text()
    assert "- 300 classes: c0, " in card and "c99, ... (classes.json)" in card and "c100," not in card
