"""Writers of checkpoint files, byte for byte as PyTorch and Paddle write them, without either of them."""

import argparse
import contextlib
import datetime
import io
import pickle
import random
import struct
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

BFLOAT16 = np.dtype(tf.bfloat16.as_numpy_dtype)
STORAGES = {
    np.dtype("f8"): "DoubleStorage",
    np.dtype("f4"): "FloatStorage",
    np.dtype("f2"): "HalfStorage",
    BFLOAT16: "BFloat16Storage",
    np.dtype("i8"): "LongStorage",
    np.dtype("i4"): "IntStorage",
    np.dtype("u1"): "ByteStorage",
    np.dtype("?"): "BoolStorage",
}
ZIP_MAGIC, LEGACY_MAGIC = b"PK\x03\x04", 0x1950A86A20F9469CFC6C


class View(NamedTuple):
    """A tensor as a view of a flat array."""

    flat: np.ndarray
    offset: int
    shape: tuple
    strides: tuple
    parameter: bool = False


class Flat(NamedTuple):
    """A storage, which PyTorch pickles as a persistent reference."""

    array: np.ndarray


@contextlib.contextmanager
def torch_by_name():
    """Provides modules with the names in PyTorch's pickles while one is written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *args: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        yield torch, utils


def pickle_tensors(content, *view_metadata):
    """Returns (pickle of an object with arrays and Views as tensors, its storages in order)."""
    flats, file = {}, io.BytesIO()
    with torch_by_name() as (torch, utils):

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if not isinstance(item, Flat):
                    return None
                key, _ = flats.setdefault(id(item.array), (str(len(flats)), item.array))
                kind = getattr(torch, STORAGES[item.array.dtype])
                return ("storage", kind, key, "cpu", item.array.size, *view_metadata)

            def reducer_override(self, item):
                if isinstance(item, np.ndarray) and item.dtype in STORAGES:  # not the state of a random generator
                    flat = np.ascontiguousarray(item).reshape(-1)
                    kept.append(flat)
                    strides = tuple(stride // item.itemsize for stride in np.ascontiguousarray(item).strides)
                    item = View(flat, 0, item.shape, strides[: item.ndim])
                if not isinstance(item, View):
                    return NotImplemented
                parts = (Flat(item.flat), item.offset, item.shape, item.strides, item.parameter, OrderedDict())
                if item.parameter:
                    return utils._rebuild_parameter, (item._replace(parameter=False), True, OrderedDict())
                return utils._rebuild_tensor_v2, parts

        kept = []  # keeps the arrays alive, so that no two share an id
        Pickler(file, 2).dump(content)
    return file.getvalue(), [array for _, array in flats.values()]


def pytorch_zip(path, content, folder="archive", byteorder="little"):
    """Writes the format since PyTorch 1.6."""
    pickled, storages = pickle_tensors(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", pickled)
        archive.writestr(f"{folder}/byteorder", byteorder)
        for key, array in enumerate(storages):
            archive.writestr(f"{folder}/data/{key}", array.tobytes())
        archive.writestr(f"{folder}/version", "3\n")


def pytorch_legacy(path, content):
    """Writes the format before PyTorch 1.6."""
    pickled, storages = pickle_tensors(content, None)
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with open(path, "wb") as file:
        for head in (LEGACY_MAGIC, 1001, machine):
            pickle.dump(head, file, 2)
        file.write(pickled)
        pickle.dump([str(key) for key in range(len(storages))], file, 2)
        for array in storages:
            file.write(struct.pack("<q", array.size) + array.tobytes())


def paddle_arrays(path, named, protocol=4):
    """Writes paddle.save of a state dict: arrays and a table of the tensors' inner names."""
    table = {name: f"conv2d_{i}.w_0" for i, name in enumerate(named)}
    path.write_bytes(pickle.dumps({**named, "StructuredToParameterName@@": table}, protocol))


class PaddleTensor(NamedTuple):
    inner: str
    array: np.ndarray

    def __reduce__(self):
        return tuple, ((self.inner, self.array),)


def paddle_tuples(path, named, protocol=4):
    """Writes paddle.save of any other object: each tensor as (inner name, array)."""
    named = {name: PaddleTensor(f"conv2d_{i}.w_0", array) for i, (name, array) in enumerate(named.items())}
    path.write_bytes(pickle.dumps(named, protocol))


class PlainArray(NamedTuple):
    """An array that stays one of NumPy in a pickle of PyTorch."""

    array: np.ndarray

    def __reduce__(self):
        return self.array.__reduce__()


@contextlib.contextmanager
def mmengine_by_name():
    """Provides classes with the names in mmengine's training checkpoints while one is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
        classes = []
        for path in (
            "mmengine.logging.history_buffer.HistoryBuffer",
            "mmengine.config.config.ConfigDict",
            "mmengine.optim.scheduler.lr_scheduler.OneCycleLR",
        ):
            name, _, kind = path.rpartition(".")
            module = types.ModuleType(name)
            base = dict if kind == "ConfigDict" else object
            setattr(module, kind, type(kind, (base,), {"__module__": name, "anneal": staticmethod(lambda: None)}))
            patch.setitem(sys.modules, name, module)
            classes.append(getattr(module, kind))
        schedule = classes[-1]
        schedule.anneal.__module__, schedule.anneal.__qualname__ = schedule.__module__, "OneCycleLR.anneal"
        yield classes


def mmengine_epoch(path, weights, writer=pytorch_zip, **more):
    """Writes epoch_N.pth as mmengine's Runner.save_checkpoint and its hooks do, with what they put beside the weights.

    Args:
        path: Path.
        weights: {name: array}.
        writer: One of the writers of PyTorch's formats.
        more: Further entries of the checkpoint, such as ema_state_dict.
    """
    with mmengine_by_name() as (history_buffer, config_dict, one_cycle):
        losses = history_buffer()
        losses.__dict__.update(
            max_length=1_000_000,
            _log_history=PlainArray(np.linspace(2.0, 0.5, 400)),
            _count_history=PlainArray(np.ones(400, int)),
        )
        message_hub = {
            "log_scalars": OrderedDict({"train/loss": losses, "train/lr": losses}),
            "runtime_info": OrderedDict(iter=7330, epoch=11, cfg="model = dict(...)", best_score=np.float64(0.4)),
            "resumed_keys": OrderedDict({"train/loss": True}),
        }
        meta = {
            "epoch": 12,
            "iter": 7330,
            "cfg": "model = dict(...)",
            "seed": 42,
            "time": "20240101_000000",
            "mmengine_version": "0.10.4",
            "dataset_meta": {"classes": ("cat", "dog", "street sign"), "palette": [(220, 20, 60)]},
            "hook_msgs": config_dict(last_ckpt=config_dict(path="epoch_11.pth")),
            "args": argparse.Namespace(resume=False),
            "date": datetime.datetime(2024, 1, 1),
            "state": (random.Random(0).getstate(), np.random.default_rng(0), {1, 2}, frozenset([3]), slice(1, 2), 1j),
            "counts": (defaultdict(list, a=[1]), Counter("abc"), deque([1]), np.bool_(True), np.int64(3)),
        }
        state = {
            i: {"step": np.ones([], "f4"), "exp_avg": np.zeros_like(array)} for i, array in enumerate(weights.values())
        }
        optimizer = {"state": state, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": list(state)}]}
        schedulers = [{"last_step": 12, "_anneal_func": one_cycle.anneal, "base_values": [0.1]}]
        content = {"meta": meta, "state_dict": OrderedDict(weights), "message_hub": message_hub, "optimizer": optimizer}
        writer(path, {**content, "param_schedulers": schedulers, **more})


@pytest.fixture(scope="session")
def write():
    """The writers by name, as in write.pytorch_zip(path, content); write.View is a tensor that shares a storage."""
    writers = (pytorch_zip, pytorch_legacy, paddle_arrays, paddle_tuples, mmengine_epoch, View)
    return types.SimpleNamespace(**{writer.__name__: writer for writer in writers}, BFLOAT16=BFLOAT16)
