"""detectron2, Mask R-CNN and Cascade Mask R-CNN at toy size: maps, proposals, detections, losses and gradients.

Ours are built from the experiment configs of gin/detectron2 and read a .pkl of the drawn weights. The arrays are
tests/reference/detectron2.npz, which tests/reference/originals/detectron2.py writes: NHWC; x1, y1, x2, y2.
"""

import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config, weights
from htc_tf.ops.masks import paste
from htc_tf.ops.matching import subsample_evenly
from htc_tf.structures import GroundTruth
from htc_tf.weights.assign import load
from htc_tf.weights.detectron2_names import to_detectron2
from htc_tf.weights.sources import read_weights

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
DRAWN = runpy.run_path(str(REFERENCE / "detectron2_weights.py"))
SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2
TOY = (
    *("ResNet.width=8", "FPN.channels=16", "RPN.channels=16", "BoxHead.channels=32", "MaskHead.channels=16"),
    *("MaskHead.num_convs=2", f"NUM_CLASSES={DRAWN['CLASSES']}", "RPN.training_kept=40", "RoISampler.limit=64"),
    "RoISampler.positive_fraction=1.0",
)
CASES = {
    "mask_rcnn_r50_fpn": ("mask_rcnn_r50_fpn_1x_coco", TOY),
    "cascade_mask_rcnn_r50_fpn": ("cascade_mask_rcnn_r50_fpn_1x_coco", TOY),
    # 4 groups of 2 channels
    "mask_rcnn_x101_32x8d_fpn": (
        "mask_rcnn_x101_32x8d_fpn_3x_coco",
        (*TOY, "ResNet.depth=50", "ResNet.groups=4", "ResNet.group_width=16"),
    ),
}
LOSSES = {
    **{"rpn_class": "loss_rpn_cls", "rpn_box": "loss_rpn_loc", "stage1_mask": "loss_mask"},
    **{"stage1_class": "loss_cls", "stage1_box": "loss_box_reg"},
}
CASCADE_LOSSES = {
    f"stage{i + 1}_{a}": f"loss_{b}_stage{i}" for i in range(3) for a, b in (("class", "cls"), ("box", "box_reg"))
}


def draw(model):
    """Returns the drawn state dict of a model, with detectron2's names."""
    return DRAWN["state_dict"]({name: array.shape for name, array in weights.detectron2_arrays(model).items()})


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A model with the weights of a .pkl file, and its batch."""
    name, params = CASES[request.param]
    experiment, _ = config.load([f"gin/detectron2/{name}.gin"], params)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # as `Experiment.prepare_runtime`
    model = experiment.build_model()
    model.build_variables()
    state, path = draw(model), tmp_path_factory.mktemp("detectron2") / "model_final_123abc.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}))
    found = read_weights(path)
    assert found.source == "detectron2"
    assert load(model, found.arrays, found.framework) == weights.Unmatched([], [], [])
    height, width = np.max(DRAWN["SIZES"], axis=0)
    images = np.zeros([2, height, width, 3], np.uint8)
    for row, image in zip(images, DRAWN["images"](), strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    with np.load(REFERENCE / "detectron2.npz") as arrays:
        expected = {key.split("/", 1)[1]: arrays[key] for key in arrays if key.startswith(f"{request.param}/")}
    return SimpleNamespace(
        name=request.param,
        experiment=experiment,
        model=model,
        state=state,
        images=tf.constant(images),
        sizes=tf.constant(DRAWN["SIZES"], tf.float32),
        expected=expected,
    )


def test_round_trip(case):
    back = weights.detectron2_arrays(case.model)
    assert back.keys() == case.state.keys()
    for name, array in case.state.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_maps_and_proposals(case, compare):
    (pyramid,) = case.model.extract_pyramids(case.images, case.sizes)
    for level in (3, 4, 5, 6):
        compare(f"{case.name}: P{level}", pyramid[level], case.expected[f"p{level}"], rtol=1e-4)
    proposals = case.model.rpn(pyramid, case.sizes, training=False).proposals
    for row in range(2):
        boxes = proposals.boxes[row].numpy()[proposals.valid[row].numpy()][:, SWAP]
        expected = case.expected[f"proposals_{row}"]
        assert len(boxes) == len(expected)
        # Nearly equal scores swap neighbors, and several levels propose the whole image.
        distance = np.abs(boxes - expected[:, np.newaxis]).max(-1)
        for axis in (0, 1):
            compare(f"{case.name}: proposals, pixels to the nearest", distance.min(axis).max(), 0, atol=0.01)


def test_detections(case, compare):
    detections = case.model.infer(case.images, case.sizes)
    for row in range(2):
        boxes, scores, classes = (case.expected[f"{name}_{row}"] for name in ("boxes", "scores", "classes"))
        ours = detections.boxes[row].numpy()[:, SWAP]
        assert detections.valid[row].numpy().sum() == len(boxes)
        distance = np.abs(ours - boxes[:, np.newaxis]).max(-1)
        distance += 1e6 * (detections.classes[row].numpy() != classes[:, np.newaxis])
        order = distance.argmin(axis=1)
        assert len(set(order)) == len(boxes)
        compare(f"{case.name}: boxes, pixels", ours[order], boxes, atol=0.01)
        compare(f"{case.name}: scores", detections.scores[row].numpy()[order], scores, atol=1e-4)
        some = len(case.expected[f"masks_{row}"])
        masks = detections.masks[row].numpy()[order[:some]]
        compare(f"{case.name}: masks", masks, case.expected[f"masks_{row}"], atol=1e-4)
        height, width = DRAWN["ORIGINAL_SIZES"][row]
        scale = np.array([width, height, width, height]) / np.array(DRAWN["SIZES"][row])[[1, 0, 1, 0]]
        final = (ours[order] * scale).astype(np.float32)
        compare(f"{case.name}: boxes in the original, pixels", final, case.expected[f"final_boxes_{row}"], atol=0.02)
        pasted = paste(masks, final[:some][:, SWAP], height, width).numpy()
        bits = np.unpackbits(case.expected[f"final_masks_{row}"], axis=-1)[..., :width]
        compare(f"{case.name}: share of mask pixels that differ", (pasted != bits).mean(), 0, atol=1e-3)


def ground_truth(images):
    """Returns the GroundTruth, with masks of the whole padded image."""
    (count, height, width, _), objects = images.shape, 3
    boxes, classes = np.zeros([count, objects, 4], np.float32), np.zeros([count, objects], np.int32)
    masks = np.zeros([count, objects, height, width], np.uint8)
    rows = zip(DRAWN["boxes"](), DRAWN["classes"](), DRAWN["bitmaps"](), strict=True)
    for i, (own_boxes, own_classes, bitmaps) in enumerate(rows):
        boxes[i, : len(own_boxes)], classes[i, : len(own_boxes)] = own_boxes[:, SWAP], own_classes
        masks[i, : len(own_boxes), : bitmaps.shape[1], : bitmaps.shape[2]] = 255 * bitmaps
    return GroundTruth(
        boxes=tf.constant(boxes),
        classes=tf.constant(classes),
        valid=tf.constant([[i < len(own) for i in range(objects)] for own in DRAWN["boxes"]()]),
        masks=tf.constant(masks),
        crop_boxes=tf.zeros_like(boxes) + tf.constant([0, 0, height, width], tf.float32),
        semantic=tf.zeros([count, height // 8, width // 8], tf.int32),
    )


def test_losses_and_gradients(case, compare, monkeypatch):
    """Anchors are sampled evenly, all RoIs are taken; the cascade trains its only mask head on the first stage's."""
    if "loss_mask" not in case.expected:
        pytest.skip("the ResNeXt was recorded in inference only")
    objective, truth, seed = case.experiment.objective, ground_truth(case.images), tf.constant([0, 0])
    monkeypatch.setattr(objective.anchor_sampler, "choose", lambda seed: subsample_evenly)
    with tf.GradientTape() as tape:
        outputs = case.model(case.images, case.sizes, truth, seed)
        losses = {name: loss.value for name, loss in objective(outputs, truth, case.sizes, seed).items()}
        total = tf.add_n(list(losses.values()))
    names = LOSSES if len(outputs.stages) == 1 else LOSSES | CASCADE_LOSSES
    assert losses.keys() == names.keys()
    for ours, theirs in names.items():
        compare(f"{case.name}: loss {ours}", losses[ours], case.expected[theirs], rtol=1e-4)
    table = weights.entries(case.model)
    gradients = tape.gradient(total, [entry.variable for entry in table])
    arrays = to_detectron2(
        {
            entry.name: entry.layout.theirs(gradient.numpy(), case.model)
            for entry, gradient in zip(table, gradients, strict=True)
            if gradient is not None
        }
    )
    wanted = [name for name in case.expected if name.startswith("gradient_")]
    assert len(wanted) >= 9
    for name in wanted:
        ours = arrays[name.removeprefix("gradient_")]
        compare(f"{case.name}: {name.replace('_', ' of ', 1)}", ours, case.expected[name], rtol=1e-3)
