"""Files that are not checkpoints: recognized by their first bytes and refused, with their kind and advice."""

import os
import re
from pathlib import Path

from htc_tf.errors import UserError

HEAD = 200  # bytes that a mark may need
FETCH = "download the file itself"
EXPORT = "give the PyTorch, Paddle or safetensors file of its training"
# (mark at the start of the file, kind, advice)
KINDS = (
    (rb"\Z", "empty", "its download or copy was cut off, get it again"),
    (rb"version https://git-lfs", "a Git LFS pointer", "run git lfs pull in its repository"),
    (rb"(\xef\xbb\xbf)?\s*<", "a web page, such as an error's or a login's", FETCH),
    (rb"model_checkpoint_path:", "TensorFlow's list of checkpoints", EXPORT),
    (rb"\x89HDF", "an HDF5 file of Keras", EXPORT),
    (rb"\x08\x01\x12", "a SavedModel of TensorFlow", EXPORT),
    (rb"\x08[\x02-\x20][\x12\x1a]", "an ONNX model", EXPORT),
    (rb"\s*[\[{]", "JSON", "give the file that holds the weights"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "a compressed archive", "unpack it first"),
)
INDEX_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # the last bytes of a TensorFlow checkpoint's .index file
FOLDERS = (
    ("config.gin", "a run already", "use it as it is"),
    ("saved_model.pb", "a SavedModel of TensorFlow", EXPORT),
    ("*.index", "a folder of TensorFlow checkpoints", EXPORT),
    ("*", "a folder", "give the file in it that holds the weights"),
)


def check_path(path: str | os.PathLike) -> None:
    """Raises UserError if a path leads to a folder, or is the prefix of a TensorFlow checkpoint."""
    path = Path(path)
    if path.is_dir():
        for pattern, kind, advice in FOLDERS:
            if next(path.glob(pattern), None) is not None:
                raise UserError(f"{path} is {kind}, not a checkpoint file: {advice}")
    if not path.exists() and Path(f"{path}.index").exists():
        raise UserError(f"{path} is a checkpoint of TensorFlow, not of another framework: {EXPORT}")


def check_kind(data: bytes, path: str | os.PathLike) -> None:
    """Raises UserError if the bytes of a file are no checkpoint, with the kind that they are.

    Args:
        data: Bytes.
        path: Path of the file, for the message.
    """
    for mark, kind, advice in KINDS:
        if re.match(mark, data[:HEAD], re.IGNORECASE):
            raise UserError(f"{path} is {kind}, not a checkpoint file: {advice}")
    if data[-len(INDEX_END) :] == INDEX_END:
        raise UserError(f"{path} is a checkpoint of TensorFlow, not of another framework: {EXPORT}")
