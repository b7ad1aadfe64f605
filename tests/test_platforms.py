"""Which TensorFlow each platform and Python get, by setup.cfg, constraints.txt and htc_tf.platforms."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from htc_tf import platforms

ROOT = Path(__file__).resolve().parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = ("cpu", "prepare", "train", "fast", "video", "dask", "onnx", "test")  # as in the Makefile
PLATFORMS = {  # uv's name: platform.system(), platform.machine()
    "x86_64-manylinux_2_28": ("Linux", "x86_64"),
    "aarch64-manylinux_2_28": ("Linux", "aarch64"),
    "aarch64-apple-darwin": ("Darwin", "arm64"),
    "x86_64-apple-darwin": ("Darwin", "x86_64"),
}
PYTHONS = [(3, 10), (3, 11), (3, 12), (3, 13)]
# Packages that have no wheels and Python files alone: they can be built everywhere, which takes time, and are left out.
WITHOUT_WHEELS = ("promise", "gin-config", "googleapis-common-protos")


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


# ---- resolutions from the wheels of the package index

# uv's words where the index cannot be reached.
UNREACHABLE = re.compile(r"error sending request|dns error|Failed to fetch|timed out|Connectivity is disabled")


def resolve(name, python, extras, excludes):
    """Returns {package: version} that uv chooses from wheels, or its message if there is no solution.

    The file `excludes` names packages that are left out.
    """
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if not uv:
        return None
    command = [uv, "pip", "compile", "-", "--constraint", "constraints.txt", "--only-binary", ":all:", "--quiet"]
    command += ["--python-platform", name, "--python-version", "{}.{}".format(*python)]
    command += ["--excludes", excludes, "--no-annotate", "--no-header"]
    done = subprocess.run(
        command,
        input="\n".join(requirements(*extras)),
        cwd=ROOT,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},  # for the wheels of av
        capture_output=True,
        text=True,
        timeout=500,
    )
    if done.returncode == 0:
        return dict(line.split("==") for line in done.stdout.split())
    return " ".join(done.stderr.split())


LINUX, INTEL_MAC = "x86_64-manylinux_2_28", "x86_64-apple-darwin"
RESOLUTIONS = [(name, python, EXTRAS) for name in PLATFORMS for python in PYTHONS]
RESOLUTIONS += [(LINUX, python, ("gpu", *EXTRAS[1:])) for python in PYTHONS]
BEAM_ON_INTEL_MAC = (INTEL_MAC, (3, 11), ("prepare",))


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """Returns resolved(name, python, extras). All run at once, since they wait for the index most of the time."""
    folder = tmp_path_factory.mktemp("excludes")
    (folder / "everywhere").write_text("\n".join(WITHOUT_WHEELS))
    (folder / INTEL_MAC).write_text("\n".join([*WITHOUT_WHEELS, "apache-beam"]))  # compiled there
    with ThreadPoolExecutor(8) as threads:
        tasks = {BEAM_ON_INTEL_MAC: threads.submit(resolve, *BEAM_ON_INTEL_MAC, folder / "everywhere")}
        for case in RESOLUTIONS:
            excludes = folder / (INTEL_MAC if case[0] == INTEL_MAC else "everywhere")
            tasks[case] = threads.submit(resolve, *case, excludes)

    def look_up(*case):
        found = tasks[case].result()
        if found is None:
            pytest.skip("needs uv, which make env installs")
        if isinstance(found, str) and UNREACHABLE.search(found):
            pytest.skip(f"the package index cannot be reached: {found[:200]}")
        return found

    return look_up


@pytest.mark.parametrize("python", PYTHONS, ids="{0[0]}.{0[1]}".format)
@pytest.mark.parametrize("name", PLATFORMS)
def test_wheels_exist(resolved, name, python):
    system, machine = PLATFORMS[name]
    found = resolved(name, python, EXTRAS)
    if platforms.refusal(system, machine, python, "cpu"):
        assert "tensorflow==2.21.0 has no wheels with a matching platform tag" in str(found)
        return
    assert isinstance(found, dict), found
    chosen = {package for package in found if re.fullmatch(r"tensorflow(-cpu|-cpu-aws|-macos|-intel)?", package)}
    expected = {platforms.distribution(machine, python, "cpu")}
    if (system, machine) == ("Linux", "aarch64") and python < (3, 12):
        expected.add("tensorflow-cpu-aws")  # which the distribution tensorflow, empty there, requires
    assert chosen == expected
    assert {found[package] for package in chosen} == {platforms.tensorflow_version(python)}
    has_addons = "tensorflow-addons" in found
    assert has_addons != ("tensorflow-addons" in words(system, machine, python, "cpu"))
    assert ("tf-keras" in found) == (python >= (3, 12)) and found["keras-cv"] == "0.9.0"


@pytest.mark.parametrize("python", PYTHONS, ids="{0[0]}.{0[1]}".format)
def test_wheels_with_cuda_exist(resolved, python):
    found = resolved(LINUX, python, ("gpu", *EXTRAS[1:]))
    assert isinstance(found, dict), found
    assert found["tensorflow"] == platforms.tensorflow_version(python) and "tensorflow-cpu" not in found
    assert "nvidia-cudnn-cu12" in found


def test_a_mac_with_an_intel_processor_has_no_wheel_of_apache_beam(resolved):
    """It fails once there is one: the note in htc_tf.platforms and docs/installation.md may then go."""
    message = resolved(*BEAM_ON_INTEL_MAC)
    assert isinstance(message, str) and "apache-beam" in message
