"""python -m tests.benchmarks.scaling: a training step by the number of devices, and a model of a step on GPUs.

Runs `python -m htc_tf.benchmark --mode train` with the same images per step for each number of devices, in a process of
its own, because TensorFlow divides a CPU only once, when it starts. Devices are GPUs where there are any, else parts of
one CPU, which share its cores: then only their CPU seconds compare. docs/scaling.md has the measured table and what
`predict_step` predicts. All other flags are passed on.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from htc_tf import command_line
from htc_tf.errors import UserError, command
from htc_tf.progress import progress_bar

DEFAULTS = ["--gin_file=gin/htc_shapes.gin", "--height=192", "--width=192", "--batch=4", "--repeats=10"]


def parse(words=None):
    """Returns (flags, the words for `htc_tf.benchmark`)."""
    parser = command_line.Parser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    parser.add_argument(
        *("--devices",), type=command_line.positive, nargs="+", default=[1, 2, 4], metavar="N", help="default: 1 2 4"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file as well")
    flags, rest = parser.parse_known_args(words)
    own_gin = any(word.startswith("--gin_file") for word in rest)  # replaces the default instead of adding to it
    return flags, [*DEFAULTS[own_gin:], *rest]


def measure_in_fresh_process(words, devices):
    """Returns the JSON of `htc_tf.benchmark` for one number of devices.

    Raises:
        UserError: The command failed; its own line stands above.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measurement.json"
        words = ["--mode=train", *words, f"--devices={devices}", f"--json={path}"]
        done = subprocess.run([sys.executable, "-m", "htc_tf.benchmark", *words], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(f"--devices {devices}: not measured, see above")
        return json.loads(path.read_text())


def compare(measurements):
    """Returns {number of devices: row of the table} of {number of devices: the benchmark's JSON}."""
    first = next(iter(measurements.values()))
    rows = {}
    for devices, found in measurements.items():
        cpu, images = found["cpu_seconds"], found["work"]["batch"]
        rows[devices] = {
            **{f"cpu_ms_{name}": 1e3 * cpu[name] / images for name in ("median", "p10", "p90")},
            "by_first": cpu["median"] / first["cpu_seconds"]["median"],
            "mb_sent": ring_bytes(found["details"]["gradient bytes"], devices) / 1e6,
            "memory_gb": found["memory_bytes"]["peak"] / 1e9,
            "wall_ms_per_step": 1e3 * found["wall_seconds"]["median"],
        }
    return rows


def ring_bytes(gradient_bytes, devices):
    """Returns what each device sends in a step: all gradients but its own share, in both rounds of a ring
    (https://arxiv.org/abs/1802.05799, section 4)."""
    return 2 * (devices - 1) / devices * gradient_bytes


class Prediction(NamedTuple):
    """Seconds of a step, and what follows from them."""

    compute: float  # forward and backward
    all_reduce: float  # the part of it that the devices wait for
    update: float  # packing and unpacking gradients, their norm, the optimizer
    step: float  # the sum of these and the rest
    images_per_second: float  # of all devices
    efficiency: float  # relative to devices that need not communicate


def predict_step(
    devices,
    images,
    image_flops,
    flops_per_second,
    gradient_bytes,
    bytes_per_second,
    latency=10e-6,
    exposed=1.0,
    memory_per_second=1.5e12,
    passes=12,
    rest=0.0,
):
    """Predicts a training step on GPUs from figures of the network and of the machine; nothing is measured.

    step = images x image_flops / flops_per_second
         + exposed x (2 (N - 1) / N x gradient_bytes / bytes_per_second + 2 (N - 1) x latency)
         + passes x gradient_bytes / memory_per_second + rest

    Args:
        devices: N, each with a replica; the following figures are per device.
        images: Images per step.
        image_flops: FLOPs of forward and backward of one image.
        flops_per_second: FLOP/s that the device reaches in this network, not its peak.
        gradient_bytes: Bytes of all trained variables.
        bytes_per_second: Bandwidth in each direction of the slowest link of the ring. A ring through several machines
            enters and leaves each of them once, so there it is the machine's whole network.
        latency: Seconds from one device to the next.
        exposed: Share of the all-reduce that no computation hides.
        memory_per_second: Bytes that the device reads or writes of its memory.
        passes: Number of times that each gradient is read or written outside of the backward pass.
        rest: Seconds of anything else that the devices wait for, such as Python or the input.
    Returns:
        Prediction.
    """
    compute = images * image_flops / flops_per_second
    hops = 2 * (devices - 1) * latency
    all_reduce = exposed * (ring_bytes(gradient_bytes, devices) / bytes_per_second + hops)
    update = passes * gradient_bytes / memory_per_second
    step = compute + all_reduce + update + rest
    return Prediction(compute, all_reduce, update, step, devices * images / step, 1 - all_reduce / step)


@command
def main():
    flags, words = parse()
    found = {n: measure_in_fresh_process(words, n) for n in progress_bar(flags.devices, unit="process", desc="scaling")}
    rows = compare(found)
    print("".join(f"{title:>18}" for title in ("devices", *next(iter(rows.values())))))
    for devices, row in rows.items():
        print("".join(f"{value:>18.5g}" for value in (devices, *row.values())))
    if flags.json:
        flags.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {flags.json}" if flags.json else "docs/scaling.md explains the columns; add --json FILE to keep them")


if __name__ == "__main__":
    main()
