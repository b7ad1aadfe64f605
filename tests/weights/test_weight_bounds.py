"""Checkpoint files that are made to take the machine: each is refused soon, in little memory, by one line."""

import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.weights.files import collect, read
from htc_tf.weights.swin_names import MARK
from htc_tf.weights.versions import from_mmdet, from_swin, from_torchvision

# Reads each file, with that much memory and processor time more than TensorFlow takes, in a process of its own.
MEMORY, SECONDS = 600_000_000, 60
READER = """
import os, resource, sys
from htc_tf.weights.files import collect, read
from htc_tf.weights.versions import state_dict
from htc_tf.errors import UserError

addresses = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (addresses + int(sys.argv[1]),) * 2)
used = resource.getrusage(resource.RUSAGE_SELF)
resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + int(sys.argv[2]),) * 2)
for path in sys.argv[3:]:
    try:
        line = f"read {len(collect(state_dict(read(path), path), path))}"
    except UserError as error:
        # A file that wants too much must be refused before the memory is asked for.
        line = "FAILED: memory" if isinstance(error.__cause__, MemoryError) else str(error)
    print(os.path.basename(path), line, sep="\\t", flush=True)
"""


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def nest(count):
    """t = (t, t), again and again: small, and for ever to hash, to print or to compare."""
    return b")" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(count))


def storage(count, key="0", kind=b"FloatStorage"):
    return (
        b"("
        + text("storage")
        + b"ctorch\n"
        + kind
        + b"\n"
        + text(key)
        + text("cpu")
        + b"J"
        + struct.pack("<i", count)
        + b"tQ"
    )


def tensor(count, offset=0, shape=None, key="0"):
    shape = (count,) if shape is None else shape
    view = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in shape) + b"t"
    strides = b"(" + b"J\x01\0\0\0" * len(shape) + b"t"
    head = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return (
        head
        + storage(count, key)
        + b"J"
        + struct.pack("<i", offset)
        + view
        + strides
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


ENCODE = b"c_codecs\nencode\n"
PICKLES = {
    "bytes of a gigabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**30) + b".",
    "bytes of all addresses": b"\x80\x05\x96" + struct.pack("<Q", 2**63 - 1) + b".",
    "bytes8": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "text8": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "text of two gigabytes": b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"x.",
    "string of a negative length": b"\x80\x02T" + struct.pack("<i", -5) + b"x.",
    "number of two gigabytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "number of a million bytes": b"\x80\x02\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".",
    "frame of all addresses": b"\x80\x04\x95" + struct.pack("<Q", 2**63 - 1) + b"N.",
    "memo far away": b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".",
    "memo by text": b"Np99999999999\n.",
    "memo and nothing else": b"N" + b"".join(b"r" + struct.pack("<I", 2**31 - i) for i in range(1, 300_000)) + b".",
    "tuples twice as deep": b"\x80\x02" + nest(60) + b".",
    "tuples as a key": b"\x80\x02}" + nest(60) + b"Ns.",
    "tuples as keys of an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n(](" + nest(60) + b"NtatR.",
    "tuples as a storage": b"\x80\x02(" + nest(60) + b"NNNNtQ.",
    "tuples as a storage's kind": b"\x80\x02(" + text("storage") + nest(60) + text("0") + b"NK\x01tQ.",
    "tuples as a storage's key": b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + nest(60) + b"NK\x01tQ.",
    "tuples as a dtype": b"\x80\x02}"
    + text("a")
    + b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
    + nest(60)
    + b"\x85RC\x04abcd\x86Rs.",
    "tuples as an encoding": b"\x80\x02" + ENCODE + text("x") + nest(60) + b"\x86R.",
    "tuples as a global": b"\x80\x04" + nest(60) + text("x") + b"\x93.",
    "tuples a million deep": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
    "lists very deep": b"\x80\x02" + b"]" * 450_000 + b"a" * 449_999 + b".",
    "tuples in a set": b"\x80\x04\x8f(" + nest(60) + b"\x90.",
    "lists again and again": b"\x80\x02]("
    + b"N" * 500_000
    + b"eq\x000"
    + b"cbuiltins\ntuple\nq\x010("
    + b"h\x01h\x00\x85R" * 300_000
    + b"t.",
    "text again and again": b"\x80\x02"
    + text("x" * 1_000_000)
    + b"q\x000"
    + text("latin1")
    + b"q\x010"
    + ENCODE
    + b"q\x020("
    + b"h\x02h\x00h\x01\x86R" * 100_000
    + b"t.",
    "pairs again and again": b"\x80\x02]("
    + b"".join(b"(" + text(str(i)) + b"Nt" for i in range(100_000))
    + b"eq\x000ccollections\nOrderedDict\nq\x010("
    + b"h\x01h\x00\x85R" * 100_000
    + b"t.",
    "nothing, a million times": b"\x80\x02" + b"N0" * 550_000 + b"N.",
    "a million dicts": b"\x80\x02(" + b"}" * 1_050_000 + b"t.",
    "a string of letters": b"N" * 1_050_000,
    "an array of another size": b"\x80\x02}"
    + text("a")
    + b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftcnumpy\ndtype\n"
    + text("f8")
    + b"\x85R\x89C\x08abcdefghtbs.",
    "an array of a million axes": b"\x80\x02}"
    + text("a")
    + b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01("
    + b"K\x01" * 1_000_000
    + b"tcnumpy\ndtype\n"
    + text("f8")
    + b"\x85R\x89C\x08abcdefghtbs.",
    "a dtype of a gigabyte": b"\x80\x02}"
    + text("a")
    + b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
    + text("1000000000f8")
    + b"\x85RC\x04abcd\x86Rs.",
}


def archive(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(f"archive/data/{name.removeprefix('_')}", content)


def shared_arrays(path):
    """2 MB that 5,000 names stand for: 10 GB."""
    array = np.zeros(500_000, "f4")
    path.write_bytes(pickle.dumps({f"a{i}": array for i in range(5000)}, 4))


def shared_views(path):
    names = b"".join(text(f"a{i}") + tensor(500_000) for i in range(5000))
    archive(path, b"\x80\x02}(" + names + b"u.", _0=bytes(2_000_000))


def tiny_views(path):
    """200,000 names of one number each in a storage of 20 MB, which must not be read for each: 4 TB."""
    names = b"".join(text(f"{i}") + tensor(5_000_000, i, (1,)) for i in range(20_000))
    archive(path, b"\x80\x02}(" + names + b"u.", _0=bytes(20_000_000))


def deflated(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}" + text("a") + tensor(2**30) + b"s.")
        with file.open("archive/data/0", "w") as member:
            for _ in range(100):
                member.write(bytes(1_000_000))


def overlapping(path):
    """A thousand entries of the archive's directory, which all name the same megabyte."""
    names = b"".join(text(f"a{i}") + tensor(250_000, key=f"{i}") for i in range(1000))
    archive(path, b"\x80\x02}(" + names + b"u.", _0=bytes(1_000_000))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02", data.index(b"archive/data/0") + 1_000_000)
    entries, position = [], start
    while data[position : position + 4] == b"PK\x01\x02":
        length = 46 + struct.unpack_from("<H", data, position + 28)[0]
        entries.append(data[position : position + length])
        position += length
    last = entries[-1]
    for i in range(1, 1000):
        name = f"archive/data/{i}".encode()
        entries.append(last[:28] + struct.pack("<H", len(name)) + last[30:46] + name)
    directory = b"".join(entries)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), start, 0)
    path.write_bytes(data[:start] + directory + end)


def many_members(path):
    """400,000 empty files."""
    entry = (
        struct.pack("<4s4B4H3I5H2I", b"PK\x01\x02", *b"\x14\0\x14\0", 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    )
    directory = entry * 400_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 60_000, 60_000, len(directory), 0, 0)
    path.write_bytes(b"PK\x03\x04" + directory + end)


def claimed(path):
    """A storage that claims a terabyte, and a member that does."""
    archive(path, b"\x80\x02}" + text("a") + tensor(2**31 - 1) + b"s.", _0=bytes(4))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, place + 20, 2**32 - 2, 2**32 - 2)
    path.write_bytes(data)


ARCHIVES = (shared_arrays, shared_views, tiny_views, deflated, overlapping, many_members, claimed)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """name -> what came of reading the file, in one line."""
    if not sys.platform.startswith("linux"):
        pytest.skip("limits of memory as Linux has them")
    folder = tmp_path_factory.mktemp("bombs")
    for name, content in PICKLES.items():
        (folder / name).write_bytes(content)
    for make in ARCHIVES:
        make(folder / make.__name__.replace("_", " "))
    paths = sorted(map(str, folder.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(MEMORY), str(SECONDS), *paths], capture_output=True, text=True, timeout=500
    )
    assert not done.returncode, (done.stdout[-300:], done.stderr[-2000:])
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", [*PICKLES, *(make.__name__.replace("_", " ") for make in ARCHIVES)])
def test_no_file_takes_the_machine(answers, name):
    line = answers[name]
    assert "FAILED" not in line and len(line) < 700
    assert line.startswith("read ") or name in line
    assert line.startswith("read ") == (name == "tiny views")


def test_what_is_shared_a_little_is_read(write, tmp_path):
    """Three names of one array, and float16, which becomes float32."""
    flat = np.arange(300_000, dtype="f2")
    named = OrderedDict((f"a{i}", write.View(flat, 0, (300_000,), (1,))) for i in range(2))
    write.pytorch_zip(tmp_path / "file", named)
    arrays = collect(read(tmp_path / "file"), tmp_path / "file")
    for array in arrays.values():
        np.testing.assert_array_equal(array, flat.astype("f4"))


def test_a_device_is_no_file():
    with pytest.raises(UserError, match="/dev/zero cannot be read: it is no file"):
        read("/dev/zero")


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 0), (1, 1, 1)])
@pytest.mark.parametrize(
    ("bring", "name"),
    [
        (from_mmdet, "bbox_head.0.fc_cls.weight"),
        (from_mmdet, "bbox_head.0.fc_reg.weight"),
        (from_mmdet, "mask_head.0.conv_logits.weight"),
        (from_swin, "layers.0.downsample.reduction.weight"),
        (from_swin, "patch_embed.proj.weight"),
        (from_torchvision, "fc.weight"),
    ],
)
def test_arrays_of_any_shape_are_brought_or_refused(write, tmp_path, bring, name, shape):
    write.pytorch_zip(tmp_path / "file", {MARK: np.zeros(1, "f4"), name: np.zeros(shape, "f4")})
    try:
        arrays, _ = bring(read(tmp_path / "file"), tmp_path / "file")
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
    except UserError as error:
        assert str(tmp_path) in str(error)


def test_names_that_cannot_be_printed_are_no_weights(write, tmp_path):
    for name in ("a\nb", "\x1b[31m", "w" * 10_000, 3):
        write.paddle_arrays(tmp_path / "file", {name: np.zeros(1, "f4")})
        with pytest.raises(UserError, match="no weights by name"):
            from_mmdet(read(tmp_path / "file"), tmp_path / "file")


def test_random_changes_are_refused_or_read(write, tmp_path):
    """Whatever a few changed bytes make of a file, it ends in arrays or in one line."""
    random = np.random.default_rng(0)
    path = tmp_path / "file"
    for kind in ("pytorch_zip", "pytorch_legacy", "paddle_arrays"):
        getattr(write, kind)(path, {"a": np.arange(30, dtype="f4"), "b": np.arange(4, dtype="f8")})
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for place in random.integers(0, len(data), 2):
                data[place] = random.integers(256)
            path.write_bytes(data)
            try:
                content = read(path)
                if isinstance(content, dict):
                    collect(content, path)
            except UserError as error:
                assert len(str(error).splitlines()) == 1 and str(path) in str(error)
