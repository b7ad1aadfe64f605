"""The best weights of a training: kept across restarts, replaced only by better ones."""

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.run import Run
from htc_tf.training.best import Best


class Model(tf.Module):
    def __init__(self, value=0.0):
        super().__init__()
        self.weight = tf.Variable([float(value)])


def kept(run):
    model = Model()
    path = Checkpoints(run.best, model).restore_latest()
    return path.rpartition("-")[2], float(model.weight[0]), len(list(run.best.checkpoints.glob("*.index")))


def test_only_better_weights_replace_the_best(tmp_path):
    run = Run(tmp_path)
    offer = Best(run, "segm/AP", "", []).offer
    assert offer(8, {"segm/AP": 0.5}, Model(1)) and kept(run) == ("8", 1.0, 1)
    again = Best(run, "segm/AP", "", []).offer
    assert not again(12, {"segm/AP": 0.5}, Model(2)) and kept(run) == ("8", 1.0, 1)
    # A training that resumed from an earlier checkpoint comes to other numbers, at other steps.
    assert again(6, {"segm/AP": 0.6}, Model(3)) and kept(run) == ("6", 3.0, 1)


def test_damaged_best_weights_are_replaced(tmp_path, capsys):
    run = Run(tmp_path)
    offer = Best(run, "segm/AP", "", []).offer
    offer(8, {"segm/AP": 0.5}, Model(1))
    (run.best.checkpoints / "ckpt-8.index").write_bytes(b"")
    assert offer(12, {"segm/AP": 0.4}, Model(2)) and kept(run) == ("12", 2.0, 1)
    line = capsys.readouterr().err
    assert line.startswith("note: ") and "ckpt-8.index" in line and line.endswith("step 12 replaces it\n")
