"""python -m tests.studies.tiles: AP on scenes stitched to a large image, in tiles, shrunk, and one by one.

A network that was trained on the demo's scenes detects in 64 others: in each scene alone, in the mosaic of all of them
by tiles of several sizes and overlaps, and in the mosaic as it is, which is shrunk to the network's size. The borders
of the tiles cut the scenes and their objects. Detections in the mosaic are counted for the scene in which their center
lies, so that COCO's protocol applies to every row. The table is a section of docs/results.md. Run again, the command
continues after the last finished row.
"""

import argparse
import math
import time
from pathlib import Path
from unittest import mock

import numpy as np

from htc_tf import api
from htc_tf.evaluation.evaluator import evaluate_results
from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.results import ImageResult, coco_results
from htc_tf.inference.seams import AGREEMENT, MARGIN, Seams
from htc_tf.inference.tile_plan import Window, plan_tiles
from htc_tf.ops.runs import clip_runs, encode_runs, place_runs
from pipelines import scenes, shapes
from tests.studies import recorded

SECTION = "Large images in tiles"
GRID, CELL, SCENE = 8, 240, 192  # scenes in a row; pixels from one to the next; side of a scene
GAP = (CELL - SCENE) // 2
SIDE = GRID * CELL
GROUND = (124, 116, 104)  # of the gaps: the mean color, with which the network pads its images
ALONE, SHRUNK = "scenes one by one", "mosaic shrunk to 192 x 192"
TILES = ((SCENE, 0.2), (SCENE, 0.5), (448, 0.25), (640, 0.2))  # side in pixels, overlap
COMPARED = TILES[1]  # of the settings of `inference.seams`
SETTINGS = [(AGREEMENT, MARGIN), (2.0, -1.0), (AGREEMENT, -1.0), (0.3, MARGIN), (0.7, MARGIN)]
SETTINGS += [(AGREEMENT, 0.01)]


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.tiles", description=__doc__)
    parser.add_argument("--checkpoint", default="runs/demo", help="run of `make demo` (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=77, help="seed of the scenes (default: 77)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/tiles"), help="results so far")
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def main():
    flags = parse()
    drawn = draw_scenes(flags.seed)
    mosaic = stitch(drawn)
    cache = recorded.ResultCache(flags.workdir / "done.json")
    plans = {ALONE: [window_of(index) for index in range(len(drawn))], SHRUNK: [Window(0, 0, SIDE, SIDE)]}
    plans |= {row_name(*tile): list(plan_tiles(SIDE, SIDE, *tile)) for tile in TILES}
    params = {row_name(*tile): bindings(tile[0]) for tile in TILES}
    for name, windows in plans.items():
        how = [str(flags.checkpoint), flags.seed, name, *params.get(name, ())]
        if cache.find(name, how) is None:
            model = api.load(flags.checkpoint, gin_param=params.get(name, ()))
            cache.add(name, how, detect(model.detector, mosaic, windows))
    truth = ground_truth(drawn)
    metrics = {(name, setting): None for name in plans for setting in SETTINGS[:1]}
    metrics |= {(row_name(*COMPARED), setting): None for setting in SETTINGS}
    for name, (agreement, margin) in metrics:
        seams = Seams(SIDE, SIDE, *((9.0, -1.0) if name == ALONE else (agreement, margin)))
        for window, fields in cache.entries[name]["tiles"]:
            seams.add(Window(*window), ImageResult(*map(np.array, fields[:3]), fields[3]))
        metrics[name, (agreement, margin)] = evaluate(truth, seams.merge())
    recorded.write_section(flags.output, SECTION, report(metrics, cache.entries, flags))


def row_name(tile, overlap):
    return f"tiles of {tile} pixels, overlap {overlap}"


def bindings(tile):
    """Returns the bindings for tiles of more than one scene: as many pixels and objects as the scenes have alone."""
    scenes_inside = math.ceil((tile / SCENE) ** 2)
    if scenes_inside == 1:
        return []
    numbers = f"Postprocess.keep={50 * scenes_inside}", f"RPN.inference_proposals={256 * scenes_inside}"
    return [f"IMAGE_MIN_SIDE={tile}", f"IMAGE_MAX_SIDE={tile}", *numbers]


def draw_scenes(seed):
    """Draws the scenes, all of one size."""
    with mock.patch.object(scenes, "SIDES", (SCENE, SCENE)):
        return [shapes.make_scene(seed, "val2017", index) for index in range(GRID**2)]


def window_of(index):
    row, column = divmod(index, GRID)
    return Window(row * CELL + GAP, column * CELL + GAP, SCENE, SCENE)


def stitch(drawn):
    mosaic = np.empty([SIDE, SIDE, 3], np.uint8)
    mosaic[:] = GROUND
    for index, scene in enumerate(drawn):
        top, left, height, width = window_of(index)
        mosaic[top : top + height, left : left + width] = scene.image
    return mosaic


def detect(detector, mosaic, windows):
    """Returns {"tiles": [[window, fields of its ImageResult], ...], "seconds": CPU time} for JSON."""
    began = time.process_time()
    parts = ((window, mosaic[window.top :, window.left :][: window.height, : window.width]) for window in windows)
    tiles = [
        [window, [result.boxes.tolist(), result.scores.tolist(), result.classes.tolist(), result.masks]]
        for window, _, result in detect_in_batches(detector, parts, batch=4)
    ]
    return {"tiles": tiles, "seconds": time.process_time() - began}


def ground_truth(drawn):
    images = [{"id": index, "height": SCENE, "width": SCENE} for index in range(len(drawn))]
    things = [(index, place, thing) for index, scene in enumerate(drawn) for place, thing in enumerate(scene.things)]
    annotations = [{**shapes.annotate(thing, index + 1, place), "image_id": index} for index, place, thing in things]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(scenes.THINGS)]
    return {"images": images, "annotations": annotations, "categories": categories}


def evaluate(truth, result):
    """Returns (box AP, mask AP) of an ImageResult of the mosaic."""
    cells = ((result.boxes[:, :2] + result.boxes[:, 2:]) / 2 // CELL).astype(int)  # [n, 2]
    cells = np.clip(cells, 0, GRID - 1) @ [GRID, 1]
    results = []
    for index in range(GRID**2):
        keep = np.flatnonzero(cells == index)
        window = window_of(index)
        corner = np.float32([window.top, window.left] * 2)
        masks = [crop(result.masks[row], window) for row in keep]
        results.append(ImageResult(result.boxes[keep] - corner, result.scores[keep], result.classes[keep], masks))
    entries = coco_results(results, range(GRID**2), range(1, len(scenes.THINGS) + 1))
    metrics = evaluate_results(truth, entries)
    return metrics["bbox/AP"], metrics["segm/AP"]


def crop(mask, window):
    """Returns the part of the mosaic's mask inside a scene, as COCO run lengths of the scene."""
    runs = clip_runs(place_runs(mask, 0, 0, SIDE), window, SIDE)
    column, row = np.divmod(runs[:, 0], SIDE)
    start = (column - window.left) * SCENE + row - window.top
    moved = np.stack([start, start + runs[:, 1] - runs[:, 0]], axis=1)
    return encode_runs([moved], SCENE, SCENE)[0]


def report(metrics, entries, flags):
    def cells(key):
        return [f"{value:.3f}" for value in metrics[key]]

    default, compared = SETTINGS[0], row_name(*COMPARED)
    order = [ALONE, *(row_name(*tile) for tile in TILES), SHRUNK]
    rows = [
        [name, *cells((name, default)), str(len(entries[name]["tiles"])), f"{entries[name]['seconds']:.0f}"]
        for name in order
    ]
    names = {SETTINGS[0]: "as it is", SETTINGS[1]: "nothing merged or dropped", SETTINGS[2]: "cut pieces are kept"}
    names |= {s: f"AGREEMENT = {s[0]}, MARGIN = {s[1]}" for s in SETTINGS[3:]}
    return [
        f"`python -m tests.studies.tiles` detects in {GRID**2} drawn scenes of {SCENE} x {SCENE} pixels that the "
        f"demo's network has not seen (seed {flags.seed}), alone and stitched to a mosaic of {SIDE} x {SIDE} pixels "
        f"with {2 * GAP} pixels between them. The tiles' borders cut the scenes and their objects, whose diameters are "
        f"{scenes.DIAMETERS[0]} to {scenes.DIAMETERS[1]} pixels. Detections count for the scene that has their center. "
        "In tiles that are larger than a scene the network sees objects at the same size, and may find as many for "
        "each scene.",
        "",
        *recorded.format_table(["", "box AP", "mask AP", "passes", "CPU-seconds"], rows),
        "",
        f"Settings of `inference.seams`, {compared}:",
        "",
        *recorded.format_table(
            ["", "box AP", "mask AP"], [[names[setting], *cells((compared, setting))] for setting in SETTINGS]
        ),
    ]


if __name__ == "__main__":
    main()
