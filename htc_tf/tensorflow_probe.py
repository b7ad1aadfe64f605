"""python -m htc_tf.tensorflow_probe: prints as JSON what TensorFlow has and can do on this machine.

`htc_tf.doctor` runs it in a process of its own, because TensorFlow can end a process: without AVX, with a broken CUDA.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import time

import numpy as np


def attempt(check):
    """Returns what a check returns, or its error in one line."""
    try:
        return check()
    except Exception as error:
        return f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def list_devices(tf):
    """Returns each device by name, with what TensorFlow says about a GPU."""
    lines = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
        known = [str(details[name]) for name in ("device_name", "compute_capability") if name in details]
        lines.append(f"{device.device_type} {' '.join(known)}".strip())
    return ", ".join(lines)


def compile_product(tf, dtype):
    """Multiplies two matrices of ones in a computation that XLA compiles."""
    ones = tf.ones([64, 64], dtype)
    started = time.perf_counter()
    product = tf.function(lambda x: x @ x, jit_compile=True)(ones)
    if not np.array_equal(np.asarray(tf.cast(product, tf.float32)), np.full([64, 64], 64.0)):
        return "computes a wrong product"
    return f"works ({time.perf_counter() - started:.1f} s)"


def list_codecs(tf):
    """Returns {name: works or why not}: TensorFlow's decoders, which an exported model uses."""
    pixels = tf.zeros([8, 8, 3], tf.uint8)
    encoders = {"JPEG": tf.io.encode_jpeg, "PNG": tf.io.encode_png}
    return {
        name: attempt(lambda encode=encode: "works" if tf.io.decode_image(encode(pixels)).shape == (8, 8, 3) else "no")
        for name, encode in encoders.items()
    }


def describe_build(tf):
    """Returns the CUDA and cuDNN that TensorFlow was built with."""
    info = tf.sysconfig.get_build_info()
    return (
        ", ".join(f"{name[:-8]} {info[name]}" for name in ("cuda_version", "cudnn_version") if name in info) or "none"
    )


def describe_onednn():
    """Returns whether TensorFlow computes convolutions on the CPU by oneDNN, and why not."""
    from htc_tf.ops.convolution import has_onednn

    if has_onednn():
        return "on"
    setting = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    return f"off (TF_ENABLE_ONEDNN_OPTS={setting})" if setting else "off, by default on this processor"


def probe():
    """Returns {name: text or {name: text}}."""
    import tensorflow as tf

    keras = importlib.import_module(tf.keras.Model.__module__.partition(".")[0])
    return {
        "versions": {"TensorFlow": tf.__version__, "tf.keras": f"{keras.__name__} {keras.__version__}"},
        "devices": attempt(lambda: list_devices(tf)),
        "built with CUDA": attempt(lambda: describe_build(tf)),
        "oneDNN": attempt(describe_onednn),
        "XLA, float32": attempt(lambda: compile_product(tf, tf.float32)),
        "XLA, bfloat16": attempt(lambda: compile_product(tf, tf.bfloat16)),
        "codecs": list_codecs(tf),
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        found = probe()
    json.dump(found, sys.stdout)
