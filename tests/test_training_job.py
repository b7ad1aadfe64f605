"""Training in containers: the image of docker/train.Dockerfile and the Job of docker/train.kubernetes.yaml."""

import configparser
import json
import re
import sys
from pathlib import Path

import pytest

from htc_tf import config, train

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_the_image_installs_what_the_build_needs():
    text = (DOCKER / "train.Dockerfile").read_text()
    (install,) = re.findall(r"^RUN pip install (.*)$", text, re.M)
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    wanted = re.search(r"\.\[\$EXTRA,(.*)\]", install)[1].split(",")
    assert {"gpu", *wanted} <= set(extras["options.extras_require"])
    assert re.search(r"^ARG EXTRA=gpu$", text, re.M) and "-c constraints.txt" in install
    # Everything else stays outside: the virtual environment, records, runs.
    first, *rest = (DOCKER / "train.Dockerfile.dockerignore").read_text().split()
    kept = {line[1:] for line in rest if line.startswith("!")}
    assert first == "*" and all((ROOT / name).exists() for name in kept)
    read = {"constraints.txt", "setup.cfg", "pyproject.toml", extras["metadata"]["license_files"]}
    read |= {extras["metadata"]["long_description"].removeprefix("file: "), "gin", "htc_tf", "pipelines"}
    assert kept == read


@pytest.fixture(scope="module")
def objects():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the Job")
    service, job = yaml.safe_load_all((DOCKER / "train.kubernetes.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    return service, job


def test_the_pods_find_each_other(objects, monkeypatch):
    from htc_tf.cluster import read_cluster

    service, job = objects
    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    workers = job["spec"]["completions"]
    assert job["spec"]["completionMode"] == "Indexed" and job["spec"]["parallelism"] == workers
    # A headless service gives each pod the name HOST.SERVICE; an indexed job calls its hosts JOB-INDEX.
    assert service["spec"]["clusterIP"] == "None" and pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = {entry["port"] for entry in service["spec"]["ports"]}
    assert [entry["containerPort"] for entry in container["ports"]] == [port]
    index, tf_config = container["env"]  # $(INDEX) needs a variable that is defined before
    assert index["name"] == "INDEX" and index["valueFrom"]["fieldRef"]["fieldPath"] == INDEX
    assert tf_config["name"] == "TF_CONFIG"
    for number in range(workers):
        text = tf_config["value"].replace("$(INDEX)", str(number))
        monkeypatch.setenv("TF_CONFIG", text)
        assert read_cluster() == (number, workers, number == 0)
        job_name, service_name = job["metadata"]["name"], service["metadata"]["name"]
        assert json.loads(text)["cluster"]["worker"][number] == f"{job_name}-{number}.{service_name}:{port}"


def test_the_command_of_the_pods(objects, monkeypatch):
    _, job = objects
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    python, option, name, *arguments = container["command"]
    assert (python, option, name) == ("python", "-m", "htc_tf.train")
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    flags = train.parse()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    for path in (flags.train_records, flags.val_records, flags.workdir):
        assert path.startswith(mounts["data"] + "/")
    experiment, _ = config.load([str(ROOT / path) for path in flags.gin_file], flags.gin_param)
    gpus = job["spec"]["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert experiment.batch_size % gpus == 0
    # Each of the workers counts when they end together, and is started again.
    assert pod["restartPolicy"] == "Never" and job["spec"]["backoffLimit"] % job["spec"]["completions"] == 0
    assert (DOCKER / "train.Dockerfile").read_text().count(f"-t {container['image']} ") == 1
