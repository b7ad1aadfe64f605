"""python -m tests.benchmarks.gpu --output DIR: writes the kit that runs the network on a GPU without TensorFlow.

DIR gets the programs of PROGRAMS as XLA would compile them, and scripts that time them by jaxlib, beside the device's
own rates and torchvision's Mask R-CNN. On the machine with the GPU: bash DIR/run.sh OUT
"""

import argparse
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

from htc_tf.errors import UserError, command
from htc_tf.progress import progress_bar

HERE = Path(__file__).resolve().parent
SCRIPTS = ("run.sh", "kit.py", "common.py", "rates.py", "program.py", "peer.py", "table.py")
PROGRAMS = {
    f"{mode}_b{batch}_{precision}": ["--mode", mode, "--batch", str(batch), "--precision", precision]
    for mode, batches in (("inference", (1, 8)), ("train", (4,)))
    for batch in batches
    for precision in ("float32", "bfloat16")
} | {mode: ["--mode", mode] for mode in ("roi_align", "roi_align_gradient")}


def write_program(folder, name, flags):
    """Writes NAME.hlo.xz and NAME.json.xz by `python -m tests.benchmarks.hlo`, unless they exist.

    Returns:
        What the command printed.
    Raises:
        UserError: The command failed.
    """
    path = folder / f"{name}.hlo"
    if path.with_suffix(".json.xz").exists():
        return f"{name}: exists"
    words = [sys.executable, "-m", "tests.benchmarks.hlo", *PROGRAMS[name], *flags, "--output", str(path)]
    done = subprocess.run(words, cwd=HERE.parents[2], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    for source, suffix in ((path, ".hlo.xz"), (path.with_name(f"{name}.hlo.json"), ".json.xz")):
        aside = source.with_suffix(".aside")
        aside.write_bytes(lzma.compress(source.read_bytes()))
        aside.rename(path.with_suffix(suffix))
        source.unlink()
    return done.stdout.partition(";")[0]


@command
def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the kit")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, metavar="NAME", help="programs to write (default: all)")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="after --: flags of tests.benchmarks.hlo")
    flags = parser.parse_args()
    programs = flags.output.resolve() / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for name in SCRIPTS:
        shutil.copy(HERE / name, flags.output)
    shutil.copy(HERE.parent / "hlo_parameters.py", flags.output)
    for name in progress_bar(flags.only or list(PROGRAMS), unit="program", desc="programs"):
        print(write_program(programs, name, flags.flags), flush=True)
    print(f"wrote {flags.output}; next, on a machine with a GPU, jax, torch and torchvision: bash run.sh OUT in it")


if __name__ == "__main__":
    main()
