"""A server on a free port, a model that needs no network, and a headless Chromium."""

import json
import os
import shutil
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,800",
)


@pytest.fixture
def serve():
    """serve(routes, home="demo.html", max_bytes=...) returns a Server that runs until the test ends."""
    from htc_tf.web.server import Server

    servers = []

    def start(routes, home="demo.html", max_bytes=10**6):
        server = Server("127.0.0.1", 0, home, max_bytes)
        server.routes = routes
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ask():
    """ask(server, "/path", body=None, **headers) returns status, headers and body, with JSON parsed."""

    def request(server, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(server.address + path[1:], body, headers)) as answer:
                status, headers, content = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, headers, content = error.code, error.headers, error.read()
        is_json = headers["Content-Type"] == "application/json" and "Content-Encoding" not in headers
        return SimpleNamespace(status=status, headers=headers, body=json.loads(content) if is_json else content)

    return request


@pytest.fixture
def stub_model():
    """A Predictor that finds the same three objects in every image: two squares and a disc in three corners."""
    from htc_tf.inference.prediction import Prediction
    from htc_tf.inference.results import ImageResult

    categories = [{"id": 3, "name": "square"}, {"id": 7, "name": "disc"}, {"id": 9, "name": "nothing"}]

    def detect(image):
        height, width = image.shape[:2]
        side = min(height, width) // 3
        boxes = np.array([[1, 2, side, side + 5], [1, width - side, side, width], [height - side, 0, height, side]])
        rows, columns = np.mgrid[:height, :width] + 0.5
        masks = []
        for number, (y1, x1, y2, x2) in enumerate(boxes):
            inside = (rows > y1) & (rows < y2) & (columns > x1) & (columns < x2)
            if number == 1:
                inside = (rows - (y1 + y2) / 2) ** 2 + (columns - (x1 + x2) / 2) ** 2 < (side / 2) ** 2
            run = coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))
            masks.append({"size": run["size"], "counts": run["counts"].decode()})
        scores = np.array([0.9, 0.6, 0.2], np.float32)
        return Prediction(image, ImageResult(boxes.astype(np.float32), scores, np.array([0, 1, 0]), masks), categories)

    detect.categories = categories
    return detect


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium, driven by selenium; the tests skip where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra: test)")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    alone = ("--no-sandbox",) if os.geteuid() == 0 else ()
    for flag in (*FLAGS, *alone, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_script_timeout(60)
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser):
    """page.open(address), page.run(script, ...), page.until(expression); no script of a page may have failed."""

    def until(expression, *arguments):
        script = """
            const given = arguments, done = given[given.length - 1], end = Date.now() + 50000;
            (function look() {
                const value = (function () { return EXPRESSION; }).apply(null, given);
                if (value || Date.now() > end) done(value); else setTimeout(look, 30);
            })();
        """.replace("EXPRESSION", expression)
        value = browser.execute_async_script(script, *arguments)
        assert value, f"never came true: {expression}; {browser.get_log('browser')}"
        return value

    def open_page(address):
        browser.get(address)
        until("'ready' in document.body.dataset")

    browser.get_log("browser")
    yield SimpleNamespace(open=open_page, run=browser.execute_script, until=until, browser=browser)
    entries = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    wrong = [entry["message"] for entry in entries if entry["source"] != "network"]  # a refused file is no failure
    browser.get("about:blank")
    assert not wrong
