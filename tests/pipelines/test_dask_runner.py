"""The preparation on a Dask scheduler with worker processes on loopback, and the errors of such a cluster."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

distributed = pytest.importorskip("distributed")

from htc_tf.errors import UserError  # noqa: E402
from pipelines import coco_to_tfrecord, dask_runner, runners  # noqa: E402
from tests.pipelines.waiting import SECONDS, wait_for  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# Makes a worker block at its first image.
BLOCKING = """
import time
from pipelines import images
images.read_inside = lambda *arguments: time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    """start(*words) -> a process of the command `dask`."""
    processes = []

    def start(*words):
        command = [sys.executable, "-m", "dask", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **quiet))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def flags(tiny_data):
    given = {"annotations": tiny_data.annotations, "images": tiny_data.images, "shards": 6}
    return [f"--{name}={value}" for name, value in given.items()]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_worker_loses_nothing(start, flags, tmp_path, capfd):
    """The shards of a worker that dies while it writes one are written by another, with the same bytes."""
    coco_to_tfrecord.main([*flags, f"--output={tmp_path / 'here'}"])
    address, output = tmp_path / "scheduler.json", tmp_path / "there"
    start("scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={address}")
    (tmp_path / "blocking.py").write_text(BLOCKING)
    worker = ("worker", f"--scheduler-file={address}", "--host=127.0.0.1", "--nthreads=1", "--no-nanny")
    wait_for(address.exists)
    blocked = start(*worker, f"--preload={tmp_path / 'blocking.py'}")

    def replace_worker():
        wait_for(lambda: list(output.glob("*.tfrecord.tmp-*")))
        start(*worker)
        blocked.kill()

    thread = threading.Thread(target=replace_worker, daemon=True)
    thread.start()
    capfd.readouterr()
    coco_to_tfrecord.main([*flags, f"--output={output}", "--runner=DaskRunner", f"--dask_scheduler_file={address}"])
    thread.join()
    assert contents(output) == contents(tmp_path / "here")
    shown = capfd.readouterr().err.replace("\r", "\n").splitlines()
    bars = ("files:", "plan:", "check:", "records:")
    notes = [line for line in shown if line.strip() and not line.startswith(bars)]
    assert all("has no workers: waiting for some" in line for line in notes)  # if the job was faster than the worker


@pytest.mark.parametrize(
    "flag, reason",
    [
        ("--dask_client_address=127.0.0.1:1", "127.0.0.1:1: no scheduler answers"),
        ("--dask_client_address=nothing://here", "no scheduler answers: unknown address scheme"),
        ("--dask_scheduler_file=no/such.json", "--dask_scheduler_file no/such.json: no such file"),
        ("--dask_partition_size=0", "--dask_partition_size 0: give a whole number, 1 or more"),
    ],
)
def test_no_scheduler(flags, tmp_path, capsys, flag, reason):
    with pytest.raises(SystemExit) as end:
        words = [*flags, f"--output={tmp_path}", "--runner=DaskRunner", "--dask_connection_timeout=1", flag]
        coco_to_tfrecord.main(words)
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and reason in last


def test_a_worker_without_this_package(start, tmp_path):
    """At its first task it would leave the cluster, and the job would wait for another."""
    address, lacking = tmp_path / "scheduler.json", tmp_path / "lacking.py"
    lacking.write_text("import sys\n\nsys.modules['pipelines'] = None\n")
    start("scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={address}")
    wait_for(address.exists)
    start("worker", f"--scheduler-file={address}", "--host=127.0.0.1", "--no-nanny", f"--preload={lacking}")
    with distributed.Client(scheduler_file=str(address)) as client:
        client.wait_for_workers(1, timeout=SECONDS)
    options = runners.parse_beam(["--runner=DaskRunner", f"--dask_scheduler_file={address}"])
    with pytest.raises(UserError, match=r"the worker tcp://127.0.0.1:\d+ lacks htc_tf: all need the same environment"):
        dask_runner._check_workers(options.view_as(dask_runner.dask_runner.DaskOptions))


def end_with(error):
    """Returns the message for a job that ends with the error."""

    def wait():
        raise error

    with pytest.raises(UserError) as found:
        dask_runner._wait(SimpleNamespace(wait_until_finish=wait))
    return str(found.value)


def test_errors_of_a_cluster():
    assert "4 Dask workers died" in end_with(distributed.KilledWorker("task", None, 3))
    assert "the Dask scheduler ended" in end_with(distributed.comm.CommClosedError("closed"))
    missing = RuntimeError("Error during deserialization of the task graph")
    missing.__cause__ = ModuleNotFoundError("No module named 'pipelines'", name="pipelines")
    assert "lack the module pipelines" in end_with(missing)


def test_a_lost_scheduler_is_no_success():
    job = SimpleNamespace(wait_until_finish=lambda: "DONE", futures=[SimpleNamespace(status="cancelled")])
    with pytest.raises(UserError, match="the Dask scheduler ended"):
        dask_runner._wait(job)


def test_each_shard_is_a_task():
    options = runners.parse_beam(["--runner=dask"])
    runners.check_runner(options)
    assert options.get_all_options()["runner"] == runners.DASK_CLASS
    assert options.view_as(dask_runner.dask_runner.DaskOptions).partition_size is None  # set when the job runs
