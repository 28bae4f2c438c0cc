"""Values under the pointer in the charts and images of a page, and by the keys: those that the tables have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESKTOP, PHONE, browser, check_page
from synthetic_pages import awkward, decay, flow, matrix

from rnn_lab.drawing import page
from rnn_plugins.reports.report import Chart, Curve, Figure, Image, Page


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def shown(driver: Any, folder: Path, *figures: Figure, size: tuple[int, int] = DESKTOP) -> None:
    path = folder / "page.html"
    path.write_text(page.html([Page("k", "t", "q", ("a",), figures=figures)], "h", []), encoding="utf-8")
    check_page(driver, path, [figure.key for figure in figures], size)


AT = """
const svg = document.querySelector("svg"), plot = svg.querySelector(".pixels image, image.pixels, .plot");
const box = plot.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent(arguments[2] || "pointermove", {pointerType: arguments[3] || "mouse",
  clientX: box.left + arguments[0] * box.width, clientY: box.bottom - arguments[1] * box.height}));
const tip = document.querySelector(".tip");
return tip.hidden ? null : tip.innerText.split("\\n");
"""


def at(driver: Any, x: float, y: float = 0.5, *kind: str) -> list[str] | None:
    """The lines that stand at a point of the plot, in shares of its sides from the lower left."""
    found = driver.execute_script(AT, x, y, *kind)
    if found is not None:
        inside = driver.execute_script(
            """const tip = document.querySelector(".tip").getBoundingClientRect();
            return [tip.left, tip.right, document.documentElement.scrollWidth, innerWidth]"""
        )
        assert 0 <= inside[0] < inside[1] <= inside[3]
        assert inside[2] <= inside[3]
    return found  # type: ignore[no-any-return]


def test_the_values_of_all_curves_stand_at_a_step(driver: Any, tmp_path: Path) -> None:
    x = np.array([0.0, 10, 20, 30, 40])
    chart = Chart(
        "c",
        "t",
        "step",
        "loss",
        (
            Curve("training", x, np.array([4.0, 3, 2.5, np.nan, 2]), np.array([3.0, 2, 2, 2, 1]), np.full(5, 5.0)),
            Curve("held-out", np.array([20.0, 40]), np.array([2.75, 2.25])),
            Curve("uniform", np.array([0.0, 40]), np.array([4.5, 4.5]), role="reference"),
            Curve("1-gram 3.25", np.array([0.0, 40]), np.array([3.25, 3.25]), role="reference"),
        ),
    )
    shown(driver, tmp_path, chart)
    assert at(driver, 0.51) == ["step: 20", "training: 2.5 (2 to 5)", "held-out: 2.75", "uniform: 4.5", "1-gram 3.25"]
    assert at(driver, 0.26) == [
        "step: 10",
        "training: 3 (2 to 5)",
        "uniform: 4.5",
        "1-gram 3.25",
    ]  # it was not validated before
    assert at(driver, 0.74) == at(driver, 0.51)  # there is a gap between, and the nearest point counts
    assert at(driver, 0.99) == ["step: 40", "training: 2 (1 to 5)", "held-out: 2.25", "uniform: 4.5", "1-gram 3.25"]
    assert at(driver, 1.2) is None
    assert at(driver, 0.5, 0.5, "pointerdown", "touch") == at(driver, 0.5)
    driver.execute_script(
        "document.querySelector('svg').dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'mouse'}))"
    )
    assert driver.execute_script("return document.querySelector('.tip').hidden")


def test_curves_with_other_steps_say_where_theirs_is(driver: Any, tmp_path: Path) -> None:
    often = Curve("training", np.arange(0.0, 101, 10), np.linspace(4, 2, 11))
    shown(
        driver, tmp_path, Chart("c", "t", "step", "loss", (often, Curve("held-out", np.array([0.0, 96]), np.ones(2))))
    )
    assert at(driver, 0.8) == ["step: 80", "training: 2.4", "held-out: 1 (at 96)"]


def test_logarithmic_axes_have_their_values_where_they_are_drawn(driver: Any, tmp_path: Path) -> None:
    x = np.array([1.0, 10, 100, 1000])
    chart = Chart("c", "t", "lag", "norm", (Curve("", x, x**-1.0),), log_x=True, log_y=True)
    shown(driver, tmp_path, chart)
    for share, lag, value in ((0.0, "1", "1"), (0.34, "10", "0.1"), (0.6, "100", "0.01"), (1.0, "1,000", "0.001")):
        assert at(driver, share) == [f"lag: {lag}", f"norm: {value}"]


def test_the_nearest_point_of_a_cloud_is_named(driver: Any, tmp_path: Path) -> None:
    chart = Chart(
        "c",
        "t",
        "across",
        "up",
        (
            Curve("low", np.array([0.0, 5]), np.array([0.0, 1]), role="points"),
            Curve("high", np.array([5.0, 10]), np.array([9.0, 10]), role="points"),
        ),
        y_limits=(0.0, 10.0),
    )
    shown(driver, tmp_path, chart)
    assert at(driver, 0.5, 0.15) == ["low", "across: 5", "up: 1"]
    assert at(driver, 0.5, 0.85) == ["high", "across: 5", "up: 9"]
    assert at(driver, 0.95, 0.8) == ["high", "across: 10", "up: 10"]


def test_a_cell_of_an_image_has_its_value_and_its_names(driver: Any, tmp_path: Path) -> None:
    values = np.array([[0.1, 0.2, 0.3], [0.4, np.nan, 0.6]])
    image = Image("i", "t", "source", "loss", values, "norm", ("a", " ", "\n"), ("<", "漢"))
    shown(driver, tmp_path, image)
    assert at(driver, 0.1, 0.9) == ["0.1", "loss: 0 “<”", "source: 0 “a”"]
    assert at(driver, 0.5, 0.9) == ["0.2", "loss: 0 “<”", "source: 1 space"]
    assert at(driver, 0.9, 0.1) == ["0.6", "loss: 1 “漢”", "source: 2 line end"]
    assert at(driver, 0.5, 0.1) == ["-", "loss: 1 “漢”", "source: 1 space"]
    plain = Image("i", "t", "column", "row", np.arange(6.0).reshape(2, 3), "value")
    shown(driver, tmp_path, plain)
    assert at(driver, 0.9, 0.1) == ["5", "row: 1", "column: 2"]


def test_keys_lead_from_value_to_value(driver: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> Any:
        ActionChains(driver).send_keys(*keys).perform()
        return driver.execute_script(
            "const tip = document.querySelector('.tip'); return tip.hidden ? null : tip.innerText.split('\\n')"
        )

    shown(driver, tmp_path, Chart("c", "t", "step", "loss", (Curve("", np.arange(5.0), np.arange(5.0) / 8),)))
    driver.execute_script("document.querySelector('svg').focus()")
    assert press(Keys.ARROW_RIGHT) == ["step: 2", "loss: 0.25"]
    assert press(Keys.ARROW_RIGHT) == ["step: 3", "loss: 0.375"]
    assert press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT) == ["step: 4", "loss: 0.5"]
    assert press(Keys.ARROW_LEFT) == ["step: 3", "loss: 0.375"]
    assert press(Keys.ESCAPE) is None
    assert press(Keys.ARROW_LEFT) == ["step: 2", "loss: 0.25"]
    assert press(Keys.TAB) is None
    image = Image("i", "t", "column", "row", np.arange(9.0).reshape(3, 3), "value")
    shown(driver, tmp_path, image)
    driver.execute_script("document.querySelector('svg').focus()")
    assert press(Keys.ARROW_DOWN) == ["4", "row: 1", "column: 1"]
    assert press(Keys.ARROW_DOWN) == ["7", "row: 2", "column: 1"]
    assert press(Keys.ARROW_RIGHT, Keys.ARROW_UP) == ["5", "row: 1", "column: 2"]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_chart_and_image_of_a_page_answers(driver: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "page.html"
    path.write_text(page.html([flow(), awkward()], "h", []), encoding="utf-8")
    check_page(driver, path, size=size)
    silent = driver.execute_script(
        """return [...document.querySelectorAll("figure.chart, figure.image")].filter(figure => {
          const svg = figure.querySelector("svg");
          const box = svg.querySelector(".pixels image, image.pixels, .plot").getBoundingClientRect();
          for (let x = 0; x <= 1; x += 0.05) svg.dispatchEvent(new PointerEvent("pointermove",
            {clientX: box.left + x * box.width, clientY: box.top + box.height / 2, pointerType: "mouse"}));
          return figure.querySelector(".tip").hidden;
        }).map(figure => figure.dataset.key)"""
    )
    assert driver.get_log("browser") == []
    # Only a chart in which nothing is drawn has nothing to say.
    assert [key for key in silent if "nothing" not in key] == []
    assert {decay().key, matrix().key}.isdisjoint(silent)
