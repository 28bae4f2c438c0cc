"""The documentation's site is built without warnings, has every page and every public name, and fetches nothing."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import DESKTOP, PHONE, browser

import minigrad
import rnn_cells
import rnn_lab
from rnn_plugins import testing

pytest.importorskip("mkdocs_jupyter", reason="needs the extra docs")
pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")
pytest.importorskip("material", reason="needs the extra docs")
site_pages = pytest.importorskip("site_pages")

ROOT = Path(__file__).parents[1]
PAGES = [
    "",
    "lecture/",
    "command-line/",
    "notebooks/why-gradients-vanish/",
    "api/minigrad/",
    "repository/CONTRIBUTING/",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def text(page: Path) -> str:
    return re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8"))


def test_every_page_and_picture_of_the_documentation_is_in_it(site):
    sources = [path for pattern in ("*.md", "*.ipynb") for path in (ROOT / "docs").rglob(pattern)]
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in sources}
    pages |= {f"repository/{path.removesuffix('.md')}" for path in site_pages.OUTSIDE}
    assert len(pages) > 25
    built = {re.sub(r"/README$|/?index$", "", page) for page in pages}
    assert [page for page in built if not (site / page / "index.html").exists()] == []
    pictures = [path.name for path in (ROOT / "docs" / "images").iterdir()]
    assert [name for name in pictures if not (site / "images" / name).exists()] == []
    assert not [path for path in site.rglob("*") if path.suffix in {".py", ".pyc"}]


@pytest.mark.parametrize("package", [minigrad, rnn_cells, rnn_lab, testing], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference(package, site):
    page = text(site / "api" / package.__name__.partition(".")[0] / "index.html")
    assert [name for name in package.__all__ if not re.search(rf"\b{name}\b", page)] == []


def test_the_search_finds_pages_and_docstrings(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"]: entry["text"] for entry in index["docs"]}
    assert "half of this text's lines" in found["lecture/#3-why-gradients-vanish-and-explode"].replace("\n  ", " ")
    assert "a subclass defines" in found["api/rnn_cells/#rnn_cells.Cell"]


def test_a_link_of_the_repository_leads_to_the_same_page_of_the_site():
    target, outside = site_pages.target, "repository/benchmarks/README.md"
    assert target("docs/performance.md", "performance.md", "../benchmarks/README.md") == outside
    assert target("docs/tasks.md", "tasks.md", "cells.md") == "cells.md"
    assert target("docs/tasks.md", "tasks.md", "https://example.org/a.md") == "https://example.org/a.md"
    contributing = ("CONTRIBUTING.md", "repository/CONTRIBUTING.md")
    assert target(*contributing, "docs/images/layers.svg") == "../images/layers.svg"
    assert target(*contributing, "plugins/examples/rnn-cell-mgu") == "plugins/examples/rnn-cell-mgu/README.md"


def test_a_bar_in_the_code_of_a_table_has_no_backslash(site):
    assert "X|element:X" in (page := text(site / "command-line" / "index.html"))
    assert "\\|" not in page


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_pages_fit_their_window_and_fetch_nothing_from_elsewhere(address, tmp_path):
    with browser(tmp_path / "profile") as driver:
        driver.get_log("performance")  # of the browser's own first page
        for width, height in (DESKTOP, PHONE):
            window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
            for page in PAGES:
                driver.get(f"{address}/{page}")
                assert driver.execute_script("return document.documentElement.scrollWidth") <= width, page
                broken = "return [...document.images].filter(image => image.complete && !image.naturalWidth).length"
                assert driver.execute_script(broken) == 0, page
        messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert {f"{address}/{page}" for page in PAGES} <= set(sent)
        here = urlsplit(address).netloc
        assert len(sent) > 20
        assert {url for url in sent if url.startswith("http") and urlsplit(url).netloc != here} == set()
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(("scheme", "shown"), [("light", ["none", "0px"]), ("dark", ["brightness(0.85)", "8px"])])
def test_a_chart_is_a_card_that_does_not_glare_on_a_dark_page(scheme, shown, address, tmp_path):
    style = (
        "const style = getComputedStyle(document.querySelector('img[src$=\"lags.svg\"]'));"
        "return [style.filter, style.borderRadius]"
    )
    with browser(tmp_path / "profile") as driver:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        driver.get(f"{address}/memory/")
        assert driver.execute_script(style) == shown
