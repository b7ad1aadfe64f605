"""The commands, from their flags to their files, on a tiny trained run; and the exported model without our code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import htc_tf.client
import htc_tf.eval
import htc_tf.explain
import htc_tf.export
import htc_tf.predict
import htc_tf.serve_demo
import htc_tf.train
from tests.eagerly import run_eagerly

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def call(monkeypatch):
    """Returns call(htc_tf.eval, "--checkpoint", ...), which runs the command in this process."""

    def run(module, *flags):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
        module.main()

    return run


@pytest.fixture
def refused(call, capsys):
    """Returns refused(module, *flags), which returns the one error line of a command that exits with status 2."""

    def run(module, *flags):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            call(module, *flags)
        assert ended.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return run


def test_eval(call, tiny_run, tiny_data, tmp_path, eagerly, capsys):
    output = tmp_path / "new" / "metrics.json"
    flags = ["--checkpoint", tiny_run.folder, "--records", tiny_data.records, "--output", output]
    call(htc_tf.eval, *flags, "--annotations", tiny_data.annotations, "--gin_param", "eval/Input.batch_size=1")
    metrics = json.loads(output.read_text())
    figures = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    names = {f"{kind}/{name}" for kind in ("bbox", "segm") for name in figures}
    assert set(metrics) == names | {"by_iou", "per_class", "images", "notes"}
    assert len(metrics["per_class"]) == 8
    assert all(set(row) == names | {"objects"} for row in metrics["per_class"].values())
    assert all(-1 <= metrics[name] <= 1 for name in names)
    assert "| box" in capsys.readouterr().out


@pytest.fixture(scope="module")
def images(tiny_data, tmp_path_factory):
    """A folder with two scenes, one of them a PNG, and two files that are no images."""
    folder = tmp_path_factory.mktemp("images")
    shutil.copy(tiny_data.images / f"{1:012d}.jpg", folder / "7.jpg")
    Image.open(tiny_data.images / f"{2:012d}.jpg").save(folder / "scene.png")
    (folder / "broken.jpg").write_bytes((folder / "7.jpg").read_bytes()[:900])
    (folder / "text.png").write_text("not an image")
    return folder


def test_predict(call, tiny_run, images, tmp_path, eagerly, capsys):
    output = tmp_path / "out"
    call(htc_tf.predict, "--checkpoint", tiny_run.folder, "--input", images, "--output", output, "--threshold", 0.05)
    assert sorted(path.name for path in output.iterdir()) == ["7.png", "predictions.json", "scene.png"]
    for drawing, name in (("7.png", "7.jpg"), ("scene.png", "scene.png")):
        drawn, plain = (np.asarray(Image.open(path).convert("RGB")) for path in (output / drawing, images / name))
        assert drawn.shape[1] * plain.shape[0] == pytest.approx(drawn.shape[0] * plain.shape[1], rel=0.01)
        assert max(drawn.shape) == 640  # small images are enlarged to make labels legible
    results = json.loads((output / "predictions.json").read_text())
    assert {(result["file_name"], result["image_id"]) for result in results} == {("7.jpg", 7), ("scene.png", 2)}
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation", "file_name"}
    assert {result["category_id"] for result in results} <= set(range(1, 9))
    printed = capsys.readouterr()
    skipped = [line for line in printed.err.splitlines() if line.startswith("skipped ")]
    assert [Path(line.split(":")[0]).name for line in skipped] == ["broken.jpg", "text.png"]
    assert "{" not in "".join(skipped) and "2 images" in printed.out and "2 skipped" in printed.out


def test_predict_refuses(refused, tiny_run, images, tmp_path, eagerly):
    flags = ["--checkpoint", tiny_run.folder, "--output", tmp_path / "out", "--input"]
    assert "nowhere/*.jpg" in refused(htc_tf.predict, *flags, "nowhere/*.jpg")
    assert "every input was skipped" in refused(htc_tf.predict, *flags, images / "text.png")


FIRST_STAGE = ("--gin_param", "NUM_STAGES=1", "--gin_param", "SEMANTIC=False")
FRESH = """
import sys, pathlib
import numpy as np, tensorflow as tf

model = tf.saved_model.load(sys.argv[1] + "/1")
predict = model.signatures["serving_default"]
encoded = [pathlib.Path(name).read_bytes() for name in sys.argv[3:]]
outputs = predict(image_bytes=tf.constant(encoded))
ours = {"htc_tf", "gin", "keras_cv", "tensorflow_addons", "pycocotools"} & {m.split(".")[0] for m in sys.modules}
assert not ours, ours
strings = {name: value.numpy().astype("S") for name, value in outputs.items() if value.dtype == tf.string}
numbers = {name: value.numpy() for name, value in outputs.items() if value.dtype != tf.string}
np.savez(sys.argv[2], **strings, **numbers)

import htc_tf.client
sys.argv = ["client", "--export", sys.argv[1], "--threshold", "0.05", "--input", *sys.argv[3:]]
htc_tf.client.main()
"""


def test_an_export_in_a_fresh_process_gives_the_detections_of_predict(call, tiny_run, images, tmp_path, capsys):
    from htc_tf import config
    from htc_tf.inference.detector import restore
    from htc_tf.inference.inputs import read_image

    export, outputs_path = tmp_path / "export", tmp_path / "outputs.npz"
    # The first stage alone: it takes half the time, and exports of several are in tests/serving.
    call(htc_tf.export, "--checkpoint", tiny_run.folder, "--output", export, "--batch_sizes", 2, *FIRST_STAGE)
    assert str(export / "1") in capsys.readouterr().out
    paths = [images / "7.jpg", images / "scene.png"]
    # The process imports none of our code before the client, at its end.
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(export), str(outputs_path), *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    detector = restore(config.load([], FIRST_STAGE[1::2], tiny_run)[0], tiny_run)
    outputs = np.load(outputs_path)
    names = [row["name"] for row in tiny_run.read_categories()]
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in printed] == list(map(str, paths))
    for row, path in enumerate(paths):
        image = read_image(path)
        with run_eagerly():
            found = detector.detect_image(image)
        count = outputs["num_detections"][row]
        assert count == len(found.scores) > 3
        np.testing.assert_allclose(outputs["boxes"][row, :count], found.boxes, atol=1e-3)
        np.testing.assert_allclose(outputs["scores"][row, :count], found.scores, atol=1e-4)
        np.testing.assert_array_equal(outputs["classes"][row, :count], found.classes)
        assert [name.decode() for name in outputs["class_names"][row, :count]] == [names[i] for i in found.classes]
        size = list(image.shape[:2])
        runs = [{"size": size, "counts": counts} for counts in outputs["masks_rle_bytes"][row, :count].tolist()]
        assert agreement(runs, found.masks) > 0.999
        wanted = [score for score in found.scores if score >= 0.05]
        assert len(printed[row]["detections"]) == len(wanted) > 0
        first = printed[row]["detections"][0]
        assert first["class"] == names[found.classes[0]] and first["score"] == pytest.approx(found.scores[0], abs=1e-3)


def agreement(masks, others):
    """Returns the fraction of pixels on which two lists of COCO masks agree."""
    from pycocotools import mask as coco_mask

    return np.mean([(coco_mask.decode(a) == coco_mask.decode(b)).mean() for a, b in zip(masks, others, strict=True)])


MISSING_RUN = {
    htc_tf.eval: ["--checkpoint", "{run}", "--records", "{records}", "--output", "{out}"],
    htc_tf.predict: ["--checkpoint", "{run}", "--input", "{images}", "--output", "{out}"],
    htc_tf.explain: ["--checkpoint", "{run}", "--input", "{images}/7.jpg", "--output", "{out}.png"],
    htc_tf.export: ["--checkpoint", "{run}", "--output", "{out}"],
    htc_tf.serve_demo: ["--model", "{run}", "--port", "0"],
    htc_tf.train: [
        *("--gin_file", ROOT / "tests" / "tiny.gin", "--gin_param", "NUM_STAGES=1", "--init_from", "{run}"),
        *("--train_records", "{records}", "--workdir", "{out}"),
    ],
}


@pytest.mark.parametrize("module", MISSING_RUN, ids=lambda module: module.__name__)
def test_every_command_reports_a_missing_run_alike(refused, module, tiny_data, tmp_path, images):
    places = {"run": tmp_path / "nowhere", "records": tiny_data.records, "out": tmp_path / "out", "images": images}
    line = refused(module, *(str(flag).format(**places) for flag in MISSING_RUN[module]))
    assert line == f"error: {tmp_path / 'nowhere'} is missing: name the folder of a training run, its --workdir"
    assert not list(tmp_path.glob("out*/*")) and not (tmp_path / "out.png").exists()


def test_an_unwritable_output_is_refused_before_the_evaluation(refused, tmp_path):
    (tmp_path / "file").write_text("")
    flags = ["--predictions", "nowhere.json", "--annotations", "nowhere.json", "--output"]
    assert f"--output {tmp_path} is a folder" in refused(htc_tf.eval, *flags, tmp_path)
    assert "file cannot be made" in refused(htc_tf.eval, *flags, tmp_path / "x.json", "--report", tmp_path / "file")


def test_train_starts_from_its_flags(call, refused, monkeypatch, tiny_data, tmp_path):
    seen = []
    monkeypatch.setattr("htc_tf.training.trainer.train", lambda *args, **kwargs: seen.append((args, kwargs)))
    flags = ["--gin_file", ROOT / "tests" / "tiny.gin", "--gin_param", "STEPS=3", "--gin_param", "STEPS=5"]
    flags += ["--train_records", tiny_data.records, "--workdir", tmp_path, "--seed", 3, "--devices", "CPU:0", "CPU:1"]
    call(htc_tf.train, *flags)
    ((experiment, resolved, train_records, val_records, run), options) = seen[0]
    assert experiment.steps == 5 and "STEPS = 5" in resolved
    assert (train_records, val_records, run.folder) == (str(tiny_data.records), None, tmp_path)
    assert (options["seed"], options["devices"]) == (3, ["CPU:0", "CPU:1"])
    monkeypatch.undo()
    assert "--gin_file" in refused(htc_tf.train, "--train_records", "x", "--workdir", tmp_path)
    assert "nowhere" in refused(htc_tf.train, *flags[:2], "--train_records", "nowhere", "--workdir", tmp_path)
