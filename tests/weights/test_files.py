"""Checkpoint files: read bit for bit as data, and refused if they are damaged or their weights are not arrays."""

import os
import pickle
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.weights import pickles
from htc_tf.weights.files import read
from htc_tf.weights.pickled_arrays import Storage
from tests.weights.reading import load, refused

FORMATS = ["pytorch_zip", "pytorch_legacy", "paddle_arrays", "paddle_tuples"]
PYTORCH, PADDLE = FORMATS[:2], FORMATS[2:]


@pytest.mark.parametrize("kind", FORMATS)
def test_arrays_come_back(write, tmp_path, kind):
    named = {
        "kernel": np.random.default_rng(0).standard_normal((3, 4, 2, 1)).astype("f4"),
        "double": np.array([0.1, 1e-300]),
        "half": np.array([[0.5, 65504]], "f2"),
        "counter": np.array(2**40, "i8"),
        "whole": np.array([[-3], [7]], "i4"),
        "none": np.zeros([0, 3], "f4"),
    }
    if kind in PYTORCH:
        named["short"] = np.array([1.0, -3.140625, 2.0**100], write.BFLOAT16)
    getattr(write, kind)(tmp_path / "file", OrderedDict(named))
    arrays = load(tmp_path / "file")
    assert arrays.keys() == named.keys()
    for name, array in arrays.items():
        assert array.dtype == (np.int64 if name in {"counter", "whole"} else np.float32)
        assert array.shape == named[name].shape and array.flags.c_contiguous and array.flags.owndata
        np.testing.assert_array_equal(array, named[name].astype(array.dtype))


@pytest.mark.parametrize("kind", PADDLE)
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_protocols_of_paddle(write, tmp_path, kind, protocol):
    array = np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3))
    getattr(write, kind)(tmp_path / "file", {"a": array, "b": array.astype(">f8")}, protocol)
    arrays = load(tmp_path / "file")
    np.testing.assert_array_equal(arrays["a"], array)
    np.testing.assert_array_equal(arrays["b"], array)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_pickles_of_numpy_1_and_2_are_read(write, tmp_path, module):
    write.paddle_arrays(tmp_path / "file", {"a": np.arange(3.0)}, 2)
    data, found = re.subn(rb"numpy\._?core\.multiarray", module, (tmp_path / "file").read_bytes())
    assert found
    (tmp_path / "file").write_bytes(data)
    np.testing.assert_array_equal(load(tmp_path / "file")["a"], [0, 1, 2])


@pytest.mark.parametrize("kind", PYTORCH)
def test_tensors_are_views(write, tmp_path, kind):
    flat = np.arange(24, dtype="f4")
    named = {
        "transposed": write.View(flat, 0, (6, 4), (1, 6)),
        "every_other": write.View(flat, 1, (4, 3), (6, 2)),
        "whole": write.View(flat, 0, (24,), (1,), parameter=True),
        "number": write.View(flat, 23, (), ()),
        "same": write.View(flat, 5, (3, 2), (0, 1)),
    }
    getattr(write, kind)(tmp_path / "file", named)
    arrays, table = load(tmp_path / "file"), flat.reshape(4, 6)
    np.testing.assert_array_equal(arrays["transposed"], table.T)
    np.testing.assert_array_equal(arrays["every_other"], table[:, 1::2])
    np.testing.assert_array_equal(arrays["whole"], flat)
    assert arrays["number"] == 23
    np.testing.assert_array_equal(arrays["same"], [[5, 6]] * 3)


@pytest.mark.parametrize("kind", PYTORCH)
@pytest.mark.parametrize(
    "view",
    [
        (1, (24,), (1,)),
        (0, (4, 6), (6, 2)),
        (0, (4,), (8,)),
        (25, (), ()),
        (-1, (2,), (1,)),
        (5, (3,), (-1,)),
        (0, (-1, -4), (1, 1)),
        (0, (2, 2), (1,)),
        (0, (10**9, 10**9), (0, 0)),
        (0, (2**62, 4), (1, 1)),
        (0, (2.0,), (1,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(write, tmp_path, kind, view):
    getattr(write, kind)(tmp_path / "file", {"bad": write.View(np.zeros(24, "f4"), *view)})
    refused(tmp_path / "file", "bad")


class Harmful:
    """Runs a command when Python's own pickle reads it."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_runs_nothing(write, tmp_path, kind, protocol):
    path, marker = tmp_path / "file", tmp_path / "marker"
    harmful = Harmful(os.system, f"touch {marker}")
    weights = {"a": np.zeros(3, "f4")}
    if kind in PYTORCH:
        getattr(write, kind)(path, {"state_dict": weights, "meta": harmful})
    else:
        path.write_bytes(pickle.dumps({**weights, "meta": harmful}, protocol))
    # Python's own pickle runs the same instruction, so the file is harmful indeed.
    pickle.loads(pickle.dumps(harmful, 2))
    assert marker.exists()
    marker.unlink()
    refused(path, "names the global posix.system, which runs commands")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"cos\nsystem\n(S'touch marker'\ntR.", "os.system"),
        (b"(S'touch marker'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0a__import__\x93\x8c\x02os\x85R.", "builtins.__import__"),
        (b"\x80\x04\x8c\x09importlib\x8c\x0dimport_module\x93.", "importlib.import_module"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "an object of builtins.getattr"),
        (b"\x80\x04\x8c\x05torch\x8c\x14_utils._rebuild.args\x93.", "torch._utils._rebuild.args"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"ccollections\nOrderedDict\n)\x81.", "damaged"),
        (b"c_codecs\nencode\n(S'61'\nS'hex'\ntR.", "damaged"),
        (b"\x82\x01.", "damaged"),
    ],
)
def test_programs_in_pickles(tmp_path, monkeypatch, program, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(program)
    refused(path, words)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_pickle_cannot_change_the_table_of_globals(tmp_path):
    """The instruction BUILD sets attributes of the top of the stack."""
    path, before = tmp_path / "file", dict(pickles.GLOBALS)
    for name in (b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"torch\nFloatStorage"):
        path.write_bytes(b"c" + name + b"\n(N}S'function'\nI1\nstb.")
        refused(path, "damaged")
    assert before == pickles.GLOBALS and all(isinstance(value, str | pickles.Call) for value in before.values())


def test_arrays_of_objects_are_refused(write, tmp_path):
    write.paddle_arrays(tmp_path / "file", {"bad": np.array([{"a": 1}, None], object)})
    refused(tmp_path / "file", "bad")
    write.paddle_arrays(tmp_path / "file", {"bad": np.array(["text"])})
    refused(tmp_path / "file", "bad")


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_files_are_refused(write, tmp_path, kind):
    path = tmp_path / "file"
    getattr(write, kind)(path, {"a": np.arange(300, dtype="f4"), "b": np.arange(4, dtype="f8")})
    data = path.read_bytes()
    for end in [*range(0, len(data) - 1, max(1, len(data) // 40)), len(data) - 1]:
        path.write_bytes(data[:end])
        refused(path, "damaged" if end else "is empty")


def test_storages_of_the_wrong_size_are_refused(write, tmp_path):
    path = tmp_path / "file"
    write.pytorch_legacy(path, {"a": np.arange(300, dtype="f4")})
    data = path.read_bytes()
    path.write_bytes(data[: -4 * 300 - 8] + (299).to_bytes(8, "little") + data[-4 * 300 :])
    refused(path, "storage 0")
    write.pytorch_zip(path, {"a": np.arange(300, dtype="f4")})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "other", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: 4 * 299 if "/data/" in name else None])
    refused(tmp_path / "other", "1196 bytes")


def test_other_files_are_refused(write, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(UserError, match=r"file cannot be read \(No such file"):
        read(path)
    for content in (b"text\n", b"PK\x03\x04"):
        path.write_bytes(content)
        refused(path, "damaged or not a checkpoint")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("saved_model.pb", b"")
    refused(path, "damaged or not a checkpoint")
    write.pytorch_zip(path, {"a": np.zeros(3, "f4")}, byteorder="big")
    refused(path, "big-endian")
    write.paddle_arrays(path, {"a": 3})
    refused(path, "a is not an array but a int")


PACKED = {"a": np.arange(3, dtype="f4"), "b": np.array(2**40, "i8")}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_packed_checkpoints_come_back(write, tmp_path, kind, compression):
    getattr(write, kind)(tmp_path / "x.pth", PACKED)
    with zipfile.ZipFile(tmp_path / "x.pth.zip", "w", compression) as archive:
        archive.write(tmp_path / "x.pth", "folder/x.pth")
        archive.writestr("__MACOSX/folder/._x.pth", b"")
        archive.writestr("folder/readme.txt", b"")
    arrays = load(tmp_path / "x.pth.zip")
    for name, array in PACKED.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_packed_files_are_bounded(write, tmp_path):
    path = tmp_path / "x.pth.zip"
    write.pytorch_zip(tmp_path / "x.pth", PACKED)

    def pack(compression=zipfile.ZIP_DEFLATED, **members):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.pth", content)

    pack(a=bytes(2_000_000))
    refused(path, "2000000 bytes packed into")
    pack(a=(tmp_path / "x.pth").read_bytes(), b=b"")
    refused(path, "2 checkpoints in one archive")
    pack(zipfile.ZIP_LZMA, a=(tmp_path / "x.pth").read_bytes())
    refused(path, "another compression")
    pack(a=b"<html></html>")
    refused(path, "a web page")
    pack(a=(tmp_path / "x.pth").read_bytes())
    pack(a=path.read_bytes())  # packed twice
    refused(path, "a compressed archive")


def test_a_storage_without_numbers_is_damage():
    with pytest.raises(ValueError, match="the numbers of a storage are missing"):
        Storage(np.dtype("<f4"), 1).flat()
