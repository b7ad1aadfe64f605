"""An answer as TensorFlow Serving would send it, to count its bytes: REST's JSON and gRPC's message.

Before it: a model's output arrays. After it: mode `serving` tells the sizes. REST's text is laid out as the server's
own writer does it (tensorflow_serving/util/json_tensor.cc: rows, arrays on one line, objects on several), numbers with
six digits where these give the same float32 and with nine where not.
"""

import base64
import json

import numpy as np

from htc_tf.serving.messages import predict_response

INDENT = 4


def grpc_bytes(outputs):
    """{name: array [B, ...]} -> the serialised PredictResponse."""
    return predict_response(outputs).SerializeToString()


def rest_bytes(outputs):
    """{name: array [B, ...]} -> the JSON of the answer to a request of rows ("instances")."""
    rows = [write_row({name: array[row] for name, array in outputs.items()}) for row in range(batch(outputs))]
    return ('{\n    "predictions": [\n' + ",\n".join(rows) + "\n    ]\n}").encode()


def batch(outputs):
    return len(next(iter(outputs.values())))


def write_row(row):
    inner = " " * (3 * INDENT)
    fields = [f"{inner}{json.dumps(name)}: {write_value(value, name, 3)}" for name, value in row.items()]
    return " " * (2 * INDENT) + "{\n" + ",\n".join(fields) + "\n" + " " * (2 * INDENT) + "}"


def write_value(value, name, depth):
    if isinstance(value, np.ndarray):
        return "[" + ", ".join(write_value(part, name, depth + 1) for part in value) + "]"
    if isinstance(value, bytes):
        if not name.endswith("_bytes"):
            return json.dumps(value.decode(), ensure_ascii=False)
        encoded = base64.b64encode(value).decode()
        return f'{{\n{" " * (depth + 1) * INDENT}"b64": "{encoded}"\n{" " * depth * INDENT}}}'
    return write_float(value) if isinstance(value, np.floating) else str(value)


def write_float(value):
    """float32 -> its text."""
    if not np.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    short = f"{value:.6g}"
    text = short if np.float32(short) == value else f"{value:.9g}"
    return text if "." in text or "e" in text else f"{text}.0"
