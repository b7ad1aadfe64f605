"""Beam's flags and the choice of a runner: each mistake is one line. No runner runs here."""

import sys

import grpc
import pytest

from htc_tf.errors import UserError
from pipelines import runners


def refuse(*words):
    """Returns the message for Beam's flags that must be refused."""
    with pytest.raises(UserError) as error:
        runners.check_runner(runners.parse_beam(list(words)))
    return str(error.value)


def test_the_default_runner():
    options = runners.parse_beam([])
    assert options.get_all_options()["runner"] == "FnApiRunner"
    runners.check_runner(options)


def test_a_misspelt_runner():
    line = refuse("--runner=FlnkRunner")
    assert line.startswith("--runner FlnkRunner: no such runner") and "FlinkRunner" in line and "DaskRunner" in line
    assert "Test" not in line
    assert "no_such_package" in refuse("--runner=no_such_package.Runner")
    for name in ("pipelines.runners.Runner", "os.system", "../../runner"):
        assert "no such runner" in refuse(f"--runner={name}")


@pytest.mark.parametrize("name", ["DaskRunner", "dask", runners.BEAMS_DASK_CLASS])
@pytest.mark.parametrize("package", ["dask", "distributed"])
def test_dask_is_not_installed(monkeypatch, name, package):
    monkeypatch.delitem(sys.modules, "pipelines.dask_runner", raising=False)
    if package == "distributed":
        pytest.importorskip("dask")
    monkeypatch.setitem(sys.modules, package, None)  # its import fails
    expected = f"--runner DaskRunner needs the package {package}: `pip install 'htc_tf[dask]'` brings it"
    assert refuse(f"--runner={name}", "--dask_client_address=tcp://scheduler:8786") == expected


@pytest.mark.parametrize(
    "words, line",
    [
        (
            "--dask_client_address=a:1",
            "--dask_client_address is for --runner=DaskRunner, but the runner is",
        ),
        (
            "--runner=spark --direct_num_workers 8",
            "--direct_num_workers is for --runner=FnApiRunner, but the",
        ),
        ("--flink_master=a:8081", "--flink_master is for --runner=FlinkRunner, but the runner is FnApiRunner"),
        ("--num_workers=3", "--num_workers is for cloud runners; on this machine use --direct_running_mode"),
        (
            "--direct_num_workers=4",
            "--direct_num_workers 4 has no effect in one process; on this machine use --direct_",
        ),
        ("--direct_running_mode=multi_processing --direct_num_workers=-1", "--direct_num_workers -1: give a whole nu"),
        ("--direct_num_workers=abc", "--direct_num_workers: invalid int value: 'abc'"),
        ("--runner=FlinkRunner --flink_version=9", "--flink_version: invalid choice: '9' (choose from"),
        ("-x", "neither this command nor Apache Beam knows -x; see"),
        ("--", "neither this command nor Apache Beam knows --; see"),
    ],
)
def test_flags_that_would_have_no_effect(capfd, words, line):
    message = refuse(*words.split())
    assert message.startswith(line) and "\n" not in message
    assert capfd.readouterr().err == ""  # Beam's usage has more than a hundred lines


def test_flags_of_other_runners():
    runners.parse_beam(["--runner=PortableRunner", "--job_endpoint=a:1", "--flink_version=1.19"])
    runners.parse_beam(["--runner=direct", "--direct_running_mode=multi_threading", "--direct_num_workers=0"])


@pytest.mark.parametrize(
    "error, reason",
    [
        (RuntimeError("Unable to fetch remote job server jar at https://host/jar: no route\nmore"), "no route; docs"),
        (RuntimeError("Java must be installed on this system to use this transform/runner."), "Java must be installed"),
        (grpc.FutureTimeoutError(), "it did not answer in time"),
    ],
)
def test_a_runner_without_its_service(error, reason):
    options = runners.parse_beam(["--runner=FlinkRunner", "--flink_master=flink:8081"])
    explained = runners.explain_failure(error, options)
    assert isinstance(explained, UserError) and reason in str(explained)
    assert str(explained).startswith("--runner FlinkRunner: its service cannot be reached or started: ")


def test_flags_that_a_runner_refuses():
    error = ValueError("Pipeline has validations errors: \nInvalid Project ID (p).")
    line = str(runners.explain_failure(error, runners.parse_beam(["--runner=DataflowRunner"])))
    assert line.startswith("--runner DataflowRunner: Pipeline") and "Invalid Project ID (p)." in line


def test_a_bug_keeps_its_traceback():
    bug = RuntimeError("wrong shape")
    assert runners.explain_failure(bug, runners.parse_beam(["--runner=FlinkRunner"])) is bug
    assert runners.explain_failure(grpc.RpcError(), runners.parse_beam([])).__class__ is grpc.RpcError
