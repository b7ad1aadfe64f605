"""A dumped program: its parameters in their order, drawn anew by NumPy alone, and no dynamic shape."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from htc_tf.errors import UserError
from htc_tf.ops.grouped_convolution import grouped_conv2d
from htc_tf.structures import Proposals
from tests.benchmarks import hlo
from tests.benchmarks.hlo import Program, describe, dump
from tests.benchmarks.hlo_parameters import draw
from tests.slow import slow

ROOT = Path(__file__).resolve().parents[2]


def test_parameters_are_drawn_alike():
    generator = np.random.default_rng(0)
    weights = generator.normal(3, 0.5, (100, 50)).astype(np.float32)
    drawn = draw(7, json.loads(json.dumps(describe(weights))))
    assert drawn.shape == weights.shape and drawn.dtype == np.float32
    assert drawn.mean() == pytest.approx(3, abs=0.05) and drawn.std() == pytest.approx(0.5, rel=0.1)
    assert (drawn == draw(7, describe(weights))).all() and (drawn != draw(8, describe(weights))).any()
    pixels = draw(0, describe(generator.integers(10, 21, (70, 80)).astype(np.uint8)))
    assert pixels.dtype == np.uint8 and (pixels.min(), pixels.max()) == (10, 20)
    for array in (np.float32([[1.5, -2]]), np.array([True, False]), np.zeros([300, 300], np.int32), np.int64(5)):
        same = draw(0, json.loads(json.dumps(describe(np.asarray(array)))))
        assert same.dtype == array.dtype and same.shape == array.shape and (same == array).all()


def test_a_program_and_its_parameters(tmp_path):
    scale, offset = tf.Variable([[2.0, 3.0]], name="scale"), tf.Variable(tf.zeros([5000]), name="offset")

    def function(proposals, factor):
        return proposals.boxes * factor * scale[0, 1] + offset[0], proposals.valid

    boxes = Proposals(tf.ones([1, 3, 4]), tf.ones([1, 3]), tf.ones([1, 3], tf.bool))
    program = Program(function, {"proposals": boxes, "factor": tf.constant(2.0)}, {"height": 1}, 24.0)
    path = tmp_path / "new" / "toy.hlo"
    assert "6 parameters" in dump(program, path)
    content = json.loads((tmp_path / "new" / "toy.hlo.json").read_text())
    names = [parameter["name"] for parameter in content["parameters"]]
    assert names == ["proposals.boxes", "proposals.scores", "proposals.valid", "factor", "scale:0", "offset:0"]
    assert content["flop"] == 24 and content["parameters"][4]["values"] == [[2.0, 3.0]]
    module = hlo_pb2.HloModuleProto.FromString(path.read_bytes())
    assert [len(shape.dimensions) for shape in module.host_program_shape.parameters] == [3, 2, 2, 0, 2, 1]
    # Where there is NumPy alone.
    command = [sys.executable, "-m", "tests.benchmarks.hlo_parameters", f"{path}.json", tmp_path / "in.npz"]
    subprocess.run(command, check=True, cwd=ROOT)
    drawn = np.load(tmp_path / "in.npz")
    assert sorted(drawn) == [f"p{i}" for i in range(6)] and (drawn["p4"] == [[2, 3]]).all()


def test_a_program_has_the_form_for_a_gpu(tmp_path):
    """A grouped convolution is one operation there, and blocks on a CPU."""

    def function(x):
        return grouped_conv2d(x, tf.ones([3, 3, 4, 64]), 1, 16, "SAME")

    dump(Program(function, {"x": tf.ones([1, 8, 8, 64])}, {}, 1.0), tmp_path / "grouped.hlo")
    module = hlo_pb2.HloModuleProto.FromString((tmp_path / "grouped.hlo").read_bytes())
    counts = [i.feature_group_count for i in hlo.instructions(module) if i.opcode == "convolution"]
    assert counts == [16]


def test_a_dynamic_shape_is_refused(tmp_path):
    program = Program(lambda x: tf.where(x > 0), {"x": tf.constant([1.0, -1.0])}, {}, 0.0)
    with pytest.raises(UserError, match="XLA cannot infer"):
        dump(program, tmp_path / "toy.hlo")


@pytest.mark.parametrize("mode, last, masks", slow(("train", "seed", False), ("inference", "sizes", True)))
def test_the_network_is_one_static_program(monkeypatch, tmp_path, capsys, mode, last, masks):
    path = tmp_path / "tiny.hlo"
    flags = ["--gin_file=tests/tiny.gin", "--height=64", "--width=64", "--batch=1", "--objects=2", f"--output={path}"]
    less = [
        f"--gin_param={name}" for name in ("NUM_STAGES=1", "SEMANTIC=False", f"MASKS={masks}", "ResNet.frozen_stages=0")
    ]
    monkeypatch.setattr(sys, "argv", ["hlo", f"--mode={mode}", *flags, *less])
    hlo.main()
    assert "no dynamic shape" in capsys.readouterr().out
    content = json.loads((tmp_path / "tiny.hlo.json").read_text())
    first = content["parameters"][0]
    assert (first["name"], first["shape"], first["dtype"]) == ("images", [1, 64, 64, 3], "uint8")
    # The weights come after all arguments.
    names = [parameter["name"] for parameter in content["parameters"]]
    assert {name.split(":")[-1] for name in names[names.index(last) + 1 :]} == {"0"}
    assert content["custom_calls"] == [] and content["flop"] > 1e6
    assert hlo_pb2.HloModuleProto.FromString(path.read_bytes()).computations


def test_other_modes_have_no_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hlo", "--mode=masks", "--output=masks.hlo"])
    with pytest.raises(SystemExit) as ended:
        hlo.main()
    assert ended.value.code == 2 and "--mode masks is unknown; choose from inference, train" in capsys.readouterr().err
