"""Drawings: the colors of masks, outlines and labels, and the pixels left alone."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.visualization import labels
from htc_tf.visualization.drawing import contact_sheet, draw, side_by_side
from htc_tf.visualization.labels import _best_place, add_legend
from htc_tf.visualization.palette import palette, readable_on

NAMES = ("circle", "square", "star")
HEIGHT, WIDTH = 480, 700


@pytest.fixture
def image():
    """Gray with some noise, large enough not to be enlarged."""
    return np.random.default_rng(0).integers(110, 130, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[150:350, 200:400] = True
    return mask


BOX = [[150, 200, 350, 400]]


def distance(pixels, color):
    """The largest difference in a channel, per pixel."""
    return np.abs(pixels.astype(int) - np.asarray(color, int)).max(axis=-1)


def test_outline_tint_and_what_is_far_away(image, mask):
    picture = draw(image, BOX, [1], NAMES, masks=[mask])
    color = palette(3)[1]
    assert picture.shape == image.shape and picture.dtype == np.uint8
    # On the edge of the mask, halfway down, where box and mask coincide: the class color.
    assert distance(picture[250, [199, 200, 399, 400]], color).max() < 25
    assert distance(picture[[149, 150, 349, 350], 300], color).max() < 25
    # Deep inside: between the image and the color, with the contrast of the image.
    inside, before = picture[240:260, 290:310].astype(int), image[240:260, 290:310].astype(int)
    share = (inside.mean((0, 1)) - before.mean((0, 1))) / (color - before.mean((0, 1)))
    assert ((share > 0.2) & (share < 0.5)).all()
    assert inside.std() > 0.5 * before.std()
    far = np.ones((HEIGHT, WIDTH), bool)
    far[120:360, 190:410] = False
    np.testing.assert_array_equal(picture[far], image[far])


def test_a_line_of_the_mask_is_as_wide_everywhere(image):
    """Even on a slanted edge, where pixels make stairs."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    slanted = rows + 0.5 * columns > 400
    gray = np.full_like(image, 90)
    picture = draw(gray, np.zeros((0, 4)), [], NAMES)
    np.testing.assert_array_equal(picture, gray)
    picture = draw(gray, [[0, 0, HEIGHT, WIDTH]], [2], NAMES, masks=[slanted])
    color = palette(3)[2]
    line = (distance(picture, color) < 60)[40:200, 450:600]
    widths = line.sum(axis=0)
    assert widths.min() >= 1 and widths.max() - widths.min() <= 1


def test_masks_as_run_lengths_and_as_bitmaps_look_the_same(image, mask):
    runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    for counts in runs["counts"], runs["counts"].decode():
        picture = draw(image, BOX, [1], NAMES, masks=[{"size": runs["size"], "counts": counts}])
        np.testing.assert_array_equal(picture, draw(image, BOX, [1], NAMES, masks=[mask]))


def test_drawing_is_deterministic_and_leaves_the_image_alone(image, mask):
    before = image.copy()
    first, second = (draw(image, BOX, [0], NAMES, [0.9], [mask]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_any_type_draw_the_same(image, mask, dtype):
    """In NumPy 2 a float64 scalar would make the opacities float64, and so other pixels."""
    scores = np.linspace(0.3, 0.9, 7, dtype=dtype)
    boxes, masks = np.repeat(BOX, 7, axis=0), [np.roll(mask, 20 * shift, axis=1) for shift in range(7)]
    drawn, expected = (draw(image, boxes, range(7), list("abcdefg"), s, masks, 0) for s in (scores, scores.tolist()))
    np.testing.assert_array_equal(drawn, expected)


def test_threshold(image, mask):
    picture = draw(image, BOX * 2, [0, 1], NAMES, np.float32([0.4, 0.3]), [mask, mask], threshold=0.5)
    np.testing.assert_array_equal(picture, image)
    low = draw(image, BOX * 2, [0, 1], NAMES, np.float32([0.4, 0.3]), [mask, mask], threshold=0.35)
    np.testing.assert_array_equal(low, draw(image, BOX, [0], NAMES, [0.4], [mask], threshold=0))


def test_the_label_is_a_chip_of_the_class_color_above_the_box(image):
    picture = draw(image, BOX, [2], NAMES, [0.87])
    label = picture[130:149, 202:230]
    assert (distance(label, palette(3)[2]) < 20).mean() > 0.4  # the ground
    assert (distance(label, readable_on(palette(3)[2])) < 60).any()  # the letters
    assert (picture != draw(image, BOX, [2], NAMES)).any()  # the score is written


@pytest.mark.parametrize("box", [[-50, -80, 900, 900], [0, 0, 0, 0], [479, 699, 480, 700], [100, 100, 100, 300]])
def test_boxes_at_the_border_and_without_area(image, box):
    assert draw(image, [box], [0], NAMES, [0.9]).shape == image.shape


def test_an_empty_mask_still_has_its_box(image):
    picture = draw(image, BOX, [0], NAMES, masks=[np.zeros((HEIGHT, WIDTH), bool)])
    assert distance(picture[250, 200], palette(3)[0]) < 80 < distance(image[250, 200], palette(3)[0])


@pytest.mark.parametrize("shape", [(100, 160), (33, 20), (1, 1)])
def test_small_images_are_enlarged(shape):
    image = np.full((*shape, 3), 60, np.uint8)
    mask = np.zeros(shape, bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = True
    box = [shape[0] / 4, shape[1] / 4, shape[0] / 2, shape[1] / 2]
    picture = draw(image, [box], [1], NAMES, [0.9], [mask])
    assert max(picture.shape[:2]) == 640
    assert abs(picture.shape[0] / picture.shape[1] - shape[0] / shape[1]) < 0.01
    if mask.any():
        scale = 640 / max(shape)
        y, x = round(scale * shape[0] * 3 / 8), round(scale * (shape[1] // 4))
        assert distance(picture[y, x], palette(3)[1]) < 40  # the outline is where the enlarged object is


def test_labels_keep_apart():
    """Six boxes on one spot get labels that share no pixel; a label in a corner stays inside the image."""
    taken = []
    for _ in range(6):
        place, hidden = _best_place((200, 200, 300, 300), 20, 60, (WIDTH, HEIGHT), taken, np.zeros((0, 4)))
        assert hidden == 0
        taken.append(place)
    assert taken[0] == (180, 200, 200, 260)
    assert _best_place((0, 0, 5, 5), 20, 60, (WIDTH, HEIGHT), [], np.zeros((0, 4)))[0] == (5, 0, 25, 60)
    covered = np.zeros((HEIGHT, WIDTH), int)
    for y1, x1, y2, x2 in taken:
        covered[y1:y2, x1:x2] += 1
    assert covered.max() == 1 and covered.sum() == 6 * 20 * 60


def test_labels_of_a_crowd_are_smaller_and_keep_apart(image, monkeypatch):
    """Each of sixty objects has its label, and the labels hardly overlap."""
    places = []
    monkeypatch.setattr(labels, "_draw_label", lambda image, label, score, place, font, pad: places.append(place))
    rng = np.random.default_rng(0)
    centers, halves = rng.uniform(0, (HEIGHT, WIDTH), (60, 2)), rng.uniform(10, 60, (60, 2))
    boxes = np.concatenate([centers - halves, centers + halves], axis=1).clip(0, [HEIGHT, WIDTH] * 2)
    draw(image, boxes, rng.integers(0, 3, 60), NAMES, np.linspace(1, 0.5, 60))
    covered = np.zeros((HEIGHT, WIDTH), int)
    for y1, x1, y2, x2 in places:
        covered[y1:y2, x1:x2] += 1
    assert len(places) == 60 and (covered > 1).sum() < 0.01 * (covered > 0).sum()
    crowded = max(y2 - y1 for y1, _, y2, _ in places)
    places.clear()
    draw(image, BOX, [0], NAMES, [0.9])
    assert crowded < places[0][2] - places[0][0]


def test_a_faint_score_tints_less(image, mask):
    def away(scores):
        picture = draw(image, BOX, [1], NAMES, scores, [mask], threshold=0)
        return distance(picture, palette(3)[1])

    sure, faint = away([1.0]), away([0.2])
    assert sure[240:260, 290:310].mean() < faint[240:260, 290:310].mean() - 5
    np.testing.assert_array_equal(sure[260, 199:201], faint[260, 199:201])  # the outline is as clear


def test_a_legend_takes_the_rows_that_it_needs():
    picture = Image.new("RGB", (200, 100), (9, 9, 9))
    entries = [(f"label {number}", color) for number, color in enumerate(palette(9))]
    grid = np.asarray(add_legend(picture, entries))
    assert grid.shape[1] == 200 and (grid[:100] == 9).all()
    for _, color in entries:
        assert (distance(grid[100:], color) < 25).sum() > 100
    assert add_legend(picture, []).size == (200, 100)


NO_LETTERS = "\U000e0fff"  # no font has this character
HOSTILE = ["a\nb\x1b[31m\x00", "w" * 10_000, "\u202egnp", "z" + "\u0301" * 99, "\ud800", "", "\u05e9\u05dc\u05d5\u05dd"]


@pytest.mark.parametrize("width", [1, 12, 30])
def test_a_legend_of_a_thin_image(width):
    framed = add_legend(Image.new("RGB", (width, 1000)), [("circle", palette(2)[0]), ("square", palette(2)[1])])
    assert framed.width == width and framed.height > 1000


def test_labels_have_letters_beyond_ascii(image):
    pictures = [
        draw(image, BOX, [0], [name])
        for name in ("\u0416\u0443\u043a", "\u0414\u0443\u043a", "\xe9\xdf\xfc", "\u03a9\u03c0")
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4
    np.testing.assert_array_equal(draw(image, BOX, [1], ["x", NO_LETTERS]), draw(image, BOX, [1], ["x", "1"]))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_label_of_any_name_fits(image, name):
    small = image[:90, :120]
    assert draw(image, BOX, [0], [name], [0.9]).shape == image.shape
    drawn = draw(small, [[10, 10, 60, 60]], [0], [name], [0.9])
    plain = np.asarray(Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC))
    changed = (drawn != plain).any(axis=(0, 2))
    assert changed.sum() < 400  # not over the whole width
    assert add_legend(Image.fromarray(image), [(name, palette(1)[0])]).width == WIDTH


@pytest.mark.filterwarnings("error")
def test_a_box_far_beyond_the_image(image):
    assert draw(image, [[0, 0, 3e38, 3e38]], [0], ["x"], [0.9]).shape == draw(image, BOX, [0], ["x"], [0.9]).shape


def test_a_long_name_keeps_its_score(image):
    long, longer = (draw(image, BOX, [0], ["w" * count], [0.9]) for count in (300, 3000))
    np.testing.assert_array_equal(long, longer)
    assert (long != draw(image, BOX, [0], ["w" * 300], [0.8])).any()


def test_palette():
    assert palette(91).shape == (91, 3) and palette(91).dtype == np.uint8
    np.testing.assert_array_equal(palette(12), palette(91)[:12])
    assert palette(0).shape == (0, 3)
    assert len(np.unique(palette(300), axis=0)) == 300
    colors = palette(3000)
    assert len(np.unique(colors, axis=0)) == 1736
    np.testing.assert_array_equal(colors[1736:], colors[: 3000 - 1736])
    assert readable_on((240, 228, 66)) == (20, 20, 24) and readable_on((0, 114, 178)) == (255, 255, 255)
    # A deuteranope (Viénot 1999: red and green give one signal) still sees the first eight apart.
    red, green, blue = (palette(8) / 255.0).T ** 2.2
    seen = np.stack([0.29 * red + 0.71 * green, blue]) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=0) + 9 * np.eye(8)
    assert apart.min() > 0.08


def test_side_by_side():
    left, right = np.full((100, 150, 3), 200, np.uint8), np.full((50, 40, 3), 30, np.uint8)
    grid = side_by_side(left, right, ("truth", "prediction"))
    assert grid.shape[1] > 150 + 80 and grid.shape[0] > 100
    assert (grid[-110:] == 200).all(axis=-1).sum() == 100 * 150
    assert (grid[-60:] == 30).all(axis=-1).sum() >= 60 * 80 * 0.8  # scaled to the same height
    assert (grid[: grid.shape[0] - 110] < 100).any()  # the captions


def test_contact_sheet():
    images = [np.full((h, w, 3), 20 * i, np.uint8) for i, (h, w) in enumerate([(50, 100), (100, 50), (40, 40)])]
    grid = contact_sheet(images, columns=2, cell=100)
    assert grid.shape[1] == 2 * 100 + 3 * 4
    assert grid.shape[0] == 100 + 100 + 3 * 4
    for i, area in enumerate([50 * 100, 100 * 50, 100 * 100]):
        assert (grid == 20 * i).all(axis=-1).sum() == area
    assert contact_sheet([], columns=2).shape[2] == 3
