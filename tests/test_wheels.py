"""The wheels that uv chooses for each platform and Python, from the package index: `make slow` asks it.

`make constraints` changes what is chosen: run `make slow ARGS=tests/test_wheels.py` after it.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from htc_tf import platforms
from tests.test_platforms import EXTRAS, PLATFORMS, PYTHONS, ROOT, requirements, words

pytestmark = pytest.mark.slow
# Packages that have no wheels and Python files alone: they can be built everywhere, which takes time, and are left out.
WITHOUT_WHEELS = ("promise", "gin-config", "googleapis-common-protos")
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
