"""A headless browser, and checks that every drawn page must pass in it."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)

DESKTOP, PHONE, SMALL_PHONE = (1280, 900), (390, 844), (360, 640)


def _lacking(what: str) -> None:
    """Skip, but where nobody would notice."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and without it no page is looked at")
    pytest.skip(what)


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Chromium with a new profile in an empty folder."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        _lacking("selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver_binary = shutil.which("chromedriver")
    if not binary or not driver_binary:
        _lacking("there is no Chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(binary)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_binary))
    try:
        yield driver
    finally:
        driver.quit()


def check_page(
    driver: Any,
    path: Path,
    figures: Sequence[str] | None = None,
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
    screenshot: Path | None = None,
) -> list[dict[str, Any]]:
    """Open a page and make sure that all of it is there to be seen.

    Args:
        driver: of :func:`browser`.
        path: the file of the page.
        figures: the keys of the figures that it must have, in order; None takes them as they are.
        size: of the window, in CSS pixels.
        dark: whether the person prefers dark pages.
        screenshot: where to leave a picture of the whole page.

    Returns:
        What was found of each figure.
    """
    width, height = size
    device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(path.as_uri())

    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = [url for url in sent if not url.startswith("data:")]
    assert asked == [path.as_uri()], f"the page asks for {asked}"
    errors = driver.get_log("browser")
    assert errors == [], errors

    seen = driver.execute_script(LOOK)
    assert seen["width"] <= width, f"the page is {seen['width']} pixels wide in a window of {width}"
    assert seen["beyond"] == [], f"these reach beyond the window: {seen['beyond']}"
    assert len(seen["ids"]) == len(set(seen["ids"])), "two elements have the same id"
    keys = [figure["key"] for figure in seen["figures"]]
    assert keys == (keys if figures is None else list(figures)), keys
    for figure in seen["figures"]:
        _check_figure(figure)
    _check_pixels(driver, dark, screenshot)
    return list(seen["figures"])


def _check_figure(figure: dict[str, Any]) -> None:
    """Every curve has marks in its plot, and every image its pixels."""
    what = figure["key"]
    assert figure["width"] > 200, figure
    assert figure["height"] > 20, figure
    if figure["kind"] == "chart":
        assert figure["curves"], figure
        for curve in figure["curves"]:
            if curve["points"]:
                assert max(curve["width"], curve["height"]) > 2, (what, curve)
                _check_inside(what, curve, figure["plot"])
        assert figure["smallest"] >= 8.5, f"the text of {what} is {figure['smallest']} pixels high"
        if figure["legend"]:
            assert figure["legend"]["top"] >= figure["plot"]["bottom"], f"the legend of {what} lies on its curves"
    assert figure["cut"] == [], f"these words of {what} reach beyond its edge: {figure['cut']}"
    if figure["kind"] == "image":
        (pixels,) = figure["pixels"]
        assert pixels["width"] > 100, figure
        assert pixels["height"] > 50, figure
        _check_inside(what, pixels, figure["plot"])
    if figure["kind"] in ("colouring", "transcript"):
        assert figure["spans"] > 0, figure


def _check_inside(what: str, box: dict[str, float], plot: dict[str, float]) -> None:
    """In its plot, but for half a mark on its edge."""
    room = 5
    assert plot["left"] - room <= box["left"] <= box["right"] <= plot["right"] + room, (what, box, plot)
    assert box["bottom"] >= plot["top"] - room, (what, box, plot)
    assert box["top"] <= plot["bottom"] + room, (what, box, plot)


def _check_pixels(driver: Any, dark: bool, screenshot: Path | None) -> None:
    """The page is not blank, and its paper is as dark as was asked for."""
    import base64

    import numpy as np
    from matplotlib.image import imread

    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": _whole(driver)}
    )
    data = base64.b64decode(shot["data"])
    if screenshot is not None:
        screenshot.write_bytes(data)
    light = imread(BytesIO(data), format="png")[:, :, :3].mean(2)
    paper = np.median(light)
    assert paper < 0.2 if dark else paper > 0.9, f"the paper's lightness is {paper:.2f}"
    assert light.std() > 0.02, "the page is blank"


def _whole(driver: Any) -> dict[str, float]:
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


LOOK = """
const box = element => {
  const r = element.getBoundingClientRect();
  return {left: r.left, right: r.right, top: r.top, bottom: r.bottom, width: r.width, height: r.height};
};
const scrolls = element => {
  for (let e = element.parentElement; e && e !== document.body; e = e.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)) return true;
  return false;
};
return {
  width: document.documentElement.scrollWidth,
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  beyond: [...document.querySelectorAll('body *')].filter(e => !e.closest('svg') && e.getClientRects().length
    && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e)).map(e => e.outerHTML.slice(0, 200)),
  figures: [...document.querySelectorAll('figure')].map(figure => {
    const svg = figure.querySelector('svg');
    const texts = svg ? [...svg.querySelectorAll('text')] : [];
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return {
      key: figure.dataset.key, kind: figure.classList[0], ...box(figure),
      plot: svg && box(svg.querySelector('.plot')),
      legend: svg && svg.querySelector('[id$=legend_1]') && box(svg.querySelector('[id$=legend_1]')),
      cut: texts.filter(t => {
        const text = box(t), all = box(svg);
        return text.left < all.left - 1 || text.right > all.right + 1
          || text.top < all.top - 1 || text.bottom > all.bottom + 1;
      }).map(t => t.textContent),
      curves: [...figure.querySelectorAll('.curve')].map(c => ({
        id: c.id, role: c.dataset.role, points: Number(c.dataset.points), ...box(c)})),
      pixels: [...figure.querySelectorAll('.pixels image, image.pixels')].map(box),
      spans: figure.querySelectorAll('pre span').length,
      smallest: Math.min(...texts.map(t => parseFloat(getComputedStyle(t).fontSize) * scale)),
    };
  }),
};
"""
