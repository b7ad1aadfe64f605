"""Files of docker/: each is parsed with the fields of TensorFlow Serving's or Docker Compose's schema."""

import re
import subprocess
from pathlib import Path

import pytest
from google.protobuf import text_format

from htc_tf.serving.messages import declare

DOCKER = Path(__file__).resolve().parents[2] / "docker"

# tensorflow_serving/config/{model_server_config,monitoring_config}.proto, sources/storage_path/
# file_system_storage_path_source.proto, servables/tensorflow/session_bundle_config.proto.
SCHEMA = {
    "Specific": {"versions": (1, "*int64")},
    "Latest": {"num_versions": (1, "uint32")},
    "Policy": {"latest": (100, "Latest"), "specific": (102, "Specific")},
    "Label": {"key": (1, "string"), "value": (2, "int64")},
    "ModelConfig": {
        "name": (1, "string"),
        "base_path": (2, "string"),
        "model_platform": (4, "string"),
        "model_version_policy": (7, "Policy"),
        "version_labels": (8, "*Label"),
    },
    "ModelConfigList": {"config": (1, "*ModelConfig")},
    "ModelServerConfig": {"model_config_list": (1, "ModelConfigList")},
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "Int64Value": {"value": (1, "int64")},
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "allowed_batch_sizes": (6, "*int64"),
        "pad_variable_length_inputs": (7, "bool"),
    },
}
# tensorflow_serving/model_servers/main.cc
FLAGS = {
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "monitoring_config_file",
    "rest_api_timeout_in_ms",
    "enable_batching",
    "batching_parameters_file",
}
CLASSES = declare(SCHEMA, "htc_tf.docker")


def read_text(name, kind):
    return text_format.Parse((DOCKER / name).read_text(), CLASSES[kind]())


def read_yaml(name):
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the compose files")
    return yaml.safe_load((DOCKER / name).read_text())


def flags(service):
    return dict(re.fullmatch(r"--(\w+)(?:=(.+))?", argument).groups() for argument in service["command"])


def test_an_unknown_field_is_an_error():
    with pytest.raises(text_format.ParseError, match="max_batch_sizes"):
        text_format.Parse("max_batch_sizes { value: 4 }", CLASSES["BatchingParameters"]())


def test_the_model_has_the_clients_default_name():
    (model,) = read_text("models.config", "ModelServerConfig").model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("htc", "/models/htc", "tensorflow")
    commented = re.search(r"# (model_version_policy.*)", (DOCKER / "models.config").read_text())[1]
    policy = text_format.Parse(commented, CLASSES["ModelConfig"]()).model_version_policy
    assert list(policy.specific.versions) == [1, 2]


def test_batches_have_allowed_sizes():
    batching = read_text("batching_parameters.txt", "BatchingParameters")
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) == [1, 4] and sizes[-1] == batching.max_batch_size.value
    assert batching.num_batch_threads.value >= 1 and batching.max_enqueued_batches.value >= 1


def test_prometheus_reads_where_the_server_writes():
    monitoring = read_text("monitoring.config", "MonitoringConfig").prometheus_config
    (job,) = read_yaml("prometheus.yaml")["scrape_configs"]
    assert monitoring.enable and monitoring.path == job["metrics_path"]
    (service, _), (targets,) = next(iter(read_yaml("compose.yaml")["services"].items())), job["static_configs"]
    assert targets["targets"] == [f"{service}:8501"]


@pytest.mark.parametrize("override", [None, "compose.gpu.yaml"])
def test_compose(override):
    services = read_yaml("compose.yaml")["services"]
    service = services["htc"]
    if override:
        gpu = read_yaml(override)["services"]["htc"]
        assert set(gpu) == {"image", "command", "deploy"}
        assert gpu["image"] == service["image"] + "-gpu"
        assert flags(service).items() <= flags(gpu).items()
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service |= gpu
    given = flags(service)
    assert set(given) <= FLAGS and ("enable_batching" in given) == (override is not None)
    mounted = dict(volume.split(":/")[::-1] for volume in service["volumes"])
    assert set(mounted) == {"models/htc:ro", "config:ro"} and mounted["config:ro"] == "."
    for path in filter(None, given.values()):
        if not path.isdigit():
            folder, name = path.rsplit("/", 1)
            assert folder == "/config" and (DOCKER / name).is_file()
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert (DOCKER / services["prometheus"]["volumes"][0].split(":")[0]).is_file()


def test_the_health_check_calls_the_server(fake_server):
    program, *arguments = read_yaml("compose.yaml")["services"]["htc"]["healthcheck"]["test"][1:]
    script = arguments[-1].replace("127.0.0.1/8501", fake_server.rest.replace(":", "/"))
    assert fake_server.rest.split(":")[1] in script
    for model, status in (("htc", 0), ("cascade", 1)):
        asked = script.replace("/v1/models/htc", f"/v1/models/{model}")
        done = subprocess.run([program, *arguments[:-1], asked], capture_output=True, timeout=20)
        assert done.returncode == status, done.stderr
