"""The eval command: batch sizes, saved predictions, resuming after a kill, perfect results, the report."""

import json
import shutil
import sys

import pytest
import tensorflow as tf

import htc_tf.eval
from htc_tf.inference.detector import Detector


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Returns evaluate("--records", ...), which returns the metrics that the command writes to a file."""

    def run(*flags):
        output = tmp_path / "metrics.json"
        monkeypatch.setattr(sys, "argv", ["eval", "--output", str(output), *map(str, flags)])
        htc_tf.eval.main()
        return json.loads(output.read_text())

    return run


def test_any_batch_size_and_saved_predictions_give_the_same_metrics(
    evaluate, tiny_run, tiny_data, tmp_path, eagerly, capsys
):
    flags = ["--checkpoint", tiny_run.folder, "--records", tiny_data.records]
    saved = tmp_path / "metrics.predictions.json"
    # With six images, the last batch of four has two padding rows.
    single = evaluate(
        *flags, "--gin_param", "eval/Input.batch_size=1", "--report", tmp_path / "report", "--devices", "CPU:0"
    )
    assert f"--predictions {saved}" in capsys.readouterr().err
    assert single.pop("errors") and single.pop("confusion") and (tmp_path / "report" / "report.md").is_file()
    kept = tmp_path / "kept.json"
    saved.rename(kept)
    several = evaluate(*flags, "--gin_param", "eval/Input.batch_size=4")
    assert several == single and single["images"] == 6
    ones, fours = (json.loads(path.read_text()) for path in (kept, saved))
    assert [(r["image_id"], r["category_id"]) for r in ones] == [(r["image_id"], r["category_id"]) for r in fours]
    assert [r["score"] for r in ones] == pytest.approx([r["score"] for r in fours], rel=1e-5) and len(ones) > 20
    saved.unlink()
    assert evaluate("--predictions", kept, "--records", tiny_data.records) == single
    assert not saved.exists()  # nothing was detected


def test_a_killed_evaluation_resumes(evaluate, tiny_run, tiny_data, tmp_path, eagerly, monkeypatch, capsys):
    flags = ["--checkpoint", tiny_run.folder, "--records", tiny_data.records, "--gin_param", "eval/Input.batch_size=2"]
    saved, partial = tmp_path / "metrics.predictions.json", tmp_path / "metrics.partial.jsonl"
    whole, predictions = evaluate(*flags), saved.read_bytes()
    assert not partial.exists()
    saved.unlink()

    detect, steps = Detector.detect_each, []

    def detect_and_die(self, batches):
        steps.append(batches)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return detect(self, batches)

    monkeypatch.setattr(Detector, "detect_each", detect_and_die)
    monkeypatch.setattr("htc_tf.inference.results.THREADS", 1)
    with pytest.raises(SystemExit):
        evaluate(*flags)
    # One batch was still in the threads. A kill may leave half a line of it.
    assert len(partial.read_text().splitlines()) == 2 and not saved.exists()
    with partial.open("a") as file:
        file.write('[[3, 4], [{"image')
    steps.clear()
    assert evaluate(*flags) == whole and saved.read_bytes() == predictions
    assert len(steps) == 2 and not partial.exists()
    assert f"{partial}: 2 of 6 images are detected already" in capsys.readouterr().err


def test_a_detection_without_memory_ends_in_one_line(evaluate, tiny_run, tiny_data, monkeypatch, capsys):
    def refuse(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(Detector, "detect_each", refuse)
    with pytest.raises(SystemExit) as ended:
        evaluate("--checkpoint", tiny_run.folder, "--records", tiny_data.records)
    assert ended.value.code == 2
    assert "error: out of memory (OOM when allocating): lower eval/Input.batch_size = 2" in capsys.readouterr().err


def test_ground_truth_as_results_is_perfect(evaluate, tiny_data, tmp_path):
    annotations = json.loads(tiny_data.annotations.read_text())["annotations"]
    assert any(a["iscrowd"] for a in annotations)
    from htc_tf.data.datasets import coco_from_records, load_info

    ground_truth = coco_from_records(load_info(tiny_data.records))
    results = [
        {name: a[name] for name in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1.0}
        for a in ground_truth["annotations"]
        if not a["iscrowd"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    for source in (["--records", tiny_data.records], ["--annotations", tiny_data.annotations]):
        metrics = evaluate("--predictions", tmp_path / "results.json", *source)
        for kind in ("bbox", "segm"):
            assert [metrics[f"{kind}/{name}"] for name in ("AP", "AP50", "AP75", "AR100")] == pytest.approx([1] * 4)
    # Boxes alone are evaluated as boxes.
    for result in results:
        del result["segmentation"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    metrics = evaluate("--predictions", tmp_path / "results.json", "--records", tiny_data.records)
    assert metrics["bbox/AP"] == pytest.approx(1) and "segm/AP" not in metrics


def test_other_classes_are_refused(evaluate, tiny_run, tiny_data, tmp_path, capsys, monkeypatch):
    """Classes of other names, or in another order, would silently give an AP near 0."""
    flags = ["--checkpoint", tiny_run.folder, "--records", tiny_data.records]
    annotations = json.loads(tiny_data.annotations.read_text())
    first, second = annotations["categories"][:2]
    swapped = [{**first, "name": second["name"]}, {**second, "name": first["name"]}, *annotations["categories"][2:]]

    def refused(*flags):
        with pytest.raises(SystemExit) as ended:
            evaluate(*flags)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert ended.value.code == 2
        return line

    # Records with the first two classes swapped.
    records = tmp_path / "records"
    shutil.copytree(tiny_data.records, records)
    info = json.loads((records / "dataset_info.json").read_text())
    info["categories"][:2] = [
        {**info["categories"][0], "name": second["name"]},
        {**info["categories"][1], "name": first["name"]},
    ]
    (records / "dataset_info.json").write_text(json.dumps(info))
    line = refused(*flags[:3], records)
    assert (
        "class 1 is" in line and repr(first["name"]) in line and repr(second["name"]) in line and str(records) in line
    )
    # Annotations likewise, with a run and with predictions.
    (tmp_path / "other.json").write_text(json.dumps({**annotations, "categories": swapped}))
    (tmp_path / "results.json").write_text("[]")
    for source in (flags, ["--predictions", tmp_path / "results.json", "--records", tiny_data.records]):
        line = refused(*source, "--annotations", tmp_path / "other.json")
        assert f"category {first['id']} is {second['name']!r}" in line and str(tiny_data.records) in line
    # The order in the file does not matter.
    (tmp_path / "other.json").write_text(json.dumps({**annotations, "categories": annotations["categories"][::-1]}))
    metrics = evaluate(*source, "--annotations", tmp_path / "other.json")
    assert list(metrics["per_class"]) == [category["name"] for category in annotations["categories"]]
    assert f"has results of 0 of {len(annotations['images'])} images" in capsys.readouterr().err


def test_predictions_of_another_split_are_refused(evaluate, tiny_data, tmp_path, capsys):
    path = tmp_path / "results.json"
    flags = ["--predictions", path, "--annotations", tiny_data.annotations]
    result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    for change, message in (
        ({"image_id": 777}, "the annotations have no image 777 (1 of 2 results)"),
        ({"category_id": 0}, "the annotations have no category 0 (1 of 2 results)"),
        ({"image_id": [1]}, "the annotations have no image [1] (1 of 2 results)"),
        ({"file_name": "holiday.jpg"}, "result 1 is of holiday, but image 1 is"),
        ({"score": float("nan")}, "result 1 (image 1): its score is nan"),
        ({"score": "high"}, "result 1 (image 1): its score is 'high', not a number"),
        ({"bbox": [1, 2, -3, 1]}, "result 1 (image 1): its box [1, 2, -3, 1], x, y, width, height, has a negative"),
    ):
        path.write_text(json.dumps([result, {**result, **change}]))
        with pytest.raises(SystemExit) as ended:
            evaluate(*flags)
        line = capsys.readouterr().err.splitlines()[-1]
        assert ended.value.code == 2 and line.startswith(f"error: {path}: ") and message in line


@pytest.mark.parametrize("name", ["metrics.json", "metrics.predictions.json"])
def test_files_that_are_read_are_not_replaced(evaluate, tmp_path, capsys, name):
    """With --checkpoint the predictions are written beside the metrics."""
    (tmp_path / name).write_text("[]")
    predictions = ["--predictions", tmp_path / name, "--annotations", "x.json"]
    annotations = ["--checkpoint", "RUN", "--records", "DIR", "--annotations", tmp_path / name]
    for flags in (annotations, predictions) if name == "metrics.json" else (annotations,):
        with pytest.raises(SystemExit) as ended:
            evaluate(*flags)
        assert ended.value.code == 2
        assert f"metrics.json would replace {flags[-2 if flags is annotations else 0]} " in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "[]"


@pytest.mark.parametrize("results", [[{}], [{"bbox": [0, 0, 1, 1]}, {}]])
def test_results_without_a_field_are_named_with_their_file(evaluate, tmp_path, capsys, results):
    (tmp_path / "found.json").write_text(json.dumps(results))
    truth = {"images": [{"id": 1, "height": 9, "width": 9}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(SystemExit):
        evaluate("--predictions", str(tmp_path / "found.json"), "--annotations", str(tmp_path / "truth.json"))
    assert f"error: {tmp_path / 'found.json'}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--checkpoint and --records are needed"),
        (["--predictions", "x.json"], "give --records or --annotations"),
        (["--predictions", "nowhere.json", "--annotations", "x.json"], "nowhere.json: cannot be read"),
        (
            ["--predictions", "x.json", "--records", "DIR", "--checkpoint", "RUN", "--gin_param", "A=1"],
            "--checkpoint, --gin_param: nothing is detected with --predictions",
        ),
        (["--checkpoint", "RUN", "--records", "DIR", "--backend", "fast"], "there is no evaluation backend 'fast'"),
    ],
)
def test_mistakes_are_named(evaluate, capsys, flags, message):
    with pytest.raises(SystemExit) as ended:
        evaluate(*flags)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_an_output_is_checked_before_tensorflow_is_imported(evaluate, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "htc_tf.evaluation.evaluator", None)
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(SystemExit) as ended:
        evaluate("--checkpoint", "RUN", "--records", "DIR")
    assert ended.value.code == 2 and "metrics.json is a folder: name a JSON file" in capsys.readouterr().err
