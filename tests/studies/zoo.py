"""python -m tests.studies.zoo: writes docs/zoo.md: every experiment config, its published AP, size, FLOPs, a training.

Parameters and FLOPs are counted at full size. Ten training steps on a few drawn scenes, at a small size, show
that it trains. Run again, the command continues after the last finished row; remove --workdir to start anew. The
section on costs is that of `tests.studies.costs`.
"""

import argparse
import json
import math
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from htc_tf.progress import progress_bar
from tests.studies import costs, recorded

OUTPUT = recorded.ROOT / "docs" / "zoo.md"
BASE = "htc_r50_fpn_1x_coco"
SIZE = (800, 1344)  # 800 x 1333, padded
SCENES, CLASSES, LABELS = 24, 8, 13
STEPS = 10
# Overrides that change the network or its losses; each is shown on BASE.
OVERRIDES = (
    *("no_semantic", "boxes_only", "swin_t", "swin_s", "swin_b", "swin_l", "convnext_t", "sac", "rfp"),
    *("keras_cv_backbone", "sync_batch_norm", "giou", "focal", "boundary", "class_balanced"),
)
# Folders of gin/ with experiment configs of one family each, in the order of the page.
FAMILIES = {
    "swin": "Swin Transformer",
    "convnext": "ConvNeXt",
    "cbnet": "CBNetV2",
    "detectors": "DetectoRS",
    "scnet": "SCNet",
    "res2net": "Res2Net",
    "hrnet": "HRNet",
    "detectron2": "detectron2's model zoo",
    "vitdet": "ViTDet",
}
SIDE, BATCH = 64, 2
SMALL = (
    *(f"NUM_CLASSES={CLASSES}", f"NUM_LABELS={LABELS}", f"BATCH_SIZE={BATCH}", f"STEPS={STEPS}", "LOG_EVERY=1"),
    # One padded shape, so that the training step is traced once.
    *(
        f"{name}={SIDE}"
        for name in ("IMAGE_MIN_SIDE", "IMAGE_MAX_SIDE", "train/Input.min_side", "train/Input.max_side")
    ),
    *("MAX_OBJECTS=8", "MASK_SIZE=28", "RPN.training_proposals=64", "RPN.anchor_scale=2.0", "AnchorSampler.limit=32"),
    *("RoISampler.limit=16", "RoISampler.mask_limit=4", "RoIPooler.sampling_ratio=2", "RoIPooler.canonical_scale=14.0"),
    # Random weights with frozen norm statistics give large features and gradients: a low rate and clipping.
    *("BASE_LEARNING_RATE=2e-3", "StepSchedule.warmup_steps=2", "Experiment.clip_norm=10.0", "CHECKPOINT_EVERY=0"),
)
# Bindings of single rows, or of a family's: ranges that fit the small size, and nothing to download.
SCALES = ("scale_range.lowest=32", f"scale_range.highest={SIDE}")
CROPS = ("multi_scale.min_sides=(32, 64)", "random_crop.min_sides=(48,)", "random_crop.sizes=(32, 48)")
OWN = {
    "swin": CROPS,
    "convnext": CROPS,
    # Constant norms suit trained weights: random ones would double the features in every block.
    "detectron2": (f"multi_scale.min_sides=[32, {SIDE}]", "ResNet.norm='frozen_batch'"),
    "htc_x101_64x4d_fpn_dconv_c3_c5_ms_400_1400_20e_coco": SCALES,
    **dict.fromkeys(("mask_rcnn_cbv2_swin_t_fpn_3x_coco", "cascade_mask_rcnn_cbv2_swin_t_fpn_3x_coco"), CROPS),
    "cascade_mask_rcnn_cbv2_swin_s_fpn_ms_400_1400_3x_coco": SCALES,
    "htc_cbv2_swin_b_fpn_ms_400_1400_20e_coco": SCALES,
    "htc_cbv2_swin_b_fpn_ms_400_1400_giou_4conv1f_20e_coco": SCALES,
    "htc_cbv2_swin_l_fpn_ms_400_1400_giou_4conv1f_1x_coco": SCALES,
    # The file binds the macro, which SMALL leaves without a use.
    "htc_r50_fpn_lsj_100e_coco": ("WARMUP_STEPS=2", "StepSchedule.warmup_steps=%WARMUP_STEPS"),
    "keras_cv_backbone": (
        "KerasCVBackbone.load_weights=False",
        "KerasCVBackbone.norm='batch'",
        "KerasCVBackbone.frozen_stages=0",
    ),
}
INTRODUCTION = f"""# The zoo

Every experiment config, written by `make zoo`; do not edit.

- *AP* is box AP, or box / mask AP, on COCO val2017, from the file's header: a published figure, not measured here.
- *Parameters* are in millions, including frozen ones.
- *GFLOPs* count detection in an image of 800 x 1333 pixels, padded to {SIZE[0]} x {SIZE[1]}, with every RoI
  and mask slot filled; a multiply-add counts as two.
- *Loss* is the total before the first and before the last of {STEPS} steps of {BATCH} images on {SCENES} drawn scenes,
  at {SIDE} pixels, with few RoIs and random weights: it shows that the file trains, nothing more. The blocks of an
  untrained ResNet pass their input through, so networks of one depth start alike.
- *CPU-s* cover the whole training process.
"""


class Row(NamedTuple):
    """A row of the table."""

    name: str
    files: tuple  # gin files
    params: tuple  # bindings of the training


class Counts(NamedTuple):
    """A model's parameters and detection FLOPs at its full size."""

    parameters: int
    flops: int


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.zoo", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows to measure, such as swin/NAME (default: all)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/zoo"), help="results so far, runs and logs")
    parser.add_argument("--write_only", action="store_true", help="measure nothing; write the table of finished rows")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="Markdown file to write")
    return parser.parse_args()


def experiment_configs(family=""):
    """Returns the rows of the experiment configs in gin/, or in a family's folder, whose rows are named FAMILY/NAME."""
    folder = Path("gin", family)
    names = sorted(path.stem for path in (recorded.ROOT / folder).glob("*_coco.gin"))
    own = (*SMALL, *OWN.get(family, ()))
    return [Row(str(Path(family, name)), (f"{folder}/{name}.gin",), (*own, *OWN.get(name, ()))) for name in names]


def plan():
    """Returns {title of a table: [Row, ...]}."""
    families = {title: experiment_configs(family) for family, title in FAMILIES.items()}
    return {
        "Experiment configs": experiment_configs(),
        **{title: rows for title, rows in families.items() if rows},
        "The paper's ablation": [Row(name, (f"gin/ablation/{name}.gin",), SMALL) for name in recorded.ROWS],
        f"Overrides of {BASE}": [
            Row(name, (f"gin/{BASE}.gin", f"gin/options/{name}.gin"), (*SMALL, *OWN.get(name, ())))
            for name in OVERRIDES
        ],
    }


def make_records(folder):
    """Returns a folder of records of a few drawn scenes, made unless it exists."""
    shapes, records = folder / "shapes", folder / "records"
    if not (records / "dataset_info.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "data.log"
        recorded.run_module(log, "pipelines.shapes", "--output", shapes, "--train", SCENES, "--val", 0)
        flags = ["--annotations", shapes / "annotations" / "instances_train2017.json", "--output", records]
        flags += ["--images", shapes / "train2017", "--stuff", shapes / "stuffthingmaps" / "train2017"]
        recorded.run_module(log, "pipelines.coco_to_tfrecord", *flags)
    return records


def count(files):
    """Returns the Counts of the model of these gin files."""
    from htc_tf import config
    from htc_tf.training.dry_run import flops, trace_detection

    experiment, _ = config.load(files, [])
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    model.build_variables()
    parameters = sum(math.prod(variable.shape) for variable in model.variables)
    return Counts(parameters, sum(number for _, number in flops(trace_detection(model, *SIZE))))


def write_start(row, folder):
    """Writes a run of the row's initial weights, because a training refuses to freeze untrained weights."""
    from htc_tf import config
    from htc_tf.run import Run
    from tests.benchmarks.start import write_run

    config.load(list(row.files), list(row.params))
    write_run(Run(folder))


def prepare(row, start):
    """Writes a run to start from, and returns the row's Counts."""
    counts = count(row.files)
    write_start(row, start)
    return counts


def measure(row, records, folder):
    """Counts at full size and trains ten steps at a small one.

    Returns:
        {"parameters", "flops", "count_cpu", "losses", "cpu"}: the losses of the steps, and CPU seconds.
    Raises:
        SystemExit: The training failed, or a loss is not finite.
    """
    name = row.name.replace("/", ".")
    run, start, log = (folder / f"{name}{suffix}" for suffix in ("", ".start", ".log"))
    for left in (run, start):
        shutil.rmtree(left, ignore_errors=True)
    log.unlink(missing_ok=True)
    before = recorded.children_seconds()
    # In a process of its own, because TensorFlow keeps the memory of models and graphs.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        counts = pool.submit(prepare, row, start).result()
    count_cpu = recorded.children_seconds() - before
    flags = [f"--gin_file={file}" for file in row.files] + [f"--gin_param={param}" for param in row.params]
    flags += ["--train_records", records, "--workdir", run, "--init_from", start]
    cpu, _ = recorded.run_module(log, "htc_tf.train", *flags)
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for written in (run, start):
        shutil.rmtree(written)  # a checkpoint takes up to a gigabyte
    losses = [line["total"] for line in logged if "total" in line]
    if len(losses) != STEPS or not all(map(math.isfinite, losses)):
        raise SystemExit(f"{row.name}: losses {losses}")
    return {**counts._asdict(), "count_cpu": count_cpu, "losses": losses, "cpu": cpu}


def published_ap(file):
    """Returns "42.3 / 37.4", the published AP in an experiment config's header, or None."""
    text = (recorded.ROOT / file).read_text()
    found = re.search(r"^# .*\bAP: (\d[\d.]*(?: / [\d.]+)?)(?=[ .]|$)", text, re.MULTILINE)
    return found[1].rstrip(".") if found else None


def cells(row, entry):
    """Returns the cells of a row and its cached result, or None."""
    file = row.files[-1]
    override = len(row.files) > 1
    first = [f"[{Path(file).stem}](../{file})"] + ([] if override else [published_ap(file) or "none published"])
    if entry is None:
        return [*first, *["not yet"] * 4]
    losses = entry["losses"]
    return [
        *first,
        f"{entry['parameters'] / 1e6:.1f}",
        f"{entry['flops'] / 1e9:,.0f}",
        f"{losses[0]:.2f} → {losses[-1]:.2f}",
        f"{entry['cpu']:.0f}",
    ]


def write(path, tables, entries):
    lines = [INTRODUCTION]
    for title, rows in tables.items():
        header = ["file", "AP", "parameters", "GFLOPs", "loss", "CPU-s"]
        if len(rows[0].files) > 1:
            header.remove("AP")
        table = [cells(row, entries.get(row.name)) for row in rows]
        lines += [f"## {title}", "", *recorded.format_table(header, table), ""]
    done = [entry for entry in entries.values() if entry]
    cost = sum(entry["cpu"] + entry["count_cpu"] for entry in done)
    lines.append(f"{len(done)} rows took {cost:,.0f} CPU-seconds on {recorded.machines_of(done)}.")
    path = Path(path)
    kept = recorded.find_section(path.read_text(), costs.TITLE) if path.exists() else None
    path.write_text("\n".join(lines) + "\n")
    if kept:
        recorded.write_section(path, costs.TITLE, [kept])


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    cache = recorded.ResultCache(folder / "done.json")
    tables = plan()
    hows = {row.name: [*row.files, *row.params] for rows in tables.values() for row in rows}
    entries = {name: cache.find(name, how) for name, how in hows.items()}
    failed = []
    rows = [row for rows in tables.values() for row in rows if not flags.only or row.name in flags.only]
    rows = [] if flags.write_only else [row for row in rows if not entries[row.name]]
    for row in progress_bar(rows, unit="row", desc="zoo"):
        records = make_records(folder)
        try:
            outcome = measure(row, records, folder)
        except (Exception, SystemExit) as error:  # measure the other rows all the same
            failed.append(f"{row.name}: {error}")
            print(failed[-1], file=sys.stderr, flush=True)
            continue
        entries[row.name] = cache.add(row.name, hows[row.name], outcome)
        print(" | ".join(cells(row, entries[row.name])), flush=True)
        write(flags.output, tables, entries)
    write(flags.output, tables, entries)
    print(f"wrote {flags.output}")
    if failed:
        sys.exit(f"not done: {', '.join(line.partition(':')[0] for line in failed)}; run again to try these rows")


if __name__ == "__main__":
    main()
