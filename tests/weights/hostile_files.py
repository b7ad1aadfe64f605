"""Checkpoint files that try to exhaust memory or time: PICKLES by name, and ARCHIVES as functions that write a file."""

import pickle
import struct
import zipfile

import numpy as np


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def nest(count):
    """Returns t = (t, t), `count` levels deep: small, but it takes forever to hash, print or compare."""
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
    "keys of one hash": b"\x80\x02}("
    + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(1, 10_001))
    + b"u.",
    "memo of one hash": b"N" + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(1, 10_001)) + b".",
    "a long key again and again": b"\x80\x02}("
    + text("x" * 100_000)
    + b"N"
    + text("x" * 100_000)
    + b"q\x00N"
    + b"h\x00N" * 100_000
    + b"u.",
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
    "arguments again and again": b"\x80\x02("
    + b"N" * 400_000
    + b"tq\x000ctorch._utils\n_rebuild_parameter\nq\x010("
    + b"h\x01h\x00R" * 150_000
    + b"t.",
    "objects again and again": b"\x80\x02("
    + b"N" * 300_000
    + b"tq\x000ca.b\nC\nq\x010("
    + b"h\x01h\x00\x81h\x00b" * 100_000
    + b"t.",
    "a long global again and again": b"\x80\x04"
    + text("a" * 1_000_000)
    + b"q\x000("
    + b"h\x00h\x00\x93" * 200_000
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
    """Writes PyTorch's zip format; `_0` is the storage 0."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(f"archive/data/{name.removeprefix('_')}", content)


def shared_arrays(path):
    """Writes 2 MB under 5,000 names: 10 GB."""
    array = np.zeros(500_000, "f4")
    path.write_bytes(pickle.dumps({f"a{i}": array for i in range(5000)}, 4))


def shared_views(path):
    """Writes 5,000 tensors that are views of one storage of 2 MB."""
    names = b"".join(text(f"a{i}") + tensor(500_000) for i in range(5000))
    archive(path, b"\x80\x02}(" + names + b"u.", _0=bytes(2_000_000))


def tiny_views(path):
    """Writes 20,000 names of one number each in a storage of 20 MB, which must not be read for each name: 400 GB."""
    names = b"".join(text(f"{i}") + tensor(5_000_000, i, (1,)) for i in range(20_000))
    archive(path, b"\x80\x02}(" + names + b"u.", _0=bytes(20_000_000))


def deflated(path):
    """Writes a compressed archive of 100 MB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}" + text("a") + tensor(2**30) + b"s.")
        with file.open("archive/data/0", "w") as member:
            for _ in range(100):
                member.write(bytes(1_000_000))


def packed(path):
    """Writes 300 MB of zeros as a compressed checkpoint in an archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file, file.open("x.pth", "w") as member:
        for _ in range(300):
            member.write(bytes(1_000_000))


def safetensors(path):
    """Writes 100,000 names of one number each in a header of 6 MB."""
    rows = (b'"%d":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}' % (i, 4 * i, 4 * i + 4) for i in range(100_000))
    header = b"{" + b",".join(rows) + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(400_000))


def overlapping(path):
    """Writes an archive with a thousand directory entries for the same megabyte."""
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
    """Writes an archive of 400,000 empty files."""
    entry = (
        struct.pack("<4s4B4H3I5H2I", b"PK\x01\x02", *b"\x14\0\x14\0", 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    )
    directory = entry * 400_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 60_000, 60_000, len(directory), 0, 0)
    path.write_bytes(b"PK\x03\x04" + directory + end)


def claimed(path):
    """Writes a storage and an archive member of 4 bytes that state 8 GB and 4 GB."""
    archive(path, b"\x80\x02}" + text("a") + tensor(2**31 - 1) + b"s.", _0=bytes(4))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, place + 20, 2**32 - 2, 2**32 - 2)
    path.write_bytes(data)


ARCHIVES = shared_arrays, shared_views, tiny_views, deflated, packed, safetensors, overlapping, many_members, claimed
