"""Both pages in a headless Chromium, used as a person would."""

import json
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data.datasets import coco_from_records, load_info
from htc_tf.web.augmenter import Augmenter
from htc_tf.web.dataset_browser import DatasetBrowser
from htc_tf.web.demo import Demo
from htc_tf.web.record_index import RecordIndex

# Drops or pastes a PNG of arguments[0] x arguments[1] pixels with the name arguments[2].
HAND_OVER = """
    const [width, height, name, kind, done] = arguments;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").fillRect(0, 0, width, height);
    canvas.toBlob((blob) => {
        const data = new DataTransfer();
        data.items.add(new File([name.endsWith(".png") ? blob : "not an image"], name));
        document.body.dispatchEvent(kind === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        done();
    });
"""
# Returns the number of drawn pixels of the overlay.
PAINTED = """
    const canvas = document.querySelector("[data-part=overlay]");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
"""
ROWS = "return [...document.querySelectorAll('.object')].map((row) => row.textContent);"
SLIDE = """
    const slider = document.getElementById("threshold");
    slider.value = arguments[0];
    slider.dispatchEvent(new Event("input"));
"""


@pytest.fixture
def demo(serve, stub_model, page):
    demo = Demo(stub_model, "stub", max_pixels=300_000, max_bytes=50_000)
    server = serve(demo.routes, "demo.html", demo.max_bytes)
    page.open(server.address)
    page.hand_over = lambda *arguments: page.browser.execute_async_script(HAND_OVER, *arguments)
    return page


def test_drop_threshold_classes(demo, tmp_path):
    demo.hand_over(400, 300, "night.png", "drop")
    demo.until("document.body.dataset.file === 'night.png'")
    assert demo.run(ROWS) == ["square90%", "disc60%"]
    two = demo.run(PAINTED)
    assert two > 1000
    demo.run(SLIDE, 0)
    assert demo.run(ROWS) == ["square90%", "disc60%", "square20%"]
    three = demo.run(PAINTED)
    demo.run(SLIDE, 0.7)
    assert demo.run(ROWS) == ["square90%"]
    assert three > two > demo.run(PAINTED) > 0
    demo.run(SLIDE, 0)

    square, disc = demo.browser.find_elements("css selector", ".class input")
    square.click()
    assert demo.run(ROWS) == ["disc60%"] and 0 < demo.run(PAINTED) < two
    demo.browser.find_element("id", "none").click()
    assert demo.run(ROWS) == [] and demo.run(PAINTED) == 0
    demo.browser.find_element("id", "all").click()
    assert len(demo.run(ROWS)) == 3 and demo.run(PAINTED) == three

    demo.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    disc = demo.browser.find_elements("css selector", ".class input")[1]
    disc.click()
    for name in ("save-results", "save-image"):
        demo.browser.find_element("id", name).click()
    end = time.monotonic() + 20
    while len(list(tmp_path.glob("night*.*n*"))) < 2 or list(tmp_path.glob("*.crdownload")):
        assert time.monotonic() < end
        time.sleep(0.05)
    results = json.loads((tmp_path / "night.json").read_text())
    assert [(item["category_id"], item["file_name"]) for item in results] == [(3, "night.png")] * 2
    assert results[0]["segmentation"]["size"] == [300, 400]
    with Image.open(tmp_path / "night_htc.png") as saved:
        assert saved.size == (1280, 960) and len(saved.convert("RGB").getcolors(10**6)) > 5


def test_pointing_shows_what_it_is(demo):
    from selenium.webdriver import ActionChains, Keys

    demo.hand_over(300, 300, "day.png", "paste")
    demo.until("document.body.dataset.file === 'day.png'")
    canvas = demo.browser.find_element("css selector", "[data-part=overlay]")
    plain = demo.run(PAINTED)
    at_disc = int(0.33 * canvas.size["width"]), int(-0.33 * canvas.size["height"])
    ActionChains(demo.browser).move_to_element_with_offset(canvas, *at_disc).perform()
    tip = demo.browser.find_element("id", "tip")
    assert tip.text == "disc 60% · 100 × 99 pixels at 200, 1"
    assert demo.run("return document.querySelector('.focused').textContent") == "disc60%"
    assert demo.run(PAINTED) != plain
    ActionChains(demo.browser).move_to_element(canvas).perform()
    assert not tip.is_displayed() and demo.run(PAINTED) == plain
    # By keyboard.
    demo.run("document.querySelector('.object').focus()")
    assert demo.run("return document.querySelector('.focused').textContent") == "square90%"
    ActionChains(demo.browser).send_keys(Keys.TAB).perform()
    assert demo.run("return document.querySelector('.focused').textContent") == "disc60%"


@pytest.mark.parametrize(
    ("size", "name", "line"),
    [
        ((30, 30), "letter.txt", "letter.txt: a text file"),
        ((600, 600), "large.png", "large.png: 600 x 600 pixels, more than 0.3 megapixels"),
    ],
)
def test_a_mistake_is_a_line_on_the_page(demo, size, name, line):
    demo.hand_over(*size, name, "drop")
    told = demo.until("!document.getElementById('error').hidden && document.getElementById('error').textContent")
    assert line in told and "\n" not in told
    demo.hand_over(90, 60, "next.png", "drop")
    demo.until("document.body.dataset.file === 'next.png'")
    assert not demo.browser.find_element("id", "error").is_displayed() and len(demo.run(ROWS)) == 2


def test_masks_are_decoded_to_the_pixel(demo):
    """contains() matches pycocotools; outlines may differ only at the pixels that they cross."""
    random = np.random.default_rng(3)
    rows, columns = np.mgrid[:60, :83]
    ring = np.abs(np.hypot(rows - 30, columns - 40) - 20) < 7
    masks = [random.random((60, 83)) < 0.5, ring, rows + columns < 70, np.zeros((60, 83), bool), columns >= 0]
    masks.append((rows // 10 + columns // 10) % 2 == 0)  # squares that touch at their corners
    runs = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    runs = [{"size": run["size"], "counts": run["counts"].decode()} for run in runs]
    script = """
        const [runs, done] = arguments;
        import("/masks.js").then(({ Mask }) => {
            const pen = document.createElement("canvas").getContext("2d");
            done(runs.map((run) => {
                const mask = new Mask(run), outline = mask.outline(0.5), held = [], drawn = [];
                for (let y = 0; y < mask.height; y++) for (let x = 0; x < mask.width; x++) {
                    held.push(mask.contains(x, y));
                    drawn.push(pen.isPointInPath(outline, x + 0.5, y + 0.5, "evenodd"));
                }
                return [held, drawn];
            }));
        });
    """
    answers = demo.browser.execute_async_script(script, runs)
    for number, (mask, (held, drawn)) in enumerate(zip(masks, answers, strict=True)):
        np.testing.assert_array_equal(np.reshape(held, mask.shape), mask)
        if number > 0:  # noise has no outline to speak of
            assert np.mean(np.reshape(drawn, mask.shape) != mask) < 0.04


@pytest.fixture
def dataset_page(serve, page, tiny_data, tiny_experiment):
    info = load_info(tiny_data.records)
    index = RecordIndex(info)
    server = serve(DatasetBrowser(index, Augmenter(tiny_experiment().train_input, info)).routes, "browser.html")
    page.open(server.address)
    assert page.run("return document.querySelectorAll('.card').length") == 0
    index.start()  # the page is open first, and adds images while the index grows
    page.until("document.querySelectorAll('.card[data-objects]').length === 6")
    page.truth = coco_from_records(info)
    return page


def test_filter_by_class(dataset_page):
    annotations = dataset_page.truth["annotations"]
    category = annotations[0]["category_id"]
    holders = {item["image_id"] for item in annotations if item["category_id"] == category}
    choose = """
        const select = document.getElementById(arguments[0]);
        select.value = arguments[1];
        select.dispatchEvent(new Event("change"));
    """
    dataset_page.run(choose, "class", str(category))
    cards = "document.querySelectorAll('.card[data-objects]')"
    dataset_page.until(
        f"{cards}.length === arguments[0] && document.querySelectorAll('.card').length === arguments[0]", len(holders)
    )
    shown = dataset_page.run(
        f"return [...{cards}].map((card) => [card.querySelector('.name').textContent, card.dataset.objects])"
    )
    expected = {
        str(holder): str(sum((a["image_id"], a["category_id"]) == (holder, category) for a in annotations))
        for holder in holders
    }
    assert dict(shown) == expected
    assert f"class={category}" in dataset_page.browser.current_url
    dataset_page.run(choose, "class", "none")
    dataset_page.until("document.querySelectorAll('.card').length === 1")
    dataset_page.browser.back()
    dataset_page.until("document.querySelectorAll('.card').length === arguments[0]", len(holders))


def test_one_image_large(dataset_page):
    from selenium.webdriver import ActionChains, Keys

    place = next(
        place
        for place, image in enumerate(dataset_page.truth["images"][:-1])
        if len({a["category_id"] for a in dataset_page.truth["annotations"] if a["image_id"] == image["id"]}) > 1
    )
    dataset_page.browser.find_elements("css selector", ".card")[place].click()
    dataset_page.until("document.getElementById('large').dataset.position === arguments[0]", str(place))
    image = dataset_page.truth["images"][place]
    objects = [a for a in dataset_page.truth["annotations"] if a["image_id"] == image["id"]]
    assert dataset_page.browser.find_element("id", "title").text == image["file_name"]
    assert len(dataset_page.run(ROWS)) == len(objects)
    whole = dataset_page.run(PAINTED)
    dataset_page.browser.find_elements("css selector", ".class input")[0].click()
    assert 0 < len(dataset_page.run(ROWS)) < len(objects) and 0 < dataset_page.run(PAINTED) < whole

    dataset_page.until("document.querySelectorAll('#draws button').length === 6")
    stored = dataset_page.run("return document.querySelector('[data-part=image]').src")
    dataset_page.browser.find_elements("css selector", "#draws button")[1].click()
    dataset_page.until("document.querySelector('[data-part=image]').src.startsWith('data:image/jpeg')")
    assert "/file" in stored
    ActionChains(dataset_page.browser).send_keys(Keys.ARROW_RIGHT).perform()
    dataset_page.until("document.getElementById('large').dataset.position === arguments[0]", str(place + 1))
    ActionChains(dataset_page.browser).send_keys(Keys.ESCAPE).perform()
    assert not dataset_page.browser.find_element("id", "large").is_displayed()
