"""The page: panels, text wrapping, and what is drawn on its images."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.explanation.canvas import Canvas, cut, heat, spread, tint, window
from htc_tf.explanation.diagram import _Diagram
from htc_tf.explanation.layout import Layout, draw_explanation
from htc_tf.explanation.page import GAP, MARGIN, Panel, draw_page, wrap
from htc_tf.explanation.panels import Panels, depths
from htc_tf.explanation.trace import Trace
from htc_tf.ops.paste import encode_masks
from htc_tf.structures import Detections
from htc_tf.visualization import fonts
from htc_tf.visualization.palette import palette

CATEGORIES = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]


def make_trace(stages=3, masks=True, semantic=True, found=2, height=60, heads=None, **options):
    """Two objects of two classes on a gray image, 80 pixels wide and resized to half; boxes shrink onto the objects."""
    final = np.float32([[4, 4, 16, 16], [10, 22, 26, 38], [0, 30, 6, 36]])
    steps = [final + (stages - step) * np.float32([1, 1, -1, -1]) for step in range(stages + 1)]
    logits = np.full((stages, 3, 3), 0, np.float32)
    logits[:, [0, 1, 2], [0, 1, 2]] = 4
    soft = np.tile(np.float32([[0.9, 0.2], [0.9, 0.9]]).repeat(14, 0).repeat(14, 1), (stages, found, 1, 1))
    heads = tuple(range(1, stages + 1)) if heads is None else heads
    labels = np.zeros((height // 2, 40), np.uint8)
    labels[:, 20:] = 7
    detections = Detections(
        final[:found],
        np.float32([0.9, 0.8])[:found],
        np.int32([0, 1])[:found],
        np.ones(found, bool),
        soft.mean(axis=0) if masks else None,
    )
    photo = np.full((height, 80, 3), 120, np.uint8)
    return Trace(
        original=photo,
        image=photo[::2, ::2],
        padded=(64, 64),
        levels={
            level: np.random.default_rng(level).random((-(-height // 2**level), 2 ** (6 - level)))
            for level in range(2, 7)
        },
        scores=np.float32([0.9, 0.5, 0.1]),
        boxes=np.stack(steps),
        logits=logits,
        labels=labels if semantic else None,
        detections=detections,
        rows=np.arange(found),
        masks=soft[: len(heads)] if masks else None,
        mask_stages=heads if masks else (),
        thresholds=(0.5, 0.6, 0.7, 0.75)[:stages],
        average_masks=True,
        **{"interleaved": True, "mask_info_flow": True, "relay": False, "global_context": False, **options},
    )


def titles(trace):
    layout = Layout(trace, Panels(trace, CATEGORIES, 1.0, trace.objects), 1.0)
    return [[panel.title for panel in row] for row in layout.rows()]


FIRST = ["The image", "The pyramid"]
SCNET = {"relay": True, "global_context": True}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {},
            [
                ["Proposals", "The semantic branch", "The cascade"],
                ["Stage 1", "Stage 2", "Stage 3"],
                ["The masks", "Detections"],
            ],
        ),
        (
            {"heads": (3,), "interleaved": False, "mask_info_flow": False, **SCNET},
            [
                ["Proposals", "The semantic branch", "The cascade"],
                ["Stage 1", "Stage 2", "Stage 3"],
                ["The masks", "Detections"],
            ],
        ),
        (
            {"masks": False, "semantic": False},
            [["Proposals", "The cascade"], ["Stage 1", "Stage 2"], ["Stage 3", "Detections"]],
        ),
        (
            {"stages": 4},
            [
                ["Proposals", "The semantic branch", "The cascade"],
                ["Stage 1", "Stage 2"],
                ["Stage 3", "Stage 4"],
                ["The masks", "Detections"],
            ],
        ),
        ({"stages": 1}, [["Proposals", "The semantic branch", "Stage 1"], ["The masks", "Detections"]]),
        ({"stages": 1, "masks": False, "semantic": False}, [["Proposals", "Stage 1", "Detections"]]),
        (
            {"stages": 2, "found": 0},
            [["Proposals", "The semantic branch", "The cascade"], ["Stage 1", "Stage 2", "Detections"]],
        ),
    ],
)
def test_the_layout_leaves_out_what_the_model_lacks(parts, expected):
    trace = make_trace(**parts)
    assert titles(trace) == [FIRST, *expected]
    page = draw_explanation(trace, CATEGORIES, "photo.jpg", width=600, objects=1)
    assert page.shape[1:] == (600, 3) and page.dtype == np.uint8
    assert 400 < page.shape[0] < 1600
    margin = page[:, : MARGIN // 2]
    assert (margin == margin[0, 0]).all()


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("heads", [(1, 2, 3), (3,), (1,)])
def test_the_legend_has_every_color_of_the_diagram(interleaved, heads, monkeypatch):
    drawn = []
    monkeypatch.setattr(_Diagram, "arrow", lambda diagram, points, color: drawn.append(color))
    diagram = _Diagram(make_trace(heads=heads, interleaved=interleaved, **SCNET), 400, 1.0)
    diagram.draw()
    assert set(drawn) == {color for color, _ in diagram.entries()}


def test_names_beyond_ascii_and_without_letters():
    """A category name without a font is replaced by its id; Cyrillic letters are drawn."""

    def page(second, photo="photo.jpg"):
        return draw_explanation(
            make_trace(), [{"id": 1, "name": "circle"}, {"id": 25, "name": second}], photo, width=600
        )

    np.testing.assert_array_equal(page("\U000e0fff"), page("25"))
    assert (page("\u0436\u0443\u043a") != page("\u0434\u0443\u043a")).any()
    assert (page("x", "\u0436.jpg") != page("x", "\u0434.jpg")).any()
    assert page("w" * 10_000, "w" * 10_000 + "\n.jpg").shape[1] == 600


def test_a_page_is_the_same_at_any_width():
    small, large = (draw_explanation(make_trace(), CATEGORIES, "photo.jpg", width) for width in (600, 1200))
    assert small.shape[0] * 2 == pytest.approx(large.shape[0], rel=0.02)


def test_the_masks_of_a_crowd_have_room():
    """--objects has no limit."""
    trace = make_trace()
    panels = Panels(trace, CATEGORIES, 0.6, np.zeros(100, int))
    assert draw_page("title", "subtitle", Layout(trace, panels, 0.6).rows(), 600).height > 100 * 20


@pytest.mark.parametrize("semantic", [True, False])
@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1000, 10), (10, 1000), (1, 1)])
def test_thin_and_tiny_images(size, semantic):
    height, width = size
    rows, columns = max(height // 2, 1), max(width // 2, 1)
    trace = make_trace(semantic=semantic)._replace(
        original=np.full((height, width, 3), 120, np.uint8),
        image=np.full((rows, columns, 3), 120, np.uint8),
        levels={level: np.ones((-(-rows // 2**level), -(-columns // 2**level))) for level in range(2, 7)},
    )
    if semantic:
        trace = trace._replace(labels=np.zeros((rows, columns), np.uint8))
    assert draw_explanation(trace, CATEGORIES, "x.jpg", 600).shape[1] == 600


def test_a_panel_of_two_columns_is_as_wide_as_two():
    widths = []

    def note(width):
        widths.append(width)
        return Image.new("RGB", (width, 10), (200, 0, 0))

    one, two = Panel("a", "b", "", note), Panel("a", "b", "c", note, 2)
    page = np.asarray(draw_page("title", "subtitle", [[one, two], [one, one, one]], 1000))
    assert widths[1] == pytest.approx(2 * widths[2] + GAP, abs=1) and widths[0] == widths[2]
    red = (page == (200, 0, 0)).all(axis=-1)
    rows = np.flatnonzero(red.any(axis=1))
    assert len(rows) == 20 and red[rows[0]].sum() == widths[0] + widths[1]
    assert np.flatnonzero(red[rows[-1]])[-1] == pytest.approx(1000 - MARGIN, abs=1)


def test_wrap():
    font = fonts.load(12)
    text = "a page of words that are to be broken between and never within"
    lines = wrap(text, font, 90)
    assert " ".join(lines) == text and len(lines) > 3
    assert all(font.getlength(line) <= 90 for line in lines)
    assert wrap(f"{'unbreakable' * 9} name", font, 90)[0].endswith("…")


def test_masks_lie_where_they_are_pasted():
    """Thresholded, the mask has the pixels that evaluation pastes when the frame is the image."""
    rng = np.random.default_rng(5)
    mask = rng.random((28, 28)).astype(np.float32)
    frame, box = np.array([10.0, 20, 110, 120]), np.float32([22.3, 31.8, 87.1, 99.6])
    pasted = coco_mask.decode(
        encode_masks(mask[np.newaxis], (box - np.tile(frame[:2], 2).astype(np.float32))[np.newaxis], 100, 100)[0]
    )
    mine = spread(mask, box, frame, (100, 100)) >= 0.5
    assert mine.sum() > 1000
    assert (mine != pasted.astype(bool)).mean() < 2e-3


def test_a_window_is_padded_with_the_background():
    photo = np.random.default_rng(1).integers(0, 200, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(window(photo, np.array([10, 20, 30, 40.0]), 20), photo[10:30, 20:40])
    seen = window(photo, np.array([-10, -10, 30, 30.0]), 40)
    np.testing.assert_array_equal(seen[10:, 10:], photo[:30, :30])
    assert (seen[:10] == seen[0, 0]).all() and seen[0, 0].min() > 240
    assert (window(photo, np.array([90, 90, 99, 99.0]), 9) > 240).all()


def test_a_tint_colors_what_is_likely_and_outlines_it():
    share = np.clip((np.arange(60) - 20) / 20, 0, 1) * np.ones((60, 1), np.float32)
    drawn = np.asarray(tint(np.full((60, 60, 3), 90, np.uint8), share, (240, 0, 0), 2)).astype(int)
    assert np.ptp(drawn[30, 5]) == 0  # gray
    assert drawn[30, 55, 0] - drawn[30, 55, 1] > 100
    edge = np.abs(drawn[30] - 0.72 * np.array([240, 0, 0])).sum(axis=-1).argmin()
    assert edge in (29, 30)
    # `cut` thresholds it there and leaves the rest as it is.
    final = np.asarray(cut(np.full((60, 60, 3), 90, np.uint8), share, (240, 0, 0), 2)).astype(int)
    assert (final[:, :26] == 90).all() and np.ptp(final[:, 33:, 0]) == 0 and final[30, 33, 0] > 130


def test_a_plate_draws_boxes():
    canvas = Canvas(np.zeros((40, 60, 3), np.uint8), (120, 80), 4.0)
    canvas.box([2, 5, 8, 25], (0, 255, 0), 4)
    canvas.box([2, 5, 8, 25], (255, 255, 255), 2, 0.5, dashed=True)
    drawn = np.asarray(canvas.finish()).astype(int)
    assert drawn.shape == (80, 120, 3)
    assert (drawn[20:30, 19:22, 1] == 255).all() and not drawn[12:28, 24:96].any() and not drawn[:, :15].any()
    inside = drawn[8, 26:90] @ [1, 0, 1] > 120
    assert 0.3 < inside.mean() < 0.7 and np.abs(np.diff(inside.astype(int))).sum() > 4  # dashes


def test_objects_keep_their_color_on_every_plate():
    trace = make_trace()
    panels = Panels(trace, CATEGORIES, 1.0, trace.objects)
    for picture in (panels.proposals(320), panels.stage(1, 320), panels.stage(3, 320)):
        for color in palette(2).astype(int):
            assert (np.abs(np.asarray(picture).astype(int) - color).max(axis=-1) < 6).sum() > 100
    semantic = np.asarray(panels.semantic(320)).astype(int)
    assert semantic.shape == (240, 320, 3)
    assert np.abs(semantic[20, 20] - semantic[20, 300]).max() > 20


def test_heat_and_depth():
    drawn = np.asarray(heat(np.array([[0.0, 0.5], [1.0, 2.0]]), (4, 4))).astype(int)
    assert drawn[0, 0].sum() < drawn[0, 2].sum() < drawn[2, 0].sum() and (drawn[2, 0] == drawn[3, 3]).all()
    region = np.zeros((40, 60), bool)
    region[5:35, 10:50] = True
    deepest = np.unravel_index(depths(region).argmax(), (40, 60))
    assert 7 < deepest[0] < 33 and 12 < deepest[1] < 48
