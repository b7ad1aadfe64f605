"""python -m tests.release: builds a release, checks its files, and tries the wheel as a newcomer would.

    python -m tests.release --python python3.11 --python python3.12 [--small] [--tag]

The tracked files are copied to an empty folder, built there, and the wheel is installed into a new environment for each
--python, with the versions of constraints.txt. In an empty folder, without the checkout, `htc-tf` then draws scenes,
prepares records, trains, evaluates, predicts, exports and asks the exported model. CONTRIBUTING.md has the whole course
of a release.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import htc_tf
from htc_tf.command_line import Parser
from htc_tf.errors import UserError, command

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md")
BUILD = ("MANIFEST.in", "constraints.txt", "pyproject.toml", "setup.cfg")
FOLDERS = ("gin", "htc_tf", "pipelines")
EXTRAS = "cpu,prepare,train"
INFO = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
# With --small: the tests' network, and a training that ends after two steps.
SMALL = ("--gin_file", ROOT / "tests/tiny.gin", "--gin_param", "STEPS=2", "--gin_param", "NUM_STAGES=1")


def run(*words, cwd=ROOT, quiet=False, **options):
    """Runs a program; a failure ends this one with what it printed."""
    words = [str(word) for word in words]
    started = time.monotonic()
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, **options)
    if done.returncode:
        raise UserError(
            f"`{' '.join(words)}` ended with status {done.returncode}: {(done.stderr or done.stdout)[-2000:]}"
        )
    if not quiet:
        print(f"  {time.monotonic() - started:6.1f} s  {' '.join(words)[:150]}", flush=True)
    return done.stdout


def tracked():
    """Returns the tracked files that a distribution holds, as POSIX paths relative to the checkout."""
    listed = run("git", "ls-files", *FOLDERS, *PAGES, *BUILD, quiet=True).split("\n")
    return sorted(name for name in listed if name and (ROOT / name).is_file())


def expected_in_wheel(names, distribution):
    """Returns the files of a wheel: packages, gin files as data, and metadata; `distribution` is like htc_tf-1.0."""
    found = {f"{distribution}.dist-info/{name}" for name in INFO}
    for name in names:
        if name.startswith("gin/"):
            found.add(f"{distribution}.data/data/share/htc_tf/{name}")
        elif name.startswith("htc_tf/"):
            found.add(name)
        elif name.startswith("pipelines/"):
            found.add(f"htc_tf/{name}")
    return found


def expected_in_sdist(names, distribution):
    """Returns the files of a source distribution, without setuptools' own."""
    return {f"{distribution}/{name}" for name in names}


def compare(path, present, expected):
    """Checks that a distribution has exactly the expected files.

    Raises:
        UserError: It has others, or lacks some.
    """
    extra, missing = sorted(present - expected), sorted(expected - present)
    if extra or missing:
        raise UserError(
            f"{path.name} has unexpected files: {extra[:5]}, lacks: {missing[:5]}; see setup.cfg, MANIFEST.in"
        )


def check_changelog(text, version):
    """Checks that the changelog has a dated section for a version.

    Raises:
        UserError: It has none.
    """
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE):
        raise UserError(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD': name the changes of this version")


def build(output):
    """Builds both distributions from a copy of the tracked files, the wheel from the unpacked source distribution.

    Returns:
        The wheel's path.
    """
    names, distribution = tracked(), f"htc_tf-{htc_tf.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        constraints = ROOT / "constraints.txt"
        run(uv(), "build", "--build-constraints", constraints, "--out-dir", output, folder)
    wheel, sdist = output / f"{distribution}-py3-none-any.whl", output / f"{distribution}.tar.gz"
    with zipfile.ZipFile(wheel) as archive:
        compare(wheel, {name for name in archive.namelist() if name[-1] != "/"}, expected_in_wheel(names, distribution))
    with tarfile.open(sdist) as archive:
        present = {member.name for member in archive if member.isfile()}
    of_setuptools = {name for name in present if re.search(r"/PKG-INFO$|/htc_tf\.egg-info/", name)}
    compare(sdist, present - of_setuptools, expected_in_sdist(names, distribution))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    return wheel


def uv():
    return Path(sys.executable).with_name("uv")


def install(wheel, python, folder):
    """Installs the wheel into a new environment in a folder, and returns a function that runs its programs."""
    run(uv(), "venv", "--quiet", "--python", python, folder / "environment")
    programs = folder / "environment" / "bin"
    flags = ("--quiet", "--python", programs / "python", "-c", ROOT / "constraints.txt")
    run(uv(), "pip", "install", *flags, f"{wheel}[{EXTRAS}]")
    place = folder / "empty"
    place.mkdir()
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return lambda name, *words: run(programs / name, *words, cwd=place, env=variables)


def try_out(call, small):
    """Goes from no file to a served model with the programs of an environment."""
    version = call("htc-tf", "--version")
    if version != f"htc-tf {htc_tf.__version__}\n":
        raise UserError(f"the installed htc-tf says {version!r}")
    where = call("python", "-c", "import htc_tf.pipelines; print(htc_tf.__file__, htc_tf.pipelines.__file__)")
    if str(ROOT / "htc_tf") in where or str(ROOT / "pipelines") in where:
        raise UserError(f"the environment uses the checkout: {where}")
    scenes = ("--train", 4, "--val", 1, "--workers", 1) if small else ("--train", 1200, "--val", 200)
    call("htc-tf", "shapes", "--output", "shapes", "--seed", 0, *scenes)
    for split in ("train",) if small else ("train", "val"):
        flags = ["--annotations", f"shapes/annotations/instances_{split}2017.json", "--images", f"shapes/{split}2017"]
        flags += ["--stuff", f"shapes/stuffthingmaps/{split}2017", "--output", f"records/{split}"]
        call("htc-tf", "coco_to_tfrecord", *flags)
    if small:
        gin = SMALL
    else:
        prefix = call("python", "-c", "import sys; print(sys.prefix)").strip()
        gin = ("--gin_file", "gin/htc_shapes.gin", "--gin_file", "gin/options/from_letters.gin")
        gin += ("--init_from", f"{prefix}/share/htc_tf/gin/weights/letters.safetensors")
        gin += ("--val_records", "records/val")
    call("htc-tf", "train", *gin, "--train_records", "records/train", "--workdir", "run")
    if not small:
        call("htc-tf", "eval", "--checkpoint", "run", "--records", "records/val", "--output", "metrics.json")
    image = "shapes/val2017/000001000001.jpg"
    call("htc-tf", "predict", "--checkpoint", "run", "--input", image, "--output", "drawings")
    call("htc-tf", "export", "--checkpoint", "run", "--output", "export")
    if not small:
        call("htc-tf", "client", "--export", "export", "--input", image)


def tag(version):
    """Tags the present commit, which must hold everything that was built."""
    if changes := run("git", "status", "--porcelain", quiet=True):
        raise UserError(f"commit these changes before a tag: {changes.splitlines()}")
    run("git", "tag", "-a", f"v{version}", "-m", f"htc_tf {version}")
    print(f"tagged v{version}: `git push origin v{version}` publishes the tag")


def parse():
    parser = Parser(prog="python -m tests.release", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", action="append", required=True, metavar="PATH", help="interpreter; may repeat")
    parser.add_argument("--output", default="dist", metavar="DIR", help="folder of the distributions (default: dist)")
    parser.add_argument("--small", action="store_true", help="a training of two steps, no evaluation")
    parser.add_argument("--tag", action="store_true", help="tag the commit if everything succeeds")
    return parser.parse_args()


@command
def main():
    flags = parse()
    version, output = htc_tf.__version__, Path(flags.output).resolve()
    check_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    print(f"building htc_tf {version}", flush=True)
    wheel = build(output)
    for python in flags.python:
        with tempfile.TemporaryDirectory() as folder:
            print(f"trying {wheel.name} with {python}", flush=True)
            try_out(install(wheel, python, Path(folder)), flags.small)
    if flags.tag:
        tag(version)
    print(f"htc_tf {version} is in {output}")


if __name__ == "__main__":
    main()
