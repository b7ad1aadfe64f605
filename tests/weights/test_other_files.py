"""Files that are no checkpoint: each is refused in one line with its kind and with what to do."""

import functools
import json
import zipfile

import pytest
import tensorflow as tf

from htc_tf.weights.files import read
from tests.weights import reading

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
FILES = {
    "is empty, not a checkpoint file: its download or copy was cut off": b"",
    "is a Git LFS pointer, not a checkpoint file: run git lfs pull": POINTER,
    "is a web page": b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>",
    "such as an error's or a login's": b"\n  <HTML><body>Sign in</body></html>",
    "download the file itself": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "a web page, such as": b"<Error><Code>NoSuchKey</Code></Error>",
    "web page, such as an error's": b"\xef\xbb\xbf<!-- a byte order mark --><html></html>",
    "is JSON, not a checkpoint file: give the file that holds the weights": json.dumps({"weight_map": {}}).encode(),
    "is JSON": b" [1, 2]\n",
    "is an HDF5 file of Keras": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "is an ONNX model": b"\x08\x07\x12\x07pytorch\x1a\x052.0.0" + bytes(100),
    "is a SavedModel of TensorFlow": b"\x08\x01\x12\xa2\x01" + bytes(100),
    "is a compressed archive, not a checkpoint file: unpack it first": b"\x1f\x8b\x08\0" + bytes(100),
}


refused = functools.partial(reading.refused, reader=read)


@pytest.mark.parametrize("words", FILES)
def test_kinds_of_files(tmp_path, words):
    path = tmp_path / "x.pth"
    path.write_bytes(FILES[words])
    refused(path, words)


def test_files_of_tensorflow(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    prefix = tf.train.Checkpoint(module=module).save(tmp_path / "checkpoints" / "ckpt")
    for path in (prefix, f"{prefix}.index"):
        refused(path, "is a checkpoint of TensorFlow, not of another framework")
    refused(tmp_path / "checkpoints" / "checkpoint", "is TensorFlow's list of checkpoints")
    refused(tmp_path / "checkpoints", "is a folder of TensorFlow checkpoints")
    tf.saved_model.save(module, str(tmp_path / "saved"))
    refused(tmp_path / "saved", "is a SavedModel of TensorFlow")
    refused(tmp_path / "saved" / "saved_model.pb", "is a SavedModel of TensorFlow")


def test_other_folders(tmp_path):
    refused(tmp_path, "cannot be read (Is a directory)")
    (tmp_path / "model.pth").touch()
    refused(tmp_path, "is a folder, not a checkpoint file: give the file in it that holds the weights")
    (tmp_path / "config.gin").touch()
    refused(tmp_path, "is a run already")
    refused(tmp_path / "absent.pth", "cannot be read (No such file")


def test_other_archives(tmp_path):
    path = tmp_path / "x.zip"
    for name, words in (
        ("net/constants.pkl", "a program of TorchScript"),
        ("model.weights.h5", "an archive without a checkpoint"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"")
            archive.writestr("net/data.pkl" if "constants" in name else "config.json", b"N.")
        refused(path, words)
