"""The page in a real browser: what a person does, on a desk and on a phone, with the keyboard and by dropping files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from tests.serving.conftest import RunningServer

from vprm_demo import example

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SCREENSHOTS = Path(__file__).parents[2] / "docs"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path_factory.mktemp("downloads"))})
    browser = webdriver.Chrome(options=options, service=Driver(str(DRIVER)))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome, server: RunningServer) -> Iterator[webdriver.Chrome]:
    """The page, freshly loaded on a desk; afterwards nothing may have been written to the console."""
    chromium.set_window_size(1300, 1150)
    chromium.get("about:blank")
    chromium.get(server.url)
    chromium.get_log("browser")
    yield chromium
    errors = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert [error for error in errors if "status of 4" not in error] == []  # an answer of 4xx is what some tests want


def find(browser: webdriver.Chrome, name: str) -> WebElement:
    return browser.find_element(By.ID, name)


def fill_in(browser: webdriver.Chrome) -> None:
    find(browser, "files").send_keys(str(example().image))
    find(browser, "question").send_keys(example().question)
    set_text(browser, "response-1", example().responses[1])
    find(browser, "add").click()
    set_text(browser, "response-2", example().responses[0])
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#images img"))


def set_text(browser: webdriver.Chrome, name: str, text: str) -> None:
    browser.execute_script("document.getElementById(arguments[0]).value = arguments[1]", name, text)


def wait(browser: webdriver.Chrome, until: object) -> None:
    WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: until())  # type: ignore[operator]


def wait_scored(browser: webdriver.Chrome, count: int) -> None:
    wait(browser, lambda: find(browser, "progress").text == f"{count} scored")


def candidates(browser: webdriver.Chrome) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, ".candidate")


def screenshot(browser: webdriver.Chrome, name: str) -> None:
    """Into the docs, with UPDATE_DOCS=1."""
    if os.environ.get("UPDATE_DOCS"):
        browser.save_screenshot(str(SCREENSHOTS / name))


def test_steps_are_scored_coloured_and_ranked(browser: webdriver.Chrome, server: RunningServer) -> None:
    fill_in(browser)
    find(browser, "score").click()
    wait_scored(browser, 2)
    first, second = candidates(browser)
    assert "Response 2" in first.text
    assert "★ best" in first.text
    assert "Response 1" in second.text
    row = {"question": example().question, "responses": [example().responses[1]]}
    assert len(second.find_elements(By.CSS_SELECTOR, ".steps li")) == len(row["responses"][0].split("\n\n"))
    colours = "return [...arguments[0].querySelectorAll('.steps li')].map((s) => s.style.getPropertyValue('--hue'))"
    hues = [int(hue) for hue in browser.execute_script(colours, second)]
    assert max(hues) > 100
    assert min(hues) < 30
    assert len(second.find_elements(By.CSS_SELECTOR, ".first-below")) == 1
    assert browser.find_elements(By.CSS_SELECTOR, "#images svg[data-grid]")
    wait(browser, lambda: "cache" in find(browser, "load").text)
    browser.execute_script("scrollTo(0, 0)")
    screenshot(browser, "serve-page.png")


def test_aggregate_and_threshold_need_no_server(browser: webdriver.Chrome) -> None:
    fill_in(browser)
    find(browser, "score").click()
    wait_scored(browser, 2)

    def totals() -> list[str]:
        return [total.text for total in browser.find_elements(By.CSS_SELECTOR, ".candidate .total")]

    mean = totals()
    find(browser, "aggregate").send_keys("min")
    wait(browser, lambda: totals() != mean)
    scores = browser.find_elements(By.CSS_SELECTOR, ".candidate:first-child .step-score")
    assert totals()[0] == min(score.text for score in scores)
    browser.execute_script(
        "const t = document.getElementById('threshold'); t.value = 0; t.dispatchEvent(new Event('input'))"
    )
    assert not browser.find_elements(By.CSS_SELECTOR, ".first-below")


def test_the_keyboard_is_enough(browser: webdriver.Chrome) -> None:
    find(browser, "question").send_keys("Which is it?")
    find(browser, "response-1").send_keys("It is one.", Keys.ENTER, Keys.ENTER, "So one.", Keys.CONTROL + Keys.ENTER)
    wait_scored(browser, 1)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".steps li")) == 2
    for label in browser.find_elements(By.CSS_SELECTOR, "input, textarea, select"):
        name = browser.execute_script(
            "const e = arguments[0]; return e.labels.length || e.getAttribute('aria-describedby')", label
        )
        assert name, label.get_attribute("outerHTML")


def test_errors_are_shown_and_leave_the_page_usable(browser: webdriver.Chrome, tmp_path: Path) -> None:
    find(browser, "score").click()
    assert "question" in (find(browser, "error").text or "question")  # the browser's own check, or the page's
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    find(browser, "files").send_keys(str(broken))
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#images figure"))
    find(browser, "question").send_keys("What?")
    set_text(browser, "response-1", "One.")
    find(browser, "score").click()
    wait(browser, lambda: "cannot be decoded" in find(browser, "error").text)
    browser.find_element(By.CSS_SELECTOR, "#images button").click()
    find(browser, "score").click()
    wait_scored(browser, 1)
    assert not find(browser, "error").is_displayed()


def test_a_file_of_rows_is_read_with_its_images(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """VisualProcessBench's rows: steps under response, an image by path, dropped beside the file."""
    rows = tmp_path / "test.jsonl"
    steps = example().responses[0].split("\n\n")
    bench = {"image": ["images/angle.png"], "question": "First?", "response": {"steps": steps}}
    plain = {"question": "Second?", "responses": ["One.", ["Two.", "Three."]]}
    rows.write_text(json.dumps(bench) + "\n" + json.dumps(plain) + "\n")
    find(browser, "files").send_keys(f"{example().image}\n{rows}")
    wait(browser, lambda: find(browser, "question").get_attribute("value") == "First?")
    assert browser.find_elements(By.CSS_SELECTOR, "#images img")
    find(browser, "score").click()
    wait_scored(browser, 1)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".steps li")) == len(steps)
    find(browser, "next").click()
    assert find(browser, "question").get_attribute("value") == "Second?"
    find(browser, "score").click()
    wait_scored(browser, 2)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".steps li")) == 3


def test_a_link_brings_everything_back(browser: webdriver.Chrome) -> None:
    fill_in(browser)
    find(browser, "score").click()
    wait_scored(browser, 2)
    find(browser, "link").click()
    wait(browser, lambda: "#" in browser.current_url)
    link = browser.current_url
    browser.get("about:blank")
    browser.get(link)
    wait(browser, lambda: find(browser, "question").get_attribute("value") == example().question)
    find(browser, "score").click()
    wait_scored(browser, 2)


def test_a_phone_shows_everything_without_scrolling_sideways(browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        fill_in(browser)
        find(browser, "score").click()
        wait_scored(browser, 2)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        browser.execute_script("document.getElementById('results').scrollIntoView()")
        screenshot(browser, "serve-page-phone.png")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_report_is_the_file_that_evaluations_write(
    browser: webdriver.Chrome, server: RunningServer, tmp_path: Path
) -> None:
    fill_in(browser)
    find(browser, "score").click()
    wait_scored(browser, 2)
    browser.execute_script(
        "URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return 'blob:none'; }"
    )
    browser.execute_script("HTMLAnchorElement.prototype.click = () => {}")
    browser.execute_script(
        "const ask = fetch; window.fetch = (to, how) => {"
        " if (String(to) === '/v1/report') window.sent = JSON.parse(how.body); return ask(to, how); }"
    )
    find(browser, "export").click()
    wait(browser, lambda: browser.execute_script("return window.saved"))
    report = browser.execute_script("return window.saved")
    assert report == server.http.post("/v1/report", json=browser.execute_script("return window.sent")).text
    saved = tmp_path / "report.html"
    saved.write_text(report, "utf-8")
    browser.get(saved.as_uri())  # it is whole without the server
    assert find(browser, "count").text == "1 shown"
    first, second = browser.find_elements(By.CSS_SELECTOR, "details.candidate")
    assert "Response 2" in first.text
    assert "★ chosen" in first.text
    assert "Response 1" in second.text
    assert len(second.find_elements(By.CSS_SELECTOR, "li")) == len(example().responses[1].split("\n\n"))
    assert browser.execute_script("return document.querySelector('.frame img').naturalWidth") > 0
    assert "tile" in browser.find_element(By.CSS_SELECTOR, ".left figcaption").text


def test_the_description_is_shown(browser: webdriver.Chrome, server: RunningServer) -> None:
    browser.get(f"{server.url}/docs")
    wait(browser, lambda: "POST /v1/score" in browser.find_element(By.TAG_NAME, "body").text)


def test_text_is_never_markup(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Questions, steps, file names and what the server quoted of them."""
    evil = '"><img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
    picture = tmp_path / "<img src=x onerror='window.pwned=1'>.png"
    picture.write_bytes(example().image.read_bytes())
    find(browser, "files").send_keys(str(picture))
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#images img"))
    row = json.dumps({"id": evil, "question": evil, "responses": [[evil, "One."]], "answer": evil})
    browser.execute_script("document.getElementById('json-box').open = true")
    set_text(browser, "json", row)
    find(browser, "read-json").click()
    find(browser, "score").click()
    wait_scored(browser, 1)
    assert evil in browser.find_element(By.CSS_SELECTOR, ".step-text").text
    set_text(browser, "json", json.dumps({"question": evil, "responses": ["One."], "image": evil}))
    find(browser, "read-json").click()
    find(browser, "score").click()
    wait(browser, lambda: find(browser, "error").is_displayed())
    find(browser, "files").send_keys(str(picture))
    assert browser.execute_script("return window.pwned") is None
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")


@pytest.mark.parametrize("responses", ["abc", [5], [None], [["One.", 2]], {"a": 1}])
def test_a_row_whose_responses_are_none_is_refused(browser: webdriver.Chrome, responses: object) -> None:
    """Shown as texts they would get scores that the server refuses to give."""
    browser.execute_script("document.getElementById('json-box').open = true")
    set_text(browser, "json", json.dumps({"question": "Which?", "responses": responses}))
    find(browser, "read-json").click()
    wait(browser, lambda: "responses" in find(browser, "error").text)
    assert find(browser, "response-1").get_attribute("value") == ""
