"""Which TensorFlow each platform and Python get, by setup.cfg, constraints.txt and htc_tf.platforms."""

import configparser
import re
import sys
from pathlib import Path

import pytest

from htc_tf import platforms

ROOT = Path(__file__).resolve().parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = ("cpu", "prepare", "train", "fast", "video", "dask", "onnx", "completion", "wandb", "mlflow", "docs", "test")
PLATFORMS = {  # uv's name: platform.system(), platform.machine()
    "x86_64-manylinux_2_28": ("Linux", "x86_64"),
    "aarch64-manylinux_2_28": ("Linux", "aarch64"),
    "aarch64-apple-darwin": ("Darwin", "arm64"),
    "x86_64-apple-darwin": ("Darwin", "x86_64"),
}
PYTHONS = [(3, 10), (3, 11), (3, 12), (3, 13)]


def requirements(*extras):
    lines = [SETUP["options"]["install_requires"], *(SETUP["options.extras_require"][extra] for extra in extras)]
    return [line for text in lines for line in text.splitlines() if line and not line.startswith("#")]


def pinned(name):
    """Returns {version of a package in constraints.txt: its marker}."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(rf"^{re.escape(name)}==(\S+)(?: ; (.*))?$", text, re.MULTILINE))


OLDER, NEWER = "python_full_version < '3.12'", "python_full_version >= '3.12'"


def test_the_versions_of_each_python():
    assert pinned("tensorflow") == {"2.15.1": OLDER, "2.21.0": NEWER}
    assert pinned("tensorflow-cpu") == {"2.15.1": f"{OLDER} and platform_machine == 'x86_64'"}
    assert pinned("tf-keras") == {"2.21.0": NEWER}
    assert pinned("keras")["2.15.0"] == OLDER
    (addons,) = pinned("tensorflow-addons")
    assert addons == "0.23.0" and pinned("tensorflow-addons")[addons].startswith(OLDER)
    assert pinned("keras-cv") == {"0.9.0": ""}
    for python in PYTHONS:
        assert platforms.tensorflow_version(python) in pinned("tensorflow")


def test_constraints_txt_has_every_requirement():
    names = {re.split(r"[<>=; \[]", line)[0].lower().replace("_", "-") for line in requirements("gpu", *EXTRAS)}
    assert not [name for name in names if not pinned(name)]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system, machine", PLATFORMS.values())
def test_where_tensorflow_installs(system, machine, python):
    expected = (system, machine) == ("Darwin", "x86_64") and python >= (3, 12)
    reason = platforms.refusal(system, machine, python, "cpu")
    assert bool(reason) == expected and (not reason or "use Python 3.10 or 3.11" in reason)
    assert bool(platforms.refusal(system, machine, python, "gpu")) == ((system, machine) != ("Linux", "x86_64"))


REFUSED = {
    ("Windows", "AMD64", "cpu"): "wsl --install",
    ("Linux", "ppc64le", "cpu"): "this machine is ppc64le",
    ("Darwin", "arm64", "gpu"): "no TensorFlow for a Mac has CUDA: use EXTRA=cpu",
    ("Linux", "aarch64", "gpu"): "have no CUDA: use EXTRA=cpu",
}


@pytest.mark.parametrize("case", REFUSED, ids="-".join)
def test_a_refusal_says_what_to_do(case):
    system, machine, extra = case
    assert REFUSED[case] in platforms.refusal(system, machine, (3, 11), extra)


def words(*arguments):
    return " ".join(platforms.notes(*arguments))


def test_notes_name_what_is_missing():
    assert not words("Linux", "x86_64", (3, 11), "cpu")
    assert not words("Darwin", "arm64", (3, 10), "cpu")
    assert "no wheels for Linux on ARM" in words("Linux", "aarch64", (3, 11), "cpu")
    assert "no wheels for Python 3.12 and later" in words("Linux", "aarch64", (3, 12), "cpu")
    assert "apache-beam" in words("Darwin", "x86_64", (3, 11), "cpu")
    assert "up to Turing" in words("Linux", "x86_64", (3, 11), "gpu")
    assert "up to Ada" in words("Linux", "x86_64", (3, 13), "gpu")


def test_an_environment_holds_one_of_the_two_packages():
    assert platforms.distribution("x86_64", (3, 11), "cpu") == "tensorflow-cpu"
    assert {platforms.distribution("x86_64", (3, 12), extra) for extra in ("cpu", "gpu")} == {"tensorflow"}
    assert "make env EXTRA=gpu VENV=" in platforms.other_distribution("tensorflow", {"tensorflow-cpu", "numpy"})
    assert "excludes tensorflow-cpu" in platforms.other_distribution("tensorflow-cpu", {"tensorflow"})
    assert platforms.other_distribution("tensorflow", {"tensorflow", "tensorflow-cpu-aws"}) is None


def test_the_command_prints_this_machine(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["platforms"])
    monkeypatch.setattr(platforms, "installed_packages", set)
    monkeypatch.setattr(platforms.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platforms.platform, "machine", lambda: "arm64")
    platforms.main()
    version = platforms.tensorflow_version(sys.version_info[:2])
    assert capsys.readouterr().out.startswith(
        f"tensorflow {version} for Python 3.{sys.version_info[1]} on macOS, arm64\n"
    )
    monkeypatch.setattr(sys, "argv", ["platforms", "--extra", "gpu", "--check"])
    with pytest.raises(SystemExit) as ended:
        platforms.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2 and not printed.out and len(printed.err.splitlines()) == 1
