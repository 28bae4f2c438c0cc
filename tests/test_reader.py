"""A text on the page whose symbols can be chosen, as a person with a mouse, a keyboard or a phone uses it."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESKTOP, PHONE, browser, check_page
from synthetic_pages import AWKWARD

from rnn_lab.drawing import page
from rnn_plugins.reports.report import Page
from rnn_plugins.reports.transcript import Trace, Transcript

TEXT = "The cat sat on the mat, and so did\nthe <other> one.\n\tAll of them\n"
COUNT = len(TEXT)


def transcript(**changed: Any) -> Transcript:
    """A text whose symbols are moved the most by the third before them, with all other numbers known."""
    influence = np.full((COUNT, 8), np.nan)
    for place in range(COUNT):
        influence[place, : min(place, 8)] = [1, 2, 4, 2, 1, 0.5, 0, 0.01][: min(place, 8)]
    figure = Transcript(
        key="text",
        title="A text",
        symbols=tuple(TEXT),
        values=np.array([math.nan, *(place % 7 + 0.5 for place in range(1, COUNT))]),
        low=0.0,
        high=6.0,
        value_label="bits per character",
        unit="character",
        expected=((), *((("e", 0.5), (" ", 0.25), ("\n", 0.12)) for _ in range(1, COUNT))),
        influence=influence,
        traces=(
            Trace("forget", np.linspace(0, 1, COUNT), 0.0, 1.0),
            Trace("candidate", np.linspace(-1, 1, COUNT), -1.0, 1.0),
        ),
    )
    return replace(figure, **changed)


def written(folder: Path, *figures: Transcript) -> Path:
    path = folder / "page.html"
    path.write_text(page.html([Page("k", "t", "q", ("a",), figures=figures)], "h", []), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def press(driver: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    actions = ActionChains(driver)
    for key in keys:
        with_control = key.startswith("Control ")
        if with_control:
            actions.key_down(Keys.CONTROL)
        actions.send_keys(key.removeprefix("Control "))
        if with_control:
            actions.key_up(Keys.CONTROL)
    actions.perform()


def chosen(driver: Any) -> int:
    """The place of the symbol that is chosen."""
    found = driver.execute_script(
        """const symbols = [...document.querySelectorAll("[role=option]")];
        return symbols.map((s, i) => s.getAttribute("aria-selected") === "true" ? i : -1).filter(i => i >= 0)"""
    )
    assert len(found) == 1
    return int(found[0])


def panel(driver: Any) -> str:
    return str(driver.execute_script("return document.querySelector('.chosen').innerText"))


def classes(driver: Any) -> list[str]:
    return list(driver.execute_script("return [...document.querySelectorAll('pre span')].map(s => s.className)"))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_click_tells_what_was_expected_and_what_moved_it(driver: Any, tmp_path: Path, size: Any, dark: bool) -> None:
    check_page(driver, written(tmp_path, transcript()), ["text"], size, dark)
    place = TEXT.index("did")
    driver.find_elements("css selector", "pre span")[place].click()
    assert chosen(driver) == place
    told = panel(driver)
    bits = place % 7 + 0.5
    assert f"“d” at {place}: {bits:g} bits, probability {100 * 2**-bits:.1f} %" in told
    rows = driver.execute_script(
        "return [...document.querySelectorAll('.chosen tr')].map(r => [...r.cells].slice(0, 2).map(c => c.innerText))"
    )
    known = [["“e”", "50.0 %"], ["space", "25.0 %"], ["line end", "12.0 %"], ["“d”", f"{100 * 2**-bits:.1f} %"]]
    assert rows[:4] == known
    assert rows[4:] == [["forget", f"{place / (COUNT - 1):.3g}"], ["candidate", f"{2 * place / (COUNT - 1) - 1:.3g}"]]
    assert "Most by “s”, 3 before it: 4 nats" in told
    # The bars are as high as the influence, the nearest input at the right.
    bars = driver.execute_script(
        """return [...document.querySelectorAll(".moved i")].map(bar =>
            [bar.getBoundingClientRect().left, parseFloat(bar.style.getPropertyValue("--share")), bar.title])"""
    )
    assert [round(share) for _, share, _ in bars] == [25, 50, 100, 50, 25, 12, 0, 0]
    assert [left for left, _, _ in bars] == sorted((left for left, _, _ in bars), reverse=True)
    assert bars[2][2] == "“s”, 3 before: 4"
    # The symbols before it are shaded by it, and all others have their surprise.
    shades = classes(driver)
    assert shades[place - 8 : place] == ["", "", "b2", "b3", "b6", "b12", "b6", "b3"]
    assert shades[place] == f"r{min(round(bits / 6 * 12), 12)}"
    assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_the_most_surprising_symbol_is_chosen_at_first(driver: Any, tmp_path: Path) -> None:
    check_page(driver, written(tmp_path, transcript()))
    assert chosen(driver) == 6
    assert driver.execute_script("return document.activeElement === document.body")


def test_keys_choose(driver: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    check_page(driver, written(tmp_path, transcript()))
    press(driver, Keys.TAB)
    assert driver.execute_script("return document.activeElement.getAttribute('role')") == "option"
    assert driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for keys, place in (
        ([Keys.ARROW_RIGHT], 7),
        ([Keys.ARROW_LEFT] * 3, 4),
        ([Keys.ARROW_DOWN], TEXT.index("<other>")),
        ([Keys.END], TEXT.index("\n\t")),
        ([Keys.HOME], TEXT.index("the <other>")),
        ([Keys.ARROW_UP], 0),
        ([Keys.ARROW_UP, Keys.ARROW_LEFT], 0),
        (["Control " + Keys.END], COUNT - 1),
        ([Keys.ARROW_RIGHT, Keys.ARROW_DOWN], COUNT - 1),
        (["Control " + Keys.HOME], 0),
    ):
        press(driver, *keys)
        assert chosen(driver) == place, keys
        focused = "return [...document.querySelectorAll('pre span')].indexOf(document.activeElement)"
        assert driver.execute_script(focused) == place
    assert "at 0: not predicted" in panel(driver)
    # One symbol of the text can be reached by Tab, and what follows it are the buttons.
    assert driver.execute_script("return document.querySelectorAll('[role=option][tabindex=\"0\"]').length") == 1
    press(driver, Keys.TAB)
    assert driver.execute_script("return document.activeElement.innerText") == "next character ›"
    press(driver, Keys.ENTER)
    assert chosen(driver) == 1
    driver.find_element("xpath", "//button[contains(., 'previous')]").click()
    assert chosen(driver) == 0
    press(driver, Keys.TAB)
    assert driver.execute_script("return document.activeElement.innerText") == "next character ›"


def test_what_is_said_to_those_who_do_not_see(driver: Any, tmp_path: Path) -> None:
    check_page(driver, written(tmp_path, transcript()))
    label = "return document.querySelectorAll('[role=option]')[arguments[0]].getAttribute('aria-label')"
    assert driver.execute_script(label, 3) == "space, 3.5 bits"
    assert driver.execute_script(label, TEXT.index("\n")) == f"line end, {TEXT.index(chr(10)) % 7 + 0.5:g} bits"
    assert driver.execute_script(label, 0) == "“T”, - bits"
    assert driver.execute_script("return document.querySelector('.chosen h4').getAttribute('aria-live')") == "polite"
    chart = driver.execute_script("return document.querySelector('.moved').getAttribute('aria-label')")
    assert chart.startswith("Influence by distance; the largest is of ")


def test_without_scripts_the_text_and_a_table_are_there(driver: Any, tmp_path: Path) -> None:
    path = written(tmp_path, transcript())
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        check_page(driver, path, ["text"], PHONE)
        assert driver.find_element("css selector", "pre").text.startswith("The cat sat on the mat")
        assert not driver.find_element("css selector", ".chosen").is_displayed()
        assert driver.find_element("css selector", "details summary").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    row = re.search(r"<tr><td>4</td>.*?</tr>", path.read_text(encoding="utf-8"))
    assert row
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row[0]) == ["4", "c", "4.5", "e 50.0 %,   25.0 %, ↵ 12.0 %"]


def test_markup_and_controls_in_a_text_stay_words(driver: Any, tmp_path: Path) -> None:
    symbols = (*AWKWARD, *TEXT)[:COUNT]
    figure = transcript(symbols=symbols, expected=tuple(() if not i else ((AWKWARD, 0.5),) for i in range(COUNT)))
    path = written(tmp_path, figure)
    text = path.read_text(encoding="utf-8")
    assert not set(text) & set("\x00\x1b\u202e\r")
    (inside,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert "<" not in inside
    json.loads(inside)
    check_page(driver, path, ["text"])
    driver.find_elements("css selector", "pre span")[3].click()
    assert "<b>&amp;" in panel(driver)


def test_a_text_of_400_characters_is_not_large(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count, names = 400, "abcdefghijklmnop"
    figure = transcript(
        symbols=tuple(rng.choice(list(names), count)),
        values=rng.random(count) * 6,
        expected=tuple(tuple(zip("abcde", rng.random(5).tolist(), strict=True)) for _ in range(count)),
        influence=rng.random((count, 60)),
        traces=tuple(Trace(f"gate{i}", rng.random(count), 0.0, 1.0) for i in range(10)),
    )
    assert written(tmp_path, figure).stat().st_size < 300_000


def test_values_that_are_not_finite_are_drawn(driver: Any, tmp_path: Path) -> None:
    influence = transcript().influence.copy()
    influence[20, :3] = [math.inf, 1.0, 0.5]
    influence[30, :8] = 0.0
    path = written(tmp_path, transcript(influence=influence, traces=()))
    check_page(driver, path, ["text"])
    symbols = driver.find_elements("css selector", "pre span")
    symbols[20].click()
    assert classes(driver)[17:20] == ["b3", "b6", "b12"]
    symbols[30].click()
    assert classes(driver)[22:30] == [""] * 8
    assert "Gates" not in panel(driver)
