"""python -m tests.studies.costs: writes a section of docs/zoo.md, what each part costs beside the ResNet-50 of HTC.

Each model has random weights and a process of its own, `htc_tf.benchmark`, with typical proposals and 100 detections.
Run again, the command continues after the last finished row.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from htc_tf.progress import progress_bar
from tests.studies import recorded

OUTPUT = recorded.ROOT / "docs" / "zoo.md"
TITLE = "What a part costs"
BASE = "gin/htc_r50_fpn_1x_coco.gin"
CASCADE = "gin/cascade_mask_rcnn_r50_fpn_1x_coco.gin"
HEIGHT, WIDTH = 800, 1344
REPEATS = 3
# The files of some families bind the sides of their images, which here are the same for all.
SIDES = ("min_side", "max_side")
PARAMS = [f"{kind}/Input.{side}=%IMAGE_{side.upper()}" for kind in ("eval", "train") for side in SIDES]


class Row(NamedTuple):
    """A row of the table."""

    part: str
    files: tuple  # gin files


def with_option(name):
    return BASE, f"gin/options/{name}.gin"


ROWS = (
    Row("HTC, ResNet-50", (BASE,)),
    Row("ResNet-101", ("gin/htc_r101_fpn_20e_coco.gin",)),
    Row("Swin-T", with_option("swin_t")),
    Row("Swin-S", with_option("swin_s")),
    Row("Swin-B", with_option("swin_b")),
    Row("Swin-L", with_option("swin_l")),
    Row("ConvNeXt-T", with_option("convnext_t")),
    Row("Res2Net-101", ("gin/res2net/htc_r2_101_fpn_20e_coco.gin",)),
    Row("HRNet-W32 and its pyramid", ("gin/hrnet/htc_hrnetv2p_w32_20e_coco.gin",)),
    Row("switchable convolutions (SAC)", with_option("sac")),
    Row("recursive feature pyramid (RFP)", with_option("rfp")),
    Row("DetectoRS: both", ("gin/detectors/detectors_htc_r50_1x_coco.gin",)),
    Row("SCNet", ("gin/scnet/scnet_r50_fpn_1x_coco.gin",)),
    Row("CBNetV2: two Swin-B", ("gin/cbnet/htc_cbv2_swin_b_fpn_ms_400_1400_20e_coco.gin",)),
    Row("Cascade Mask R-CNN, ResNet-50", (CASCADE,)),
    Row("... with box heads of 4 convolutions", (CASCADE, "gin/base/conv_box_head.gin")),
    Row("... with those and Swin-T", ("gin/swin/cascade_mask_rcnn_swin_t_fpn_3x_coco.gin",)),
    Row("... with those and ConvNeXt-T", ("gin/convnext/cascade_mask_rcnn_convnext_t_fpn_3x_coco.gin",)),
    Row("... with those and ViTDet-B", ("gin/vitdet/cascade_mask_rcnn_vitdet_b_100ep_coco.gin",)),
    Row("Mask R-CNN, ResNet-50", ("gin/mask_rcnn_r50_fpn_1x_coco.gin",)),
    Row("... of detectron2", ("gin/detectron2/mask_rcnn_r50_fpn_1x_coco.gin",)),
    Row("... with Swin-T", ("gin/swin/mask_rcnn_swin_t_fpn_1x_coco.gin",)),
    Row("... with ViTDet-B", ("gin/vitdet/mask_rcnn_vitdet_b_100ep_coco.gin",)),
)
INTRODUCTION = f"""Written by `python -m tests.studies.costs`. One image of {HEIGHT} x {WIDTH} pixels, random weights,
float32 on a CPU.

- *Detection* is the median of the process' CPU-seconds over {REPEATS} detections after one more, from the decoded image
  to pasted masks; *relative* divides it by the first row's.
- *Weights* is the memory of the process before the first detection, with Python and TensorFlow; *on top* is what its
  peak adds.
- *Training step* is the second step of one image, with the memory of the process at its peak; *relative* divides it by
  the first row's. *Too large*: memory ran out; the peak is what the process held when it was killed. Newer peaks of
  some rows are in docs/reliability.md.

Other work on the machine adds to the CPU-seconds: repeated beside it, a training step differed by up to a fifth."""


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.costs", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="PART", help="rows to measure, such as Swin-T (default: all)")
    parser.add_argument("--no_training", action="store_true", help="measure no training steps")
    parser.add_argument("--workdir", type=Path, default=Path("runs/zoo"), help="results so far, and logs")
    parser.add_argument("--write_only", action="store_true", help="measure nothing; write the table of finished rows")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="Markdown file with the section")
    return parser.parse_args()


def flags_of(row, mode):
    """Returns the flags of `htc_tf.benchmark` for a row."""
    repeats = REPEATS if mode == "inference" else 1
    flags = ["--mode", mode, "--height", HEIGHT, "--width", WIDTH, "--repeats", repeats]
    flags += [word for file in row.files for word in ("--gin_file", file)]
    return [*flags, *(word for param in PARAMS for word in ("--gin_param", param))]


def measure(row, mode, folder):
    """Measures a row in one mode of `htc_tf.benchmark`.

    Returns:
        {"cpu": seconds, "loaded": bytes, "peak": bytes}, or {"exceeds": bytes} if memory ran out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "cost.json"
    try:
        recorded.run_module(folder / "costs.log", "htc_tf.benchmark", *flags_of(row, mode), "--json", found)
    except recorded.Killed as error:
        return {"exceeds": error.peak}
    content = json.loads(found.read_text())
    memory = content["memory_bytes"]
    return {"cpu": content["cpu_seconds"]["median"], "loaded": memory["loaded"], "peak": memory["peak"]}


def cells(row, found):
    """Returns the cells of a row; `found` has a result or None for each (row, mode)."""
    cells = [row.part, f"[{Path(row.files[-1]).stem}](../{row.files[-1]})"]
    for mode, digits in (("inference", 1), ("train", 0)):
        done, first = found[row, mode], found[ROWS[0], mode]
        memory = []
        if done and "exceeds" in done:
            cells += [*["too large"] * (3 if mode == "inference" else 2), f"> {done['exceeds'] / 1e9:.0f}"]
            continue
        if done:
            loaded, peak = done["loaded"] / 1e9, done["peak"] / 1e9
            memory = [f"{loaded:.1f}", f"{peak - loaded:.1f}"] if mode == "inference" else [f"{peak:.1f}"]
            cells += [f"{done['cpu']:.{digits}f}", f"{done['cpu'] / first['cpu']:.2f}" if first else "not yet"]
        cells += memory if done else ["not yet"] * (4 if mode == "inference" else 3)
    return cells


def write(path, found):
    """Writes the section; `found` has a result or None for each (row, mode)."""
    header = ["part", "file", "detection, CPU-s", "relative", "weights, GB", "on top, GB"]
    header += ["training step, CPU-s", "relative", "peak, GB"]
    table = [cells(row, found) for row in ROWS]
    lines = [INTRODUCTION, "", *recorded.format_table(header, table), ""]
    for title, mode in (("Detection", "inference"), ("Training", "train")):
        done = [found[row, mode] for row in ROWS if found[row, mode]]
        lines.append(f"{title}: measured on {recorded.machines_of(done)}.")
    recorded.write_section(path, TITLE, lines)


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    cache = recorded.ResultCache(folder / "costs.json")
    modes = ("inference",) if flags.no_training else ("inference", "train")
    hows = {(row, mode): list(map(str, flags_of(row, mode))) for row in ROWS for mode in ("inference", "train")}
    found = {key: cache.find(" ".join(how), how) for key, how in hows.items()}
    chosen = [row for row in ROWS if not flags.only or row.part in flags.only]
    todo = [(row, mode) for row in chosen for mode in modes if not found[row, mode]]
    failed = []
    for row, mode in progress_bar([] if flags.write_only else todo, unit="process", desc="costs"):
        how = hows[row, mode]
        try:
            found[row, mode] = cache.add(" ".join(how), how, measure(row, mode, folder))
        except SystemExit as error:  # measure the other rows all the same
            failed.append(f"{row.part} ({mode})")
            print(f"{failed[-1]}: {error}", file=sys.stderr, flush=True)
            continue
        write(flags.output, found)
    write(flags.output, found)
    print(f"wrote {flags.output}")
    if failed:
        sys.exit(f"not done: {', '.join(failed)}; run again to try these")


if __name__ == "__main__":
    main()
