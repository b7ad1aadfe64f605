"""Runs a SavedModel through TensorFlow's C API, in a process that never loads TensorFlow's Python.

    python tests/c_api.py SAVED_MODEL REQUESTS.npz ANSWERS.npz

TensorFlow Serving loads models by the same C++ code (`TF_LoadSessionFromSavedModel`). Loading alone proves little: a
missing kernel shows only when its operation runs. REQUESTS holds an array "i/signature/input" per input of request i,
ANSWERS "i/output". Strings have dtype S and an extra byte at their end, because NumPy drops trailing zeros.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np

POINTER, STRING = ctypes.c_void_p, 7
DTYPES = {1: np.float32, 3: np.int32, 4: np.uint8}
STRING_SIZE = 24  # bytes of a TF_TString


class Output(ctypes.Structure):
    """TF_Output: an operation and the index of one of its outputs."""

    _fields_ = (("operation", POINTER), ("index", ctypes.c_int))


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", POINTER), ("length", ctypes.c_size_t), ("free", POINTER))


def load_library():
    """Returns the installed wheel's C library, with the signatures of the functions used here."""
    folder = Path(importlib.util.find_spec("tensorflow").origin).parent
    ending = "2.dylib" if sys.platform == "darwin" else "so.2"
    for name in ("libtensorflow_framework", "libtensorflow_cc"):
        library = ctypes.CDLL(str(folder / f"{name}.{ending}"), mode=ctypes.RTLD_GLOBAL)
    size, integer, text = ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p
    for name, result, *arguments in (
        ("NewStatus", POINTER),
        ("NewGraph", POINTER),
        ("NewSessionOptions", POINTER),
        ("NewBuffer", POINTER),
        ("GetCode", integer, POINTER),
        ("Message", text, POINTER),
        ("LoadSessionFromSavedModel", POINTER, POINTER, POINTER, text, POINTER, integer, POINTER, POINTER, POINTER),
        ("GraphOperationByName", POINTER, POINTER, text),
        ("AllocateTensor", POINTER, integer, POINTER, integer, size),
        ("TensorData", POINTER, POINTER),
        ("TensorType", integer, POINTER),
        ("NumDims", integer, POINTER),
        ("Dim", ctypes.c_int64, POINTER, integer),
        ("TensorByteSize", size, POINTER),
        ("StringInit", None, POINTER),
        ("StringCopy", None, POINTER, text, size),
        ("StringGetDataPointer", POINTER, POINTER),
        ("StringGetSize", size, POINTER),
        ("SessionRun", None, POINTER, POINTER, *[POINTER, POINTER, integer] * 2, POINTER, integer, POINTER, POINTER),
    ):
        function = getattr(library, f"TF_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def fields(message):
    """Yields (field number, value) of a serialized protobuf message; values are ints or bytes."""
    position = 0

    def varint():
        nonlocal position
        number = shift = 0
        while True:
            byte = message[position]
            position += 1
            number |= (byte & 127) << shift  # seven bits a byte, the lowest first
            shift += 7
            if byte < 128:
                return number

    while position < len(message):
        key = varint()  # the field's number, and in the last three bits its wire type
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(key & 7) or varint()  # 64 bits, 32 bits, or a length that precedes the bytes
        yield key >> 3, message[position : position + length]
        position += length


def signatures(meta_graph):
    """Returns {signature: ({input: tensor name}, {output: tensor name})} of a serialized MetaGraphDef."""
    found = {}
    for number, entry in fields(meta_graph):
        if number != 5:  # MetaGraphDef.signature_def, a map: field 1 is the key, field 2 the SignatureDef
            continue
        entry = dict(fields(entry))
        names = {}, {}
        for kind, value in fields(entry[2]):
            if kind in (1, 2):  # maps of inputs and of outputs to a TensorInfo, whose field 1 is the tensor's name
                value = dict(fields(value))
                names[kind - 1][value[1].decode()] = dict(fields(value[2]))[1].decode()
        found[entry[1].decode()] = names
    return found


class Model:
    """A loaded SavedModel."""

    def __init__(self, folder):
        self.library = load_library()
        self.graph, status, meta = self.library.TF_NewGraph(), self.library.TF_NewStatus(), self.library.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        options = self.library.TF_NewSessionOptions()
        arguments = options, None, str(folder).encode(), tags, 1, self.graph, meta, status
        self.session = self.library.TF_LoadSessionFromSavedModel(*arguments)
        self.check(status)
        meta = ctypes.cast(meta, ctypes.POINTER(Buffer)).contents
        self.signatures = signatures(ctypes.string_at(meta.data, meta.length))

    def check(self, status):
        if self.library.TF_GetCode(status):
            raise RuntimeError(self.library.TF_Message(status).decode())

    def output(self, name):
        operation, index = name.split(":")
        return Output(self.library.TF_GraphOperationByName(self.graph, operation.encode()), int(index))

    def to_tensor(self, array):
        if array.dtype.kind == "S":
            strings = [value[:-1] for value in array.tolist()]
            shape = (ctypes.c_int64 * 1)(len(strings))
            tensor = self.library.TF_AllocateTensor(STRING, shape, 1, STRING_SIZE * len(strings))
            start = self.library.TF_TensorData(tensor)
            for index, value in enumerate(strings):
                self.library.TF_StringInit(start + STRING_SIZE * index)
                self.library.TF_StringCopy(start + STRING_SIZE * index, value, len(value))
            return tensor
        array = np.ascontiguousarray(array)
        (code,) = [code for code, dtype in DTYPES.items() if dtype == array.dtype]
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = self.library.TF_AllocateTensor(code, shape, array.ndim, array.nbytes)
        ctypes.memmove(self.library.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def to_array(self, tensor):
        shape = [self.library.TF_Dim(tensor, axis) for axis in range(self.library.TF_NumDims(tensor))]
        code, start = self.library.TF_TensorType(tensor), self.library.TF_TensorData(tensor)
        if code == STRING:
            places = [start + STRING_SIZE * index for index in range(int(np.prod(shape)))]
            data, size = self.library.TF_StringGetDataPointer, self.library.TF_StringGetSize
            strings = [ctypes.string_at(data(place), size(place)) + b"." for place in places]
            return np.array(strings, "S").reshape(shape)
        content = ctypes.string_at(start, self.library.TF_TensorByteSize(tensor))
        return np.frombuffer(content, DTYPES[code]).reshape(shape)

    def run(self, signature, inputs):
        """Returns {output: array} of {input: array}; strings as described at the top."""
        ins, outs = self.signatures[signature]
        count = len(inputs)
        feeds = (Output * count)(*[self.output(ins[name]) for name in inputs])
        tensors = (POINTER * count)(*[self.to_tensor(value) for value in inputs.values()])
        fetches = (Output * len(outs))(*[self.output(name) for name in outs.values()])
        results, status = (POINTER * len(outs))(), self.library.TF_NewStatus()
        arguments = feeds, tensors, count, fetches, results, len(outs), None, 0, None, status
        self.library.TF_SessionRun(self.session, None, *arguments)
        self.check(status)
        return {name: self.to_array(tensor) for name, tensor in zip(outs, results, strict=True)}


def main():
    folder, requests, answers = sys.argv[1:]
    model, inputs = Model(folder), {}
    for key, value in np.load(requests).items():
        number, signature, name = key.split("/")
        inputs.setdefault((number, signature), {})[name] = value
    found = {}
    for (number, signature), values in inputs.items():
        found |= {f"{number}/{name}": array for name, array in model.run(signature, values).items()}
    assert not {"tensorflow", "keras", "htc_tf"} & {name.partition(".")[0] for name in sys.modules}
    np.savez(answers, **found)


if __name__ == "__main__":
    main()
