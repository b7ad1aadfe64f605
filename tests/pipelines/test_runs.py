"""The job on several processes: killed and continued, and run by a job server over its real protocol."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipelines import coco_to_tfrecord

ROOT = Path(__file__).resolve().parents[2]
# The command, which blocks at the image that the first argument names.
BLOCKING = """
import sys, time
from pipelines import coco_to_tfrecord, images
read_inside, name = images.read_inside, sys.argv.pop(1)
images.read_inside = lambda root, file_name, *links: (
    time.sleep(600 * (file_name == name)) or read_inside(root, file_name, *links)
)
coco_to_tfrecord.main()
"""
SECONDS = 400  # longest wait for another process, on a busy machine


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Takes the temporary files of killed processes, and those of Beam's job server."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # so that the variable is read again


@pytest.fixture
def words(tiny_data, tmp_path):
    """Flags for the tiny data, in six shards of one image each."""
    (tmp_path / "images").mkdir()
    for path in tiny_data.images.iterdir():
        os.link(path, tmp_path / "images" / path.name)
    flags = {"annotations": tiny_data.annotations, "images": tmp_path / "images", "shards": 6}
    return [f"--{name}={value}" for name, value in flags.items()]


def start(module, *arguments):
    log = subprocess.PIPE if module == "pipelines.coco_to_tfrecord" else subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def wait_for(condition, process):
    """Waits until `condition()` is true, and returns it; fails if the process ends first."""
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_is_continued(words, tmp_path):
    """SIGKILL in the middle of a shard: the rerun gives the same bytes and does not touch the finished shards."""
    coco_to_tfrecord.main([*words, f"--output={tmp_path / 'whole'}"])
    folder = tmp_path / "records"
    coco_to_tfrecord.main([*words, f"--output={folder}"])
    for shard in (3, 4, 5):
        (folder / f"{shard:05d}-of-00006.json").unlink()
    (folder / "dataset_info.json").unlink()
    finished = [folder / f"{shard:05d}-of-00006.{end}" for shard in range(3) for end in ("json", "tfrecord")]
    times = [path.stat().st_mtime_ns for path in finished]

    name = json.loads((folder / "plan" / "00004.jsonl").read_text())["image"]["file_name"]
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKING, name, *words, f"--output={folder}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for(lambda: list(folder.glob("00004-of-00006.tfrecord.tmp-*")), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (folder / "00004-of-00006.json").exists() and not (folder / "dataset_info.json").exists()

    coco_to_tfrecord.main([*words, f"--output={folder}"])
    assert contents(folder) == contents(tmp_path / "whole")
    assert [path.stat().st_mtime_ns for path in finished] == times


def test_a_portable_job_on_a_job_server(words, tmp_path):
    """Beam's job server gets the pipeline as protocol buffers, and sends it to a worker by gRPC."""
    coco_to_tfrecord.main([*words, f"--output={tmp_path / 'here'}"])
    port = tmp_path / "port"
    server = start("apache_beam.runners.portability.local_job_service_main", "--port=0", f"--port_file={port}")
    try:
        address = wait_for(lambda: port.exists() and port.read_text(), server)
        runner = ["--runner=PortableRunner", f"--job_endpoint=localhost:{address}", "--environment_type=LOOPBACK"]
        coco_to_tfrecord.main([*words, f"--output={tmp_path / 'there'}", *runner])
    finally:
        server.kill()
        server.wait()
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
