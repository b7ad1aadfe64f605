"""Monitoring: metrics.jsonl, the event files, and TensorBoard's responses over HTTP."""

import contextlib
import json
import math
import signal
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.run import Run
from htc_tf.training.monitor import Monitor, macros
from tests import forks

CONFIG = (
    "import htc_tf\n\n# Macros:\nBATCH_SIZE = 2\nPRECISION = 'float32'\nXLA = False\nODD = @HTC()\nSGD.momentum = 0.9\n"
)


def test_the_macros_of_a_configuration():
    assert macros(CONFIG) == {"BATCH_SIZE": 2, "PRECISION": "float32", "XLA": False}


def test_lines_of_steps_to_be_repeated_are_moved(tmp_path):
    run = Run(tmp_path)
    lines = [{"step": 1, "total": 2.0}, {"step": 2, "bbox/AP": 0.1}, {"step": 3, "total": 1.0}]
    damaged = [
        b'{"step": 4, "tot}',
        b"\0\0\0}",
        b'{"total": 1.0}',
        b"3",
        b'{"step": 1, "a": "\xff"}',
        b'{"step": ' + b"[" * 9999,
        b'{"step": 2, "bbox/AP": null}',
        b'{"step": 2, "bbox/AP": "0.9"}',
        b'{"step": true, "bbox/AP": 0.9}',
        b'{"step": 4, "tot',
    ]
    run.metrics.write_bytes("\n".join(map(json.dumps, lines)).encode() + b"\n" + b"\n".join(damaged))
    monitor = Monitor(run, CONFIG, first_step=2, steps=9, batch_size=2, epoch_steps=6)
    assert monitor.evaluations == {2: lines[1]}
    # Nothing is lost if a checkpoint was moved away by mistake.
    assert run.metrics_cut.read_bytes().splitlines() == [json.dumps(lines[2]).encode(), *damaged]
    next_one = monitor.wait(iter([7]))
    monitor.log(3, {"total": 0.5, "learning_rate": 0.1})
    monitor.log(4, {"total": 0.4, "learning_rate": 0.1})
    monitor.close()
    kept = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert next_one == 7 and [record["step"] for record in kept] == [1, 2, 3, 4] and kept[2]["total"] == 0.5
    assert [record.get("epoch") for record in kept] == [None, None, 0.5, 0.6667]
    assert kept[2]["images_per_second"] > 0 and 0 <= kept[2]["input_wait"] < 1
    assert "input_wait" not in kept[3]  # no call of `wait`: the waiting time of a compiled loop is unknown


def test_a_line_per_evaluation(tmp_path, capsys):
    monitor = Monitor(Run(tmp_path), CONFIG, first_step=0, steps=9, batch_size=2, epoch_steps=4)
    metrics = {"bbox/AP": 0.25, "segm/AP": 0.1239, "bbox/AP50": 0.5, "per_class": {}, "val_loss/total": 2.5}
    monitor.log_evaluation(4, {**metrics, "evaluation_seconds": 7.4}, {}, tmp_path)
    monitor.log_evaluation(9, {"bbox/AP": -1.0, "val_loss/total": math.nan, "evaluation_seconds": 0.2}, {})
    monitor.close()
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1 (step 4): box AP 0.250, mask AP 0.124, validation loss 2.500, in 7 s; the best so far, "
        f"saved in {tmp_path}",
        "epoch 2.25 (step 9): box AP -1.000, validation loss nan, in 0 s",
    ]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    again = Monitor(Run(tmp_path), CONFIG, first_step=9, steps=9, batch_size=2, epoch_steps=4)
    again.close()
    assert again.evaluations.keys() == monitor.evaluations.keys() == {4, 9}
    assert again.evaluations[4].items() >= monitor.evaluations[4].items() > {"val_loss/total": 2.5}.items()


def test_the_bar_counts_epochs(tmp_path, capsys):
    monitor = Monitor(Run(tmp_path), CONFIG, first_step=4, steps=10, batch_size=2, epoch_steps=4)
    shown = []
    for steps in (1, 3, 1):
        monitor.advance(steps)
        shown.append(monitor.bar.desc)
    monitor.close()
    assert shown == ["train, epoch 2/3", "train, epoch 2/3", "train, epoch 3/3"] and monitor.bar.n == 9


def test_the_bar_names_what_comes_before_the_first_step(tmp_path, capsys):
    monitor = Monitor(Run(tmp_path), CONFIG, first_step=0, steps=10, batch_size=2, epoch_steps=4)
    monitor.describe("tracing the training step")
    assert "train, tracing the training step:   0%" in capsys.readouterr().err
    monitor.advance(1)
    monitor.close()
    assert "train, epoch 1/3:  10%" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ask(tiny_run):
    """ask(path, **query) returns the response of a TensorBoard of the tiny run, which gets a graph: it was eager."""
    graph = tf.function(lambda x: 2 * x, autograph=False).get_concrete_function(tf.constant(1.0)).graph
    with contextlib.closing(tf.summary.create_file_writer(str(tiny_run.folder))) as writer:
        Monitor.draw_graph(SimpleNamespace(writer=writer, step=0), graph)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    flags = ["--logdir", tiny_run.folder, "--host", "127.0.0.1", "--port", port]
    process = forks.start("-m", "tensorboard.main", *flags)

    def get(path, post=None, **query):
        url = f"http://127.0.0.1:{port}/{path}?{urllib.parse.urlencode(query)}"
        body = None if post is None else json.dumps(post).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if "json" in answer.headers["Content-Type"] else content

    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                if get("data/runs"):
                    break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, "TensorBoard ended"
            time.sleep(0.5)
        yield get
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_tensorboard_shows_the_numbers(ask, tiny_run):
    (tags,) = ask("data/plugin/scalars/tags").values()
    losses = {"total", "rpn_class", "rpn_box", "stage2_class", "stage2_box", "stage2_mask", "semantic"}
    wanted = {f"loss/{name}" for name in losses} | {"learning_rate", "gradient_norm", "images_per_second", "input_wait"}
    wanted |= {"sampling/proposal_recall", "sampling/stage2_foreground", "sampling/stage2_iou", "bbox/AP", "segm/AP"}
    wanted |= {f"val_{name}" for name in wanted if name.startswith("loss/")} | {"epoch", "evaluation_seconds"}
    assert wanted <= set(tags)
    points = ask("data/plugin/scalars/scalars", run=".", tag="loss/total")
    lines = [json.loads(line) for line in tiny_run.metrics.read_text().splitlines()]
    expected = {record["step"]: record["total"] for record in lines if "total" in record}
    assert {step: value for _, step, value in points} == pytest.approx(expected)
    assert [point[1] for point in ask("data/plugin/scalars/scalars", run=".", tag="segm/AP")] == [4]


def test_tensorboard_shows_the_images(ask):
    (tags,) = ask("data/plugin/images/tags").values()
    assert sum(tag.startswith("ground truth and prediction/") for tag in tags) == 6
    for tag, columns in (("ground truth and prediction/0", 2), ("masks by stage/0", 3)):
        (entry,) = ask("data/plugin/images/images", run=".", tag=tag, sample=0)
        picture = tf.io.decode_png(ask(f"data/plugin/images/individualImage?{entry['query']}&")).numpy()
        assert picture.shape[2] == 3 and picture.shape[1] > 1.2 * (columns / 2) * picture.shape[0]
        assert np.ptp(picture) > 100


def test_tensorboard_shows_configuration_graph_and_table(ask):
    (tags,) = ask("data/plugin/text/tags").values()
    assert {"gin/config", "gin/operative_config"} <= set(tags)
    (text,) = ask("data/plugin/text/text", run=".", tag="gin/operative_config")
    assert "RoISampler.limit" in text["text"]
    assert "." in ask("data/plugin/graphs/info")
    graph = ask("data/plugin/graphs/graph", run=".", conceptual="false")
    assert b"node" in graph and b"Mul" in graph
    table = ask("experiment/defaultExperimentId/data/plugin/hparams/session_groups", post=HPARAMS)
    (group,) = table["sessionGroups"]
    assert group["hparams"]["BATCH_SIZE"] == 2 and group["hparams"]["PRECISION"] == "float32"


HPARAMS = {"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"]}
HPARAMS |= {"colParams": [], "startIndex": 0, "sliceSize": 10}
