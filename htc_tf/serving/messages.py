"""TensorFlow Serving's gRPC messages, as far as a prediction needs them, and arrays in and out of them.

Before it: encoded pictures. After it: `serving.grpc_client` sends and receives them. They are declared here since
tensorflow-serving-api depends on the wheel `tensorflow`, which cannot live beside tensorflow-cpu, and a client needs
neither. Fields that a message has besides are passed over, as protocol buffers do.

Source: tensorflow_serving/apis/{predict,model}.proto, tensorflow/core/framework/{tensor,tensor_shape,types}.proto.
"""

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from htc_tf.errors import UserError

PREDICT = "/tensorflow.serving.PredictionService/Predict"

# Field: (number, type); "*" means repeated. A map is on the wire a list of entries, and an enum an int32.
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
}
# By TensorFlow's number of the dtype: the field of the values, and NumPy's dtype.
FLOAT, INT, STRING = 1, 3, 7
VALUES = {FLOAT: ("float_val", np.float32), INT: ("int_val", np.int32), STRING: ("string_val", object)}


def declare(messages, package="htc_tf.serving"):
    """Messages written as MESSAGES are -> {name: class}, in a pool of their own, so that TensorFlow's may be there."""
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
    """The request as a message.

    Args:
        model: its name in the server.
        version: a number, or None for the newest.
        inputs: {name: array of float32, int32 or bytes objects}.
        signature: of the model; "" is its default.
    """
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        write_array(request.inputs.add(key=name).value, array)
    return request


def predict_response(outputs):
    """{name: array} -> the response as a message, its values in the fields where TensorFlow Serving writes them."""
    response = PredictResponse()
    for name, array in outputs.items():
        write_array(response.outputs.add(key=name).value, array)
    return response


def read_arrays(named):
    """Named tensors of a message -> {name: array}; strings are objects, bytes each.

    Raises:
        UserError: one is of another dtype than float32, int32 and string.
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
        raise UserError(f"the model's output {name} is of dtype {tensor.dtype}: it is none of htc_tf.export's models")
    field, dtype = VALUES[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = list(getattr(tensor, field))
    # Where values are fewer than the shape says, the last one stands for all that are left out.
    missing = int(np.prod(shape)) - len(values)
    values += missing * (values[-1:] or [b"" if dtype is object else 0])
    array = np.empty(len(values), dtype)
    array[:] = values
    return array.reshape(shape)
