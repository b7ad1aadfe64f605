"""Makes a Markdown table of the kit's results: python3 table.py OUT/results.jsonl"""

import json
import sys

# The measured rate that bounds a program of each precision: float32 programs may use TF32.
BOUNDS = {"bfloat16": "products bfloat16", "float32": "products tf32"}
HEADER = ["program", "compile, s", "median, ms", "p90, ms", "images/s", "TFLOP/s", "share", "peak, GB"]
HEADER += ["torchvision, ms", "its images/s", "its peak, GB"]


def make(text):
    """Returns Markdown of the text of results.jsonl; a line that is no JSON, of a part that was killed, is left out."""
    results = [found for line in text.splitlines() if (found := parse(line))]
    rates = {found["rate"]: found for found in results if "rate" in found}
    peers = {found["peer"]: found for found in results if "peer" in found}
    programs = {found["program"]: found for found in results if "program" in found}
    devices = [found for found in results if "device" in found]
    lines = [f"Device: {found['device']} ({found['platform']}), jax {found['jax']}." for found in devices]
    lines += sorted({f"Beside it: {found['versions']}." for found in peers.values()})
    lines += [f"- {name}: {describe_rate(found)}" for name, found in rates.items()]
    rows = []
    for name in dict.fromkeys([*programs, *peers]):
        ours, theirs = programs.get(name, {}), peers.get(name, {})
        bound = rates.get(BOUNDS.get(name.rpartition("_")[2]), {}).get("tflop_per_second")
        rate = ours.get("tflop_per_second")
        share = f"{rate / bound:.1%}" if rate and bound else ""
        cells = [
            ours.get("compile_s"),
            ours.get("median_ms"),
            ours.get("p90_ms"),
            images_per_second(ours),
            rate or None,
        ]
        cells += [share, ours.get("peak_gb"), theirs.get("median_ms"), images_per_second(theirs), theirs.get("peak_gb")]
        rows.append([name, *("" if cell is None else str(cell) for cell in cells)])
    if rows:
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *rows)), ""]
    wrong = [found["program"] for found in results if found.get("outputs_finite") is False]
    lines += [f"- {name}: an output is not finite" for name in wrong]
    lines += [f"- {found['part']}: {found['failed']}" for found in results if "failed" in found]
    return "\n".join([*lines, ""])


def parse(line):
    """Returns the object of a line, or None."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def describe_rate(found):
    return f"{found['tflop_per_second']} TFLOP/s" if "tflop_per_second" in found else f"{found['gb_per_second']} GB/s"


def images_per_second(found):
    return round(1e3 * found["images"] / found["median_ms"], 2) if found else None


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(make(file.read()))
