"""TensorFlow Serving's protobuf messages for predictions, and their conversion from and to NumPy arrays.

`serving.grpc_client` sends and receives them, `serving.warmup` stores them. They are declared here because
tensorflow-serving-api depends on the wheel `tensorflow`, which cannot be installed beside tensorflow-cpu, and a client
needs neither. Further fields of a message are ignored, as usual with protocol buffers.

Source: tensorflow_serving/apis/{predict,model,prediction_log}.proto and
tensorflow/core/framework/{tensor,tensor_shape,types}.proto.
"""

import math

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from htc_tf.errors import UserError

PREDICT = "/tensorflow.serving.PredictionService/Predict"

# {field: (number, type)}; "*" means repeated. On the wire a map is a list of entries, and an enum an int32.
MESSAGES = {
    "Dimension": {"size": (1, "int64")},
    "Shape": {"dim": (2, "*Dimension")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "Shape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "*float"),
        "int_val": (7, "*int32"),
        "string_val": (8, "*bytes"),
    },
    "NamedTensor": {"key": (1, "string"), "value": (2, "Tensor")},
    "Version": {"value": (1, "int64")},
    "ModelSpec": {"name": (1, "string"), "version": (2, "Version"), "signature_name": (3, "string")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "*NamedTensor")},
    "PredictResponse": {"outputs": (1, "*NamedTensor"), "model_spec": (2, "ModelSpec")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}
# {TensorFlow's number of a dtype: (field of the values, NumPy dtype)}
FLOAT, INT, UINT8, STRING = 1, 3, 4, 7
VALUES = {
    FLOAT: ("float_val", np.float32),
    INT: ("int_val", np.int32),
    UINT8: ("int_val", np.uint8),
    STRING: ("string_val", object),
}
MAX_EQUAL = 2**16  # numbers or strings that one value may stand for


def declare(messages, package="htc_tf.serving"):
    """Declares messages in a descriptor pool of their own, so that TensorFlow's may exist beside them.

    Args:
        messages: a dict in the format of MESSAGES.
        package: the protobuf package's name.

    Returns:
        {name: message class}.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package=package, syntax="proto3")
    for message, fields in messages.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            if kind in messages:
                reference = {"type": field.TYPE_MESSAGE, "type_name": f".{package}.{kind}"}
            else:
                reference = {"type": field.Type.Value(f"TYPE_{kind.upper()}")}
            declared.field.add(name=name, number=number, label=label, **reference)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


CLASSES = declare(MESSAGES)
PredictRequest, PredictResponse = CLASSES["PredictRequest"], CLASSES["PredictResponse"]


def predict_request(model, version, inputs, signature=""):
    """Builds a PredictRequest.

    Args:
        model: the model's name in the server.
        version: int, or None for the newest.
        inputs: {name: array of float32, int32, uint8 or bytes objects}.
        signature: the signature's name; "" is the default one.
    """
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        write_array(request.inputs.add(key=name).value, array)
    return request


def prediction_log(model, signature, inputs):
    """Builds the PredictionLog of a request to the newest version; arguments as in `predict_request`."""
    request = predict_request(model, None, inputs, signature)
    return CLASSES["PredictionLog"](predict_log=CLASSES["PredictLog"](request=request))


def read_arrays(named):
    """Reads the named tensors of a message.

    Returns:
        {name: array}; strings are arrays of bytes objects.

    Raises:
        UserError: a tensor has another dtype than those in VALUES, or its values do not fit its shape.
    """
    return {entry.key: read_array(entry.value, entry.key) for entry in named}


def write_array(tensor, array):
    array = np.asarray(array)
    (tensor.dtype,) = (number for number, (_, dtype) in VALUES.items() if array.dtype == dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    getattr(tensor, VALUES[tensor.dtype][0]).extend(array.ravel().tolist())


def read_array(tensor, name):
    if tensor.dtype not in VALUES:
        raise UserError(f"the model's output {name} has dtype {tensor.dtype}: it was not written by htc_tf.export")
    field, dtype = VALUES[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    try:
        if tensor.tensor_content:
            return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
        values = np.array(list(getattr(tensor, field)), dtype)
        # One value stands for any number of equal ones, and none for zeros. A view takes no memory for them.
        if len(values) <= 1 and math.prod(shape) <= MAX_EQUAL:
            value = values if len(values) else np.full(1, b"" if dtype is object else 0, dtype)
            return np.broadcast_to(value.reshape([1] * len(shape)), shape)
        return values.reshape(shape)
    except (ValueError, OverflowError):
        raise UserError(f"the model's response is damaged: {name} does not fit its shape {shape}") from None
