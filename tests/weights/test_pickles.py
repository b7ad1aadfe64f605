"""Hostile checkpoint files: each is refused quickly, in little memory, with one line; unknown objects do nothing."""

import functools
import os
import pickle
import sys
from collections import OrderedDict

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.weights.files import collect, read
from htc_tf.weights.pickled_arrays import Inert
from htc_tf.weights.sources import read_weights
from htc_tf.weights.swin_names import SWIN_MARK
from tests import forks
from tests.weights import reading
from tests.weights.hostile_files import ARCHIVES, PICKLES, storage

# Reads the files in a separate process, with limits of memory and processor time beyond those of importing TensorFlow.
MEMORY, SECONDS = 600_000_000, 60
READER = """
import os, resource, sys
from htc_tf.weights.files import collect, read
from htc_tf.weights.wrappers import unwrap
from htc_tf.errors import UserError

addresses = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (addresses + int(sys.argv[1]),) * 2)
used = resource.getrusage(resource.RUSAGE_SELF)
resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + int(sys.argv[2]),) * 2)
for path in sys.argv[3:]:
    try:
        line = f"read {len(collect(unwrap(read(path), path)[0], path))}"
    except UserError as error:
        # A hostile file must be refused before the memory is allocated.
        line = "FAILED: memory" if isinstance(error.__cause__, MemoryError) else str(error)
    print(os.path.basename(path), line, sep="\\t", flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Returns {name: outcome of reading the file, in one line}."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs the memory limits of Linux")
    folder = tmp_path_factory.mktemp("bombs")
    for name, content in PICKLES.items():
        (folder / name).write_bytes(content)
    for make in ARCHIVES:
        make(folder / make.__name__.replace("_", " "))
    paths = sorted(map(str, folder.iterdir()))
    done = forks.run("-c", READER, MEMORY, SECONDS, *paths)
    assert not done.returncode, (done.stdout[-300:], done.stderr[-2000:])
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", [*PICKLES, *(make.__name__.replace("_", " ") for make in ARCHIVES)])
def test_no_file_exhausts_the_machine(answers, name):
    line = answers[name]
    assert "FAILED" not in line and len(line) < 700
    assert line.startswith("read ") or name in line
    assert line.startswith("read ") == (name in {"tiny views", "safetensors"})


def test_a_shared_array_is_read(write, tmp_path):
    """Two names share one array of float16, which becomes float32."""
    flat = np.arange(300_000, dtype="f2")
    named = OrderedDict((f"a{i}", write.View(flat, 0, (300_000,), (1,))) for i in range(2))
    write.pytorch_zip(tmp_path / "file", named)
    arrays = collect(read(tmp_path / "file"), tmp_path / "file")
    for array in arrays.values():
        np.testing.assert_array_equal(array, flat.astype("f4"))


@pytest.mark.parametrize(
    ("content", "allowed"),
    [
        ({2**60 - 1: 1, 1 - 2**60: 2, "x" * 10_000: 3, b"y": 4, 0.5: 5, None: 6}, True),
        ({2**60: 1}, False),
        ({-(2**61) + 1: 1}, False),
        (OrderedDict([(2**61 - 1, 1)]), False),
        ({"x" * 10_001: 1}, False),
        ({b"x" * 10_001: 1}, False),
    ],
)
def test_keys_are_hashed_and_compared_quickly(tmp_path, content, allowed):
    """Python hashes integers modulo 2^61 - 1, and compares equal texts letter by letter."""
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(content, 4))
    if allowed:
        assert read(path) == content
        return
    with pytest.raises(UserError, match=r"a key of more than (60 bits|10000 letters)"):
        read(path)


@pytest.mark.parametrize("index", [-1, 1_000_001, 2**61 - 1])
def test_an_index_of_the_memo_is_a_count(tmp_path, index):
    (tmp_path / "file").write_bytes(b"Np%d\n." % index)
    with pytest.raises(UserError, match="the memo"):
        read(tmp_path / "file")


def test_a_long_name_of_a_storage_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"\x80\x02" + storage(1, "0" * 10_001) + b".")
    with pytest.raises(UserError, match="a key of more than 10000 letters"):
        read(tmp_path / "file")


def test_a_device_is_refused():
    with pytest.raises(UserError, match="/dev/zero cannot be read: it is a device or a pipe"):
        read("/dev/zero")


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 0), (1, 1, 1)])
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mmdet", "bbox_head.0.fc_cls.weight"),
        ("mmdet", "bbox_head.0.fc_reg.weight"),
        ("mmdet", "mask_head.0.conv_logits.weight"),
        ("swin", "layers.0.downsample.reduction.weight"),
        ("swin", "patch_embed.proj.weight"),
        ("torchvision", "fc.weight"),
    ],
)
def test_arrays_of_any_shape_are_read_or_refused(write, tmp_path, source, name, shape):
    write.pytorch_zip(tmp_path / "file", {SWIN_MARK: np.zeros(1, "f4"), name: np.zeros(shape, "f4")})
    try:
        arrays = read_weights(tmp_path / "file", source).arrays
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
    except UserError as error:
        assert str(tmp_path) in str(error)


def test_unprintable_names_are_refused(write, tmp_path):
    for name in ("a\nb", "\x1b[31m", "w" * 10_000, 3):
        write.paddle_arrays(tmp_path / "file", {name: np.zeros(1, "f4")})
        with pytest.raises(UserError, match="no named weights"):
            read_weights(tmp_path / "file", "mmdet")


def test_random_changes_are_refused_or_read(write, tmp_path):
    """A file with a few changed bytes gives arrays or one line."""
    random = np.random.default_rng(0)
    path = tmp_path / "file"
    for kind in ("pytorch_zip", "pytorch_legacy", "paddle_arrays"):
        getattr(write, kind)(path, {"a": np.arange(30, dtype="f4"), "b": np.arange(4, dtype="f8")})
        original = path.read_bytes()
        for _ in range(150):
            data = bytearray(original)
            for place in random.integers(0, len(data), 2):
                data[place] = random.integers(256)
            path.write_bytes(data)
            try:
                content = read(path)
                if isinstance(content, dict):
                    collect(content, path)
            except UserError as error:
                assert len(str(error).splitlines()) == 1 and str(path) in str(error)


refused = functools.partial(reading.refused, reader=functools.partial(read_weights, source="mmdet"))


class Unknown:
    """An object that a checkpoint holds beside its weights."""

    def __init__(self, **state):
        self.__dict__.update(state)


@pytest.mark.parametrize("kind", ["pytorch_zip", "pytorch_legacy", "paddle_arrays"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_beside_the_weights_are_passed_over(write, tmp_path, monkeypatch, kind, protocol):
    """A global that is no part of an array is neither imported nor called, nor is anything made of it."""
    (tmp_path / "side_effect.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\ndef run(*args): open(*args)\n")
    monkeypatch.syspath_prepend(tmp_path)
    path, weights = tmp_path / "file", {"a": np.arange(3, dtype="f4")}
    program = b"\x80\x02}X\x04\0\0\0metacside_effect\nrun\nX\x01\0\0\0w\x85Rs."
    path.write_bytes(program)
    refused(path, "meta is not an array but an object of side_effect.run")
    others = [Unknown(x=1, y=[Unknown()]), {Unknown: 2}, Unknown, os.path.join, np.random.default_rng(0)]
    content = {"state_dict": weights, "others": others}
    if kind != "paddle_arrays":
        getattr(write, kind)(path, content)
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_array_equal(read_weights(path, "mmdet").arrays["a"], weights["a"])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"ca.b\nC\n)R.",
        b"ca.b\nC\n)\x81.",
        b"\x80\x04\x8c\x03a.b\x8c\x01C\x93)}\x92.",
        b"(ca.b\nC\nI1\no.",
        b"(I1\nia.b\nC\n.",
        b"ca.b\nC\n)\x81}(X\x01\0\0\0xI1\nub.",
        b"ca.b\nC\n)\x81(I1\nI2\ne.",
        b"ca.b\nC\n)\x81(I1\nI2\nu.",
        b"ca.b\nC\n)\x81I1\na.",
        b"\x80\x04\x8c\x03a.b\x8c\x01C\x93)\x81(I1\n\x90.",
        b"ctorch._utils\n_rebuild_parameter\nca.b\nC\n\x88N\x87R.",
    ],
)
def test_whatever_is_made_of_an_unknown_global_is_inert(tmp_path, program):
    path = tmp_path / "file"
    path.write_bytes(program)
    assert read(path) == Inert("a.b.C")
    refused(path, "holds an object of a.b.C instead of named weights")


def test_weights_that_are_objects_are_refused(write, tmp_path):
    """Neither the state dict nor an array in it may be an object."""
    path, name = tmp_path / "file", f"{Unknown.__module__}.Unknown"
    write.pytorch_zip(path, {"state_dict": {"a": np.ones(2, "f4"), "b": Unknown()}})
    refused(path, f"b is not an array but an object of {name}")
    write.pytorch_zip(path, {"state_dict": Unknown(), "epoch": 12})
    refused(path, f"state_dict is not an array but an object of {name}")
    write.pytorch_zip(path, {"model": Unknown(), "epoch": 12})
    refused(path, f"holds an object of {name} instead of named weights")
