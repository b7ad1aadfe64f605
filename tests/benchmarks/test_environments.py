"""The benchmark of two environments: its steps take turns, and a process answers as the benchmark reads."""

import sys
from types import SimpleNamespace

import pytest

from htc_tf import benchmark
from htc_tf.errors import UserError
from tests.benchmarks import __main__ as main
from tests.benchmarks import environments

FLAGS = SimpleNamespace(mode="environments", repeats=2, gin_file=["tests/tiny.gin"], height=64, width=64)
BARE = ("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False")
# A process in place of TensorFlow's: a step of the other Python takes 3 CPU-seconds, one of this Python 2.
PROCESS = """
import json, sys
print(json.dumps({"tensorflow": "2", "imports": 1.0, "step": 4.0}), flush=True)
for line in sys.stdin:
    print("[%s, 5.0]", flush=True)
print(1000)
"""


@pytest.fixture
def processes(monkeypatch):
    """Makes every process of an environment answer at once, and returns the commands in their order."""
    commands, popen = [], environments.subprocess.Popen

    def start(words, **options):
        commands.append(words)
        return popen([sys.executable, "-c", PROCESS % (3.0 if words[0] == "other" else 2.0)], **options)

    monkeypatch.setattr(environments.subprocess, "Popen", start)
    monkeypatch.setenv(environments.OTHER, "other")
    return commands


def test_both_environments_are_measured(processes):
    found = environments.run(FLAGS)
    assert found.cpu_seconds["median"] == 2.0 and found.wall_seconds["median"] == 5.0
    assert found.details.keys() == environments.CASES.keys()
    for case in found.details.values():
        assert case["ratio"] == 1.5 and case["other"]["cpu_seconds"]["median"] == 3.0
        assert case["this"]["imports"] == 1.0 and case["other"]["step"] == 4.0 and case["this"]["peak_bytes"] == 1000
        assert case["work"]["gin_file"] == "tests/tiny.gin"
    assert [words[0] for words in processes] == [sys.executable, "other"] * len(environments.CASES)


def test_each_round_turns_the_order_around(monkeypatch):
    asked = []

    class Answering:
        def __init__(self, command):
            (self.python,), self.first = command, {}

        def start(self):
            asked.append(self.python)

        def step(self):
            asked.append(self.python)
            return 1.0, 1.0

        def end(self):
            return 0

    monkeypatch.setattr(environments, "Environment", Answering)
    environments.compare("case", [["this"], ["other"]], 3)
    assert asked == ["this", "other", "other", "this", "this", "other", "other", "this"]


def test_every_case_is_a_command_of_the_benchmark(monkeypatch):
    for case in environments.CASES.values():
        monkeypatch.setattr(sys, "argv", environments.words_of(case)[1:])
        flags = benchmark.parse()
        assert [flags.mode, flags.height, flags.batch] == [case.mode, case.height, case.batch]
        assert flags.gin_file == [case.gin_file] and flags.gin_param == list(case.gin_param)


def test_another_environment_is_needed(monkeypatch):
    monkeypatch.delenv(environments.OTHER, raising=False)
    with pytest.raises(UserError, match="--mode environments requires HTC_TF_OTHER_PYTHON"):
        environments.run(FLAGS)
    jobs = [{job.name for job in main.main_jobs(False, None, other)} for other in (None, "python")]
    assert jobs[1] - jobs[0] == {"environments"}


def test_a_process_that_fails_is_named():
    environment = environments.Environment([sys.executable, "-m", "tests.benchmarks.environments", "--mode=nothing"])
    with pytest.raises(UserError, match="ended with status 2; its last line: error: --mode nothing is unknown"):
        environment.start()


def test_a_process_answers_each_line(tmp_path):
    words = environments.words_of(environments.Case("inference", 64, 64, 1, 1, "tests/tiny.gin", BARE))
    environment = environments.Environment([sys.executable, *words])
    environment.start()
    assert environment.first["step"] > environment.first["imports"] > 0
    assert all(seconds > 0 for _ in range(2) for seconds in environment.step())
    assert environment.end() > 1e8 and environment.process.returncode == 0
