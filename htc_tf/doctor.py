"""python -m htc_tf.doctor: prints what an issue report needs: versions, devices, memory, cache, reachable hosts.

It changes nothing, works without TensorFlow too, and prints no credentials. --offline asks no host.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import htc_tf
from htc_tf import command_line, machine, platforms
from htc_tf.errors import EXTRAS, UserError, command, printable

# Packages by what they do here: the required ones, then those of the extras.
REQUIRED = ("numpy", "gin-config", "pycocotools", "pillow", "matplotlib", "protobuf", "grpcio", "safetensors", "pooch")
IMPORTED_AS = {"yaml": "pyyaml"}  # modules whose package has another name
OPTIONAL = {
    IMPORTED_AS.get(name, name).replace("_", "-"): extra
    for name, extra in EXTRAS.items()
    if name not in ("tensorflow", "tf_keras")
}
# The environment variables that change what htc_tf and TensorFlow do.
VARIABLES = re.compile(
    r"HTC_TF_\w+|TF_(CONFIG|USE|ENABLE|XLA|GPU|FORCE|CUDNN|NUM|DETERMINISTIC)\w*|(XLA|CUDA|NVIDIA|OMP|MKL|KMP|ONEDNN)_\w+"
    r"|(https?|no|all)_proxy|XDG_CACHE_HOME|REQUESTS_CA_BUNDLE|SSL_CERT_FILE|LD_PRELOAD|PYTHONPATH|MALLOC_\w+",
    re.IGNORECASE,
)
SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
TIMEOUT = (3, 5)  # seconds until a connection, and until an answer begins
PROBE_SECONDS = 300  # importing TensorFlow from a slow disk takes minutes


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.doctor", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="do not ask whether the hosts of public weights answer")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return parser.parse_args()


def version_of(name):
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def list_packages():
    """Returns {package: version}; an absent package of an extra names the extra."""
    found = {name: version_of(name) or "missing: `make env` installs it" for name in REQUIRED}
    return found | {name: version_of(name) or f"not installed (extra {extra})" for name, extra in OPTIONAL.items()}


def describe_lane():
    """Returns the TensorFlow that belongs to this Python, and whether it is the installed one."""
    python = sys.version_info[:2]
    wanted = platforms.tensorflow_version(python)
    named = {name: version_of(name) for name in ("tensorflow", "tensorflow-cpu")}
    installed = ", ".join(f"{name} {version}" for name, version in named.items() if version)
    about = f"TensorFlow {wanted} for Python 3.{python[1]}"
    if not installed:
        return f"{about}: not installed (extra cpu or gpu)"
    fits = wanted in named.values()
    return f"{about}: {installed}" + ("" if fits else ", which htc_tf is not tested with")


def list_variables():
    """Returns the environment variables that matter, without what could be a secret."""
    found = {}
    for name, value in sorted(os.environ.items()):
        if VARIABLES.fullmatch(name):
            secret = SECRET.search(name) or name == "TF_CONFIG"
            found[name] = "(set)" if secret else without_credentials(value)
    return found


def without_credentials(text):
    """Returns a text without the user and password of the addresses in it."""
    text = re.sub(r"(?<=//)[^/\s]*@", "", text)  # scheme://user:password@host
    return re.sub(r"^[^/\s]*:[^/\s]*@", "", text)  # user:password@host


def probe_tensorflow():
    """Returns what `tensorflow_probe` found out, or {"TensorFlow": why it does not work}."""
    words = [sys.executable, "-m", "htc_tf.tensorflow_probe"]
    # -m finds the same htc_tf from any folder.
    path = os.pathsep.join(filter(None, [str(Path(htc_tf.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    variables = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": path}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PROBE_SECONDS, env=variables)
        if done.returncode < 0:
            return {"TensorFlow": f"its process ended with signal {-done.returncode}"}
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"TensorFlow": f"did not answer in {PROBE_SECONDS} seconds"}
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return {"TensorFlow": f"does not work: {without_credentials(last)}"}


def list_codecs(of_tensorflow):
    """Returns {format: which library reads it}: of photos on disk, of videos, and in an exported model."""
    found = {}
    try:
        from PIL import features

        for name, feature in (("JPEG", "jpg"), ("WebP", "webp"), ("AVIF", "avif"), ("TIFF", "libtiff")):
            found[name] = f"Pillow, {features.version(feature) or 'yes'}" if features.check(feature) else "no"
    except ImportError:
        found["images"] = "no: Pillow is missing"
    for name, package in (("HEIC", "pillow-heif"), ("GeoTIFF windows", "rasterio"), ("videos", "av")):
        found[name] = f"{package} {version}" if (version := version_of(package)) else f"no (extra {OPTIONAL[package]})"
    return found | {f"{name} in an exported model": text for name, text in of_tensorflow.items()}


def list_cache():
    """Returns {name: value}: the folder of downloaded weights, its free space and its files."""
    from htc_tf.weights.download import TEMPORARY, cache_folder

    folder = cache_folder("weights")
    files = sorted(path for path in folder.glob("*") if path.is_file())
    whole = [path for path in files if not path.name.startswith(TEMPORARY)]
    size = sum(path.stat().st_size for path in files)
    found = {"folder": str(folder), "disk": machine.describe_disk(folder)}
    found["files"] = f"{len(whole)}, {len(files) - len(whole)} unfinished, {machine.format_bytes(size)}"
    return found | {path.name: machine.format_bytes(path.stat().st_size) for path in whole}


def list_hosts():
    """Returns {host: how it answered}, one request per host of public weights, all at once."""
    from htc_tf.weights.public_weights import WEIGHTS

    addresses = [address for weights in WEIGHTS.values() for address in weights.addresses]
    by_host = {urlsplit(address).hostname: address for address in reversed(addresses)}
    with ThreadPoolExecutor(len(by_host)) as threads:
        return dict(zip(by_host, threads.map(ask, by_host.values()), strict=True))


def ask(address):
    """Returns how a host answers to a request for the head of a file."""
    import requests

    from htc_tf.request_errors import describe

    started = time.perf_counter()
    try:
        # As for a download: proxies and certificates are those of the environment.
        answer = requests.head(address, timeout=TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        return describe(error)
    good = answer.status_code < 400
    return f"{'answers' if good else 'refuses'} (HTTP {answer.status_code}, {time.perf_counter() - started:.1f} s)"


def attempt(check):
    """Returns what a check returns, or a row that says why it cannot be made: the report is printed in any case."""
    try:
        return check()
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {without_credentials(str(error))}"}


def diagnose(offline):
    """Returns the report, {section: {name: value}}; all values are strings."""
    probed = probe_tensorflow()
    codecs = probed.pop("codecs", {})
    folders = {"this folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    versions = {"htc_tf": htc_tf.__version__, "lane": describe_lane(), **probed.pop("versions", {})}
    if offline or os.environ.get("HTC_TF_OFFLINE", "0") not in ("", "0"):
        hosts = {"not asked": "--offline" if offline else "HTC_TF_OFFLINE is set"}
    else:
        hosts = attempt(list_hosts)
    return {
        "versions": versions,
        "system": machine.describe_system(),
        "processor": machine.describe_processor(),
        "memory": machine.describe_memory(),
        "disk": {name: machine.describe_disk(folder) for name, folder in folders.items()},
        "TensorFlow": {**probed, "NVIDIA driver": machine.describe_driver()},
        "codecs": attempt(lambda: list_codecs(codecs)),
        "packages": list_packages(),
        "environment variables": list_variables(),
        "cache of public weights": attempt(list_cache),
        "hosts of public weights": hosts,
    }


def tabulate(report):
    """Returns the report as a table of plain text, in which every value is one line."""
    width = max(len(name) for section in report.values() for name in section)
    lines = []
    for title, rows in report.items():
        lines += ["", title, "-" * len(title)]
        lines += [f"{name:<{width}}  {printable(value)}" for name, value in rows.items()] or ["none"]
    return "\n".join(lines[1:])


@command
def main():
    flags = parse()
    report = diagnose(flags.offline)
    print(json.dumps(report, indent=2) if flags.json else tabulate(report))


if __name__ == "__main__":
    main()
