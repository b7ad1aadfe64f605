"""A worker process that is killed, as when memory runs out, ends the job; workers end with their job."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from htc_tf.errors import UserError
from tests.pipelines.waiting import SECONDS, wait_for
from tests.slow import slow

ROOT = Path(__file__).resolve().parents[2]


def find_workers(process):
    """Returns the process ids of a job's workers; it has other children too, such as the filter of its messages."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(word) for thread in threads for word in thread.read_text().split()]
    return [pid for pid in pids if is_alive(pid) and b"pipelines.worker_main" in read_command(pid)]


def read_command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(tiny_data, tmp_path):
    """start() -> (the job, on two worker processes, and their process ids). Its temporary files are in tmp_path/tmp."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("no /proc to find the workers in")
    jobs, temporary = [], tmp_path / "tmp"
    temporary.mkdir()

    def start():
        flags = {"annotations": tiny_data.annotations, "images": tiny_data.images, "output": tmp_path / "records"}
        flags |= {"shards": 6, "direct_running_mode": "multi_processing", "direct_num_workers": 2}
        words = [sys.executable, "-m", "pipelines.coco_to_tfrecord", *(f"--{k}={v}" for k, v in flags.items())]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ | {"TMPDIR": str(temporary)}}
        # A process group of its own gets Ctrl-C, which a program that runs in the background ignores.
        group = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        jobs.append(subprocess.Popen(words, cwd=ROOT, text=True, **pipes, **group))

        def workers():
            assert jobs[-1].poll() is None, jobs[-1].communicate()
            found = find_workers(jobs[-1])
            return found if len(found) == 2 else None

        return jobs[-1], wait_for(workers)

    yield start
    for job in jobs:
        job.kill()
        job.communicate()


def test_a_killed_worker_ends_the_job(start, tmp_path):
    job, workers = start()
    os.kill(workers[0], signal.SIGKILL)
    errors = job.communicate(timeout=SECONDS)[1]
    assert job.returncode == 2
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: a worker process was killed by SIGKILL; ") and "fewer --direct_num_workers" in last
    wait_for(lambda: not any(map(is_alive, workers)))
    assert not (tmp_path / "records" / "dataset_info.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, *slow(signal.SIGTERM)])
def test_a_signal_ends_the_job_and_a_suspended_worker(start, tmp_path, number):
    job, workers = start()
    os.kill(workers[0], signal.SIGSTOP)
    if number == signal.SIGINT:
        os.killpg(job.pid, number)  # Ctrl-C
    else:
        job.send_signal(number)
    errors = job.communicate(timeout=SECONDS)[1]
    assert job.returncode == 130
    assert "Traceback" not in errors and errors.splitlines()[-1] == "interrupted" and errors.count("interrupted") == 1
    wait_for(lambda: not any(map(is_alive, workers)))
    assert not list((tmp_path / "tmp").iterdir()) and not (tmp_path / "records" / "lock").exists()


def test_workers_end_with_a_killed_job(start, tmp_path):
    """They print nothing, neither while they import Beam nor when the connection is lost, and remove its folder."""
    job, workers = start()
    wait_for(lambda: len(list((tmp_path / "tmp").glob("htc_tf-progress-*/*.progress"))) >= 2)
    job.kill()
    wait_for(lambda: not any(map(is_alive, workers)))
    assert not list((tmp_path / "tmp").glob("htc_tf-*"))
    lines = job.communicate(timeout=SECONDS)[1].replace("\r", "\n").splitlines()
    assert not [
        line for line in lines if line.strip() and not line.startswith(("files:", "plan:", "check:", "records:"))
    ]


def test_no_worker_without_a_shard(monkeypatch):
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

    from pipelines import shards

    class Started(Exception):
        pass

    def start(options):
        raise Started(options.view_as(DirectOptions).direct_num_workers)

    monkeypatch.setattr(shards.beam, "Pipeline", start)
    monkeypatch.setattr(shards.os, "cpu_count", lambda: 5)
    for asked, expected in ((None, 1), (1, 1), (0, 3), (100_000, 3)):
        options = PipelineOptions([] if asked is None else [f"--direct_num_workers={asked}"])
        with pytest.raises(Started, match=f"^{expected}$"):
            shards.run(shards.Job(None, "", None, "", os.devnull), [4, 5, 6], options)


@pytest.mark.parametrize(
    "text",
    ["UserError: a.png is missing [while running 'WriteShards']", r"Traceback ...\nUserError: a.png is missing\n'"],
)
def test_a_user_error_that_the_runner_reports_as_text(monkeypatch, text):
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines import shards

    def start(options):
        raise RuntimeError(text)

    monkeypatch.setattr(shards.beam, "Pipeline", start)
    with pytest.raises(UserError, match=r"^a\.png is missing$"):
        shards.run(shards.Job(None, "", None, "", os.devnull), [4], PipelineOptions([]))


def test_what_ended_a_worker():
    from pipelines import workers

    assert "was killed by SIGKILL; is memory exhausted?" in workers._explain_end(-signal.SIGKILL)
    assert "killed by signal 40;" in workers._explain_end(-40)
    assert "ended with status 2, its message is above" in workers._explain_end(2)
