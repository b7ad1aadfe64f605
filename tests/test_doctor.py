"""htc-tf doctor: the report's sections, what it says where something is missing, and no credentials in it."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from htc_tf import doctor, machine, tensorflow_probe
from htc_tf.ops import convolution

CPUINFO = """processor\t: 0
model name\t: Example Processor @ 2.00GHz
flags\t\t: fpu avx2 fma avx512f avx512_bf16 amx_bf16
"""


def test_the_report_in_a_process_of_its_own(tmp_path):
    """As a user runs it, with a proxy that has a password: every section, TensorFlow's too, and no secret."""
    command = [sys.executable, "-m", "htc_tf.doctor", "--json", "--offline"]
    variables = {**os.environ, "HTC_TF_CACHE": str(tmp_path), "HTTPS_PROXY": "http://user:pass%20word@proxy:3128"}
    variables |= {"TF_VAR_database": "hidden-1", "CUDA_API_KEY": "hidden-2", "HTTP_PROXY": "user:password@proxy:3128"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert not re.search("pass(?!es=)|hidden", done.stdout)  # `make test` sets XLA_FLAGS, which name passes
    report = json.loads(done.stdout)
    assert report["TensorFlow"]["XLA, float32"].startswith("works")
    assert report["TensorFlow"]["XLA, bfloat16"].startswith("works")
    assert "CPU" in report["TensorFlow"]["devices"]
    assert report["codecs"]["JPEG in an exported model"] == report["codecs"]["PNG in an exported model"] == "works"
    assert report["versions"]["tf.keras"].split()[0] in ("keras", "tf_keras")
    assert report["environment variables"]["HTTPS_PROXY"] == "http://proxy:3128"
    assert report["environment variables"]["HTTP_PROXY"] == "proxy:3128"
    assert report["environment variables"]["CUDA_API_KEY"] == "(set)"
    assert report["cache of public weights"]["folder"] == str(tmp_path / "weights")
    assert report["hosts of public weights"] == {"not asked": "--offline"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "its process ended with signal 4"),
        ("raise ImportError('libfoo at //user:word@host')", "does not work: ImportError: libfoo at //host"),
    ],
)
def test_tensorflow_that_ends_its_process_is_reported(code, message, monkeypatch):
    run = subprocess.run
    monkeypatch.setattr(doctor.subprocess, "run", lambda words, **options: run([words[0], "-c", code], **options))
    assert doctor.probe_tensorflow() == {"TensorFlow": message}


@pytest.mark.parametrize(
    ("used", "setting", "expected"),
    [
        (True, None, "on"),
        (False, "0", "off (TF_ENABLE_ONEDNN_OPTS=0)"),
        (False, None, "off, by default on this processor"),
    ],
)
def test_onednn_is_reported_as_tensorflow_uses_it(used, setting, expected, monkeypatch):
    monkeypatch.setattr(convolution, "has_onednn", lambda: used)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if setting:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", setting)
    assert tensorflow_probe.describe_onednn() == expected


def test_a_check_that_fails_is_a_row():
    assert doctor.attempt(lambda: 1 // 0) == {"error": "ZeroDivisionError: integer division or modulo by zero"}
    assert tensorflow_probe.attempt(lambda: 1 // 0).startswith("fails: ZeroDivisionError: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:secret@proxy:80", "http://proxy:80"),
        ("https://token@host/path", "https://host/path"),
        ("user:secret@proxy:80", "proxy:80"),
        ("no proxy", "no proxy"),
        ("localhost,127.0.0.1", "localhost,127.0.0.1"),
        ("--xla_flag=a@b", "--xla_flag=a@b"),
    ],
)
def test_credentials_are_left_out(text, expected):
    assert doctor.without_credentials(text) == expected


def test_the_processor(monkeypatch):
    monkeypatch.setattr(machine, "read", {"/proc/cpuinfo": CPUINFO, "/sys/fs/cgroup/cpu.max": "150000 100000"}.get)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    found = machine.describe_processor()
    assert found["model"] == "Example Processor @ 2.00GHz"
    assert found["has"] == "AVX2, FMA, AVX-512, AVX-512 bf16, AMX bf16"
    assert found["lacks"] == "AVX-512 VNNI, AMX int8"
    assert found["cores"].endswith("of which the control group grants 1.5")
    monkeypatch.setattr(machine, "read", lambda path: "")
    monkeypatch.setattr(machine, "ask", lambda *words: "")
    assert machine.describe_processor()["has"] == machine.describe_processor()["lacks"] == "unknown"


def test_memory_and_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.process_memory, "available_memory", lambda: 3_210_000_000)
    monkeypatch.setattr(machine, "read", {"/proc/meminfo": "MemTotal:   8000000 kB\n"}.get)
    assert machine.describe_memory() == {"available": "3.2 GB", "of the machine": "8.2 GB"}
    monkeypatch.setattr(machine.process_memory, "available_memory", lambda: None)
    assert machine.describe_memory()["available"] == "unknown"
    assert re.fullmatch(r"[\d.]+ [GM]B free", machine.describe_disk(tmp_path / "not" / "yet"))


def test_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HTC_TF_CACHE", str(tmp_path))
    assert doctor.list_cache()["files"] == "0, 0 unfinished, 0.0 MB"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pth").write_bytes(bytes(2_500_000))
    (tmp_path / "weights" / "tmp123").write_bytes(bytes(500_000))
    found = doctor.list_cache()
    assert found["files"] == "1, 1 unfinished, 3.0 MB" and found["a.pth"] == "2.5 MB" and "tmp123" not in found


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200 if self.path == "/there" else 403)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def test_hosts(monkeypatch, free_addresses):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert re.fullmatch(r"answers \(HTTP 200, [\d.]+ s\)", doctor.ask(f"{address}/there"))
        assert re.fullmatch(r"refuses \(HTTP 403, [\d.]+ s\)", doctor.ask(f"{address}/elsewhere"))
    finally:
        server.shutdown()
        server.server_close()
    (nobody,) = free_addresses(1)
    assert doctor.ask(f"http://{nobody}/") == "no connection (Connection refused)"
    monkeypatch.setenv("http_proxy", f"http://user:secret@{nobody}")
    assert doctor.ask("http://example.invalid/") == "no connection to the proxy (Connection refused)"


def test_every_host_of_the_table_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(doctor, "ask", lambda address: asked.append(address) or "answers")
    found = doctor.list_hosts()
    assert len(asked) == len(found) > 3 and "download.openmmlab.com" in found and set(found.values()) == {"answers"}


def test_the_table_has_one_line_per_value():
    text = doctor.tabulate({"one": {"name": "a\nb", "longer name": "c"}, "two": {}})
    assert text == "one\n---\nname         a\\nb\nlonger name  c\n\ntwo\n---\nnone"
