"""The preparation in containers: the image of docker/prepare.Dockerfile and docker/prepare.kubernetes.yaml."""

import configparser
import re
from pathlib import Path

import pytest

from pipelines import coco_to_tfrecord

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def test_the_image_installs_extras_that_exist():
    text = (DOCKER / "prepare.Dockerfile").read_text()
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    wanted = re.search(r"\.\[(.*?)\]", text)[1].split(",")
    assert set(wanted) == {"cpu", "prepare", "dask"} <= set(extras["options.extras_require"])
    train = (DOCKER / "train.Dockerfile.dockerignore").read_text()
    assert (DOCKER / "prepare.Dockerfile.dockerignore").read_text() == train


def test_the_pods_find_each_other():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the file")
    service, scheduler, worker, job = yaml.safe_load_all((DOCKER / "prepare.kubernetes.yaml").read_text())
    assert service["spec"]["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
    (port,) = {entry["port"] for entry in service["spec"]["ports"]}
    for deployment in (scheduler, worker):
        assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    pods = [part["spec"]["template"]["spec"] for part in (scheduler, worker, job)]
    scheduling, working, preparing = ([*map(str, pod["containers"][0]["command"])] for pod in pods)
    address = f"tcp://{service['metadata']['name']}:{port}"
    assert scheduling[:4] == ["python", "-m", "dask", "scheduler"] and scheduling[4:] == [f"--port={port}"]
    assert working[:5] == ["python", "-m", "dask", "worker", address]
    assert preparing[:3] == ["python", "-m", "htc_tf.pipelines.coco_to_tfrecord"]
    _, beam_arguments = coco_to_tfrecord.parse(preparing[3:])
    assert beam_arguments == ["--runner=DaskRunner", f"--dask_client_address={address}"]
    # The workers and the job see the same folder.
    assert pods[1]["volumes"] == pods[2]["volumes"]
    (mount,) = pods[1]["containers"][0]["volumeMounts"]
    assert pods[2]["containers"][0]["volumeMounts"] == [mount]
    paths = [word.partition("=")[2] for word in preparing[3:6]]
    assert all(path.startswith(f"{mount['mountPath']}/") for path in paths)
    image = {container["image"] for pod in pods for container in pod["containers"]}
    assert image == set(re.findall(r"-t (\S+) \.", (DOCKER / "prepare.Dockerfile").read_text()))
