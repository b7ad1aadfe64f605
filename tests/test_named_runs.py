"""Public weights by name, the whole path: downloaded from a local server, converted once, and used like a run."""

import hashlib
import json
import random
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import tensorflow as tf

import htc_tf
import htc_tf.convert
import htc_tf.named_runs
from htc_tf import config
from htc_tf.caller_state import preserve_caller_state
from htc_tf.errors import UserError
from htc_tf.named_runs import open_run
from htc_tf.run import Run
from htc_tf.training.first_weights import load_backbone, load_weights
from htc_tf.weights import conversion, mmdet_arrays, model_zoo
from htc_tf.weights.public_weights import PublicWeights
from tests import checkpoint_writers
from tests.tiny import TINY

NAME = "tiny_coco"
# The demo's network has norms that mmdetection's lacks. One detection takes least time.
OVERRIDE = [f"{part}.norm = None" for part in ("FPN", "BoxHead", "MaskHead", "SemanticHead")]
OVERRIDE += ["NUM_STAGES = 2", "SEMANTIC = False", "RPN.inference_proposals = 1", "Postprocess.keep = 1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with tiny.pth, as mmdetection publishes a detector of eight classes, and its override plain.gin."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "plain.gin").write_text("\n".join(OVERRIDE))
    model, _ = htc_tf.build(TINY, str(folder / "plain.gin"))
    meta = {"CLASSES": tuple("abcdefgh"), "epoch": 12}
    checkpoint_writers.pytorch_zip(folder / "tiny.pth", {"state_dict": mmdet_arrays(model), "meta": meta})
    return folder


@pytest.fixture
def asked(files, tmp_path, monkeypatch):
    """The paths that a local server was asked for; the table's only detector is there, the cache is empty."""
    paths = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *arguments):
            paths.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: Handler(*given, directory=files)) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        digest = hashlib.sha256((files / "tiny.pth").read_bytes()).hexdigest()[:8]
        gin_files, address = (TINY, str(files / "plain.gin")), f"http://127.0.0.1:{server.server_port}/tiny.pth"
        weights = PublicWeights(NAME, "mmdet", "tiny.pth", digest, gin_files, (address,))
        monkeypatch.setitem(model_zoo.WEIGHTS, NAME, weights)
        monkeypatch.setenv("HTC_TF_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HTC_TF_OFFLINE", "0")
        yield paths
        server.shutdown()


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_name_is_loaded_like_a_run(asked, files, tmp_path, eagerly, capsys):
    model = htc_tf.load(NAME)
    digest = hashlib.sha256((files / "tiny.pth").read_bytes()).hexdigest()[:8]
    assert asked == ["/tiny.pth"] and listed(tmp_path / "cache/runs") == [f"{NAME}-{digest}-{htc_tf.__version__}"]
    assert f"note: {NAME} is converted to {open_run(NAME).folder}" in capsys.readouterr().err
    assert [row["name"] for row in model.categories] == list("abcdefgh")
    wanted, _ = htc_tf.build(TINY, str(files / "plain.gin"))
    for name, array in mmdet_arrays(wanted).items():
        np.testing.assert_array_equal(mmdet_arrays(model.detector.model)[name], array, err_msg=name)
    assert len(model(np.zeros([64, 64, 3], np.uint8)).scores) <= 1

    # The second time the network is left alone; the converted run needs no checkpoint file.
    (tmp_path / "cache/weights/tiny.pth").unlink()
    built, _ = htc_tf.build(TINY, str(files / "plain.gin"), weights=NAME)
    np.testing.assert_array_equal(built.variables[0], model.detector.model.variables[0])
    assert asked == ["/tiny.pth"]


def test_another_version_converts_again(asked, tmp_path, monkeypatch):
    first = open_run(NAME).folder
    monkeypatch.setattr(htc_tf.named_runs, "__version__", "9")
    assert open_run(NAME).folder != first and len(listed(tmp_path / "cache/runs")) == 2 and asked == ["/tiny.pth"]


def test_another_process_may_be_first(asked, tmp_path, monkeypatch):
    """Without a published hash the folder is named by that of the file."""
    weights = model_zoo.WEIGHTS[NAME]
    monkeypatch.setitem(model_zoo.WEIGHTS, NAME, weights._replace(digest=None))
    name = f"{NAME}-{weights.digest}-{htc_tf.__version__}"

    def convert(experiment, resolved, file, run, source):
        for made in (run, Run(tmp_path / "cache/runs" / name)):
            made.create(f"# {made.folder}", [])

    monkeypatch.setattr(conversion, "convert", convert)
    run = open_run(NAME)
    assert run.read_config() == f"# {run.folder}" and listed(tmp_path / "cache/runs") == [name]


def test_a_conversion_leaves_the_callers_state_as_it_is(asked, monkeypatch):
    """The code around the first use of a name draws the same numbers as around a later one."""

    def convert(experiment, resolved, file, run, source):
        experiment.prepare_runtime(0)
        run.create(resolved, [])

    monkeypatch.setattr(conversion, "convert", convert)
    with preserve_caller_state():
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        drawn = []
        for _ in range(2):
            tf.keras.utils.set_random_seed(5)
            open_run(NAME)
            policy = tf.keras.mixed_precision.global_policy().name
            drawn.append((random.random(), np.random.rand(), float(tf.random.uniform([])), policy))
    assert drawn[0] == drawn[1] and drawn[0][-1] == "mixed_bfloat16"


def test_a_run_of_that_name_wins(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run(NAME).create("", [])
    assert open_run(NAME).folder == Path(NAME) and not asked


def test_convert_takes_the_gin_files_of_a_name(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convert", "--weights", NAME, "--output", str(tmp_path / "run")])
    htc_tf.convert.main()
    assert f"from {tmp_path / 'cache/weights/tiny.pth'}, 0 keep their initial values" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/classes.json").read_text())["categories"][7] == {"id": 8, "name": "h"}
    experiment, _ = config.load([], [], Run(tmp_path / "run"))
    assert experiment.num_classes == 8
    # Nothing is downloaded for a run that cannot be written.
    (tmp_path / "cache/weights/tiny.pth").unlink()
    with pytest.raises(SystemExit):
        htc_tf.convert.main()
    assert "already holds a run" in capsys.readouterr().err and asked == ["/tiny.pth"]


def test_a_training_starts_from_a_name(asked, files, monkeypatch):
    """What --init_from and --backbone_weights do with one."""
    wanted = mmdet_arrays(htc_tf.build(TINY, str(files / "plain.gin"))[0])
    prefix = "backbone."
    backbone = {name.removeprefix(prefix): array for name, array in wanted.items() if name.startswith(prefix)}
    checkpoint_writers.pytorch_legacy(files / "backbone.pth", backbone)
    address = model_zoo.WEIGHTS[NAME].addresses[0].replace("tiny.pth", "backbone.pth")
    weights = PublicWeights("tiny", "torchvision", "backbone.pth", None, (), (address,))
    monkeypatch.setitem(model_zoo.WEIGHTS, "tiny", weights)

    model, _ = htc_tf.build(TINY, str(files / "plain.gin"), seed=1)
    load_backbone("tiny", model)
    found = mmdet_arrays(model)
    equal = {name for name, array in wanted.items() if np.array_equal(found[name], array)}
    assert equal >= {prefix + name for name in backbone} and "roi_head.bbox_head.0.fc_cls.weight" not in equal
    load_weights(NAME, model, list("abcdefgh"))
    for name, array in mmdet_arrays(model).items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    assert asked == ["/backbone.pth", "/tiny.pth"]


def test_a_cache_that_cannot_be_written(asked, tmp_path):
    open_run(NAME)
    weights = model_zoo.WEIGHTS[NAME]
    folder = tmp_path / "cache/runs"
    folder.rename(tmp_path / "moved")
    folder.write_text("")
    with pytest.raises(UserError, match=r"runs cannot be written \(.+\): free space .* HTC_TF_CACHE"):
        htc_tf.named_runs.converted(weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "resnet50 is a backbone, not a detector: give it to htc_tf.train as --backbone_weights"),
        ("htc_r50_1x_coco", "htc_r50_1x_coco is neither a run nor public weights; the nearest are .*htc_r50_fpn_1x"),
        ("nowhere", "nowhere is missing: name the folder of a training run, its --workdir"),
        (
            "htc_r101_fpn_20e_coco",
            "htc_r101_fpn_20e_coco_20200317-9b41b48f.pth is not in the cache",
        ),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        htc_tf.load(name)
    with pytest.raises(UserError, match=message):
        htc_tf.build(TINY, weights=name)
