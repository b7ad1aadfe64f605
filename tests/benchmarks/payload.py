"""Answers as TensorFlow Serving sends them, REST's JSON and gRPC's message, and the bytes of each of their parts.

The JSON is laid out as the server's own writer does it (tensorflow_serving/util/json_tensor.cc): rows, arrays on one
line, objects on several, numbers with six digits where these give the same float32 and with nine where they do not.
"""

import base64
import json

import numpy as np

from htc_tf.serving.messages import PredictResponse, write_array

INDENT = 4


def run(flags):
    """Measures requests to an export; the details hold the bytes of all but the masks, then of each other output."""
    from htc_tf.benchmark import load_images, measure_serving
    from htc_tf.inference.exported import LocalClient

    model = LocalClient(flags.export)
    answers = [model.predict([image]) for image in load_images(flags)]
    measurement = measure_serving(flags)
    objects = float(np.mean([answer["num_detections"] for answer in answers]))
    return measurement._replace(details=measurement.details | {"objects per image": objects, **weigh(answers)})


def weigh(answers):
    """Returns {part: mean bytes by REST and by gRPC} of answers to single images."""
    from htc_tf.inference.exported_outputs import REQUIRED

    parts = {"answer": [name for name in answers[0] if name in REQUIRED]}
    parts |= {name: [name] for name in sorted(answers[0]) if name not in REQUIRED}

    def mean_bytes(write, names):
        return round(np.mean([len(write({name: answer[name] for name in names})) for answer in answers]))

    return {
        part: {"rest_bytes": mean_bytes(rest_bytes, names), "grpc_bytes": mean_bytes(grpc_bytes, names)}
        for part, names in parts.items()
    }


def predict_response(outputs):
    """Returns a PredictResponse of {name: array}, with the values in the fields that TensorFlow Serving uses."""
    response = PredictResponse()
    for name, array in outputs.items():
        write_array(response.outputs.add(key=name).value, array)
    return response


def grpc_bytes(outputs):
    """Returns the serialized PredictResponse of {name: array [B, ...]}."""
    return predict_response(outputs).SerializeToString()


def rest_bytes(outputs):
    """Returns the JSON of {name: array [B, ...]}, the answer to a request of rows ("instances")."""
    count = len(next(iter(outputs.values())))
    rows = [write_row({name: array[row] for name, array in outputs.items()}) for row in range(count)]
    return ('{\n    "predictions": [\n' + ",\n".join(rows) + "\n    ]\n}").encode()


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
    """Returns the text of a float32."""
    if not np.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    short = f"{value:.6g}"
    text = short if np.float32(short) == value else f"{value:.9g}"
    return text if "." in text or "e" in text else f"{text}.0"
