"""Exports of models with other parts: nothing but operations that TensorFlow Serving has, and the same detections."""

import numpy as np
import pytest

from htc_tf import config
from htc_tf.inference.detector import Detector
from htc_tf.inference.exported import ExportedDetector
from htc_tf.models.backbones import resnet
from htc_tf.serving.module import Options, make_predict_fn
from htc_tf.serving.write import export
from tests.serving.exports import CATEGORIES, MASKS, check_core_operations, draw_samples, read_graph, sharpen
from tests.slow import slow

# Overrides with operations that the tiny model lacks: the operations, and bindings of a small size.
PARTS = {
    "options/convnext_t": (
        {"DepthwiseConv2dNative", "Erf"},
        ("ConvNeXt.channels=8", "ConvNeXt.depths=(1, 1, 1, 1)", "BACKBONE_WEIGHTS=None"),
    ),
    "options/sac": ({"MirrorPad", "AvgPool"}, ("ResNet.depth=50", "ResNet.switchable_stages=(4,)")),
    "options/rfp": ({"SpaceToBatchND", "BatchToSpaceND"}, ("ResNet.depth=50", "RecursiveFPN.feedback_channels=4")),
    "base/scnet": (
        {"ResizeBilinear"},  # of the relay
        (
            *("NUM_STAGES=3", "GlobalContextHead.channels=16", "FeatureRelay.channels=16"),
            *("MaskHead.num_convs=2", "SemanticHead.num_convs=2"),
        ),
    ),
}


@pytest.fixture
def build(monkeypatch):
    """build(part) returns the Experiment and the model, with one padded shape."""
    monkeypatch.setitem(resnet.BLOCKS, 50, (1, 1, 1, 1))  # the fewest bottlenecks

    def build(part):
        files = ["tests/tiny.gin", "gin/options/no_semantic.gin", f"gin/{part}.gin"]
        experiment, _ = config.load(files, ["NUM_STAGES=1", *PARTS[part][1]])
        experiment.prepare_runtime(seed=0)
        model = experiment.build_model()
        model.build_variables()
        return experiment, model

    return build


def test_core_operations_of_a_part(build):
    """The function that an export has for its padded shape, without the export."""
    part = "options/rfp"
    experiment, model = build(part)
    function = make_predict_fn(model, experiment.eval_input.shapes[0], Options(MASKS)).get_concrete_function()
    check_core_operations(function.graph.as_graph_def(), PARTS[part][0])


@pytest.mark.parametrize("part", slow(*PARTS))
def test_an_export_with_other_parts(build, part, tmp_path):
    experiment, model = build(part)
    sharpen(model)
    detector = Detector(model, experiment)
    version = export(detector, CATEGORIES, tmp_path / "model", Options(MASKS, batch_sizes=(1,)))
    check_core_operations(read_graph(version), PARTS[part][0])
    image = draw_samples()[0]
    found, wanted = ExportedDetector(version).detect_image(image), detector.detect_image(image)
    assert len(found.scores) > 3
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
