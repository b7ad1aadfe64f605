"""python -m htc_tf.platforms: says which TensorFlow this machine and Python get, and what they cannot have.

`make env` runs it before and after it installs; it needs no package. setup.cfg holds the same facts as markers, and
docs/installation.md explains them.
"""

import importlib.metadata
import platform
import sys

from htc_tf.command_line import Parser
from htc_tf.errors import UserError, command

X86_64, ARM = ("x86_64", "AMD64"), ("aarch64", "arm64")  # names of platform.machine()
WITHOUT_ADDONS = (
    "SGDW, LAMB, SigmoidFocalLoss and GIoULoss are htc_tf's own, which agree with it up to float32 rounding"
)


def tensorflow_version(python):
    """Returns the version of TensorFlow that setup.cfg gives to a Python, named by (3, minor)."""
    return "2.21.0" if python >= (3, 12) else "2.15.1"


def distribution(machine, python, extra):
    """Returns the package that brings TensorFlow: tensorflow, or tensorflow-cpu, which is smaller."""
    # tensorflow-cpu has wheels for x86-64 alone, and tf_keras, which Python 3.12 and later need, requires tensorflow.
    return "tensorflow-cpu" if extra == "cpu" and machine in X86_64 and python < (3, 12) else "tensorflow"


def refusal(system, machine, python, extra):
    """Returns why TensorFlow cannot be installed and what to do, in one line, or None if it can.

    `system` and `machine` are platform.system() and platform.machine(), `python` is (3, minor), `extra` is cpu or gpu.
    """
    if system == "Windows":
        return "htc_tf runs on Linux and on Macs: on Windows, run `wsl --install`, and use it in WSL's Linux"
    if machine not in X86_64 + ARM:
        return f"TensorFlow has wheels for x86-64 and 64-bit ARM processors only, and this machine is {machine}"
    if extra == "gpu" and system == "Darwin":
        return "no TensorFlow for a Mac has CUDA: use EXTRA=cpu"
    if extra == "gpu" and machine in ARM:
        return "TensorFlow's wheels for Linux on ARM have no CUDA: use EXTRA=cpu, or NVIDIA's TensorFlow container"
    if system == "Darwin" and machine in X86_64 and python >= (3, 12):
        return (
            f"TensorFlow {tensorflow_version(python)}, for Python 3.{python[1]}, has no wheels for Macs with Intel "
            "processors: use Python 3.10 or 3.11 (brew install python@3.11); on Apple silicon, use a Python for ARM"
        )
    return None


def notes(system, machine, python, extra):
    """Returns what this platform cannot have, a sentence each; the arguments are those of `refusal`."""
    found = []
    if python >= (3, 12):
        found.append(f"tensorflow-addons has no wheels for Python 3.12 and later: {WITHOUT_ADDONS}")
    elif system == "Linux" and machine in ARM:
        found.append(f"tensorflow-addons has no wheels for Linux on ARM: {WITHOUT_ADDONS}")
    if system == "Darwin" and machine in X86_64:
        found.append(
            "apache-beam has no wheels for Macs with Intel processors: it is compiled, which takes minutes and needs "
            "Xcode's command line tools (xcode-select --install)"
        )
    if extra == "gpu":
        native, compiled = ("Ada", "Hopper") if python >= (3, 12) else ("Turing", "Ampere, Ada and Hopper")
        found.append(
            f"TensorFlow {tensorflow_version(python)} has machine code for NVIDIA's GPUs up to {native}; the driver "
            f"compiles code for {compiled} at the first start; Blackwell is not supported"
        )
    return found


def other_distribution(wanted, installed):
    """Returns the refusal of an environment that holds the other of the two packages of TensorFlow, or None.

    The two have one folder, and removing either breaks the other.
    """
    (other,) = {"tensorflow", "tensorflow-cpu"} - {wanted}
    if other not in installed:
        return None
    extra = "cpu" if wanted == "tensorflow-cpu" else "gpu"
    return (
        f"{sys.prefix} holds the package {other}, which excludes {wanted}: give another folder "
        f"(make env EXTRA={extra} VENV=.venv-{extra}), or run `make clean` first"
    )


def installed_packages():
    """Returns the names of the packages of this virtual environment; none outside of one."""
    if sys.prefix == sys.base_prefix:
        return set()
    return {(package.metadata["Name"] or "").lower() for package in importlib.metadata.distributions()}


def parse():
    parser = Parser("python -m htc_tf.platforms", description="Says which TensorFlow this machine and Python get.")
    parser.add_argument("--extra", choices=("cpu", "gpu"), default="cpu", help="the extra of htc_tf (default: cpu)")
    parser.add_argument("--check", action="store_true", help="print nothing unless TensorFlow cannot be installed")
    return parser.parse_args()


@command
def main():
    args = parse()
    system, machine, python = platform.system(), platform.machine(), sys.version_info[:2]
    wanted = distribution(machine, python, args.extra)
    reason = refusal(system, machine, python, args.extra) or other_distribution(wanted, installed_packages())
    if reason:
        raise UserError(reason)
    if not args.check:
        name = {"Darwin": "macOS"}.get(system, system)
        print(f"{wanted} {tensorflow_version(python)} for Python 3.{python[1]} on {name}, {machine}")
        for note in notes(system, machine, python, args.extra):
            print(f"note: {note}")


if __name__ == "__main__":
    main()
