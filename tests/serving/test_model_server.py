"""The real TensorFlow Serving with the files of docker/: `tensorflow_model_server` on the PATH, or by `docker`.

Skipped on a machine with neither.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from htc_tf.errors import UserError
from htc_tf.inference.exported import LocalClient
from htc_tf.serving.grpc_client import GrpcClient
from htc_tf.serving.rest_client import RestClient

DOCKER = Path(__file__).resolve().parents[2] / "docker"
START = 120  # seconds


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def binary_command(export, ports, arguments, folder):
    """Returns the command of tensorflow_model_server, with the configuration's paths adapted to this machine."""
    shutil.copytree(DOCKER, folder / "config")
    models = folder / "config" / "models.config"
    models.write_text(models.read_text().replace("/models/htc", str(export)))
    arguments = [argument.replace("=/config/", f"={folder}/config/") for argument in arguments]
    return ["tensorflow_model_server", f"--port={ports[0]}", f"--rest_api_port={ports[1]}", *arguments]


def docker_command(export, ports, arguments, image):
    published = [f"--publish=127.0.0.1:{port}:{inside}" for port, inside in zip(ports, (8500, 8501), strict=True)]
    mounted = [f"--volume={export}:/models/htc:ro", f"--volume={DOCKER}:/config:ro"]
    return ["docker", "run", "--rm", *published, *mounted, image, *arguments]


def docker_has(image):
    """True if the Docker engine answers, and has the image or can pull it."""
    for command in (["docker", "info"], ["docker", "pull", "--quiet", image]):
        try:
            done = subprocess.run(command, capture_output=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode:
            return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0
    return True


@pytest.fixture(scope="module")
def server(toy_export, tmp_path_factory):
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["htc"]
    batched = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]["htc"]["command"]
    ports, folder = (free_port(), free_port()), tmp_path_factory.mktemp("server")
    if shutil.which("tensorflow_model_server"):
        command = binary_command(toy_export, ports, batched, folder)
    elif shutil.which("docker") and docker_has(service["image"]):
        command = docker_command(toy_export, ports, batched, service["image"])
    else:
        pytest.skip("neither tensorflow_model_server nor Docker with TensorFlow Serving's image on this machine")
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    place = SimpleNamespace(grpc=f"127.0.0.1:{ports[0]}", rest=f"127.0.0.1:{ports[1]}")
    try:
        end = time.monotonic() + START
        while "AVAILABLE" not in fetch(f"http://{place.rest}/v1/models/htc"):
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        yield place
    finally:
        process.terminate()
        process.wait(timeout=60)


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return ""


def test_outputs_equal_the_saved_models(server, toy_export, images):
    encoded = [(images / name).read_bytes() for name in ("a.png", "text.png", "b.png")]
    wanted = LocalClient(toy_export).predict(encoded)
    for place in (RestClient(server.rest, "htc", None, 60), GrpcClient(server.grpc, "htc", 3, 60)):
        found = place.predict(encoded)
        assert set(found) == set(wanted)
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype and found[name].tolist() == array.tolist(), name


def test_missing_models_are_named(server, images):
    encoded = [(images / "a.png").read_bytes()]
    for place in (RestClient(server.rest, "cascade", None, 60), GrpcClient(server.grpc, "htc", 9, 60)):
        with pytest.raises(UserError, match="is ready there"):
            place.predict(encoded)


def test_status_and_metrics(server):
    (version,) = json.loads(fetch(f"http://{server.rest}/v1/models/htc"))["model_version_status"]
    assert (version["version"], version["state"]) == ("3", "AVAILABLE")
    assert ":tensorflow:" in fetch(f"http://{server.rest}/monitoring/prometheus/metrics")
