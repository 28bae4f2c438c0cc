"""``docs/layers.py``: the picture of the layers, made from the imports."""

import importlib.util
import random
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "layers.py"


@pytest.fixture(scope="module")
def layers():
    spec = importlib.util.spec_from_file_location("layers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """Two packages: ``top`` imports ``bottom``, and a folder of ``bottom`` imports ``top`` inside a function."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\n[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["top", "bottom"]\n'
    )
    files = {
        "cli/top/__init__.py": "",
        "cli/top/command.py": "import os\nfrom bottom import maths\nfrom bottom.inner.deep import f\n",
        "bottom/__init__.py": "",
        "bottom/maths.py": "",
        "bottom/inner/__init__.py": "",
        "bottom/inner/deep.py": "import bottom.maths\ndef f():\n    from top import command\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_finds_folders_and_imports(layers, checkout):
    house = layers.read(checkout)
    assert house.folders == {"top": ["command"], "bottom.inner": ["deep"], "bottom": ["maths"]}
    assert house.counts() == {
        ("top", "bottom"): 1,
        ("top", "bottom.inner"): 1,
        ("bottom.inner", "bottom"): 1,
        ("bottom.inner", "top"): 1,
    }


def test_an_upward_import_is_red_and_named(layers, checkout):
    upward = layers.read(checkout).upward()
    assert upward == {layers.Import("bottom.inner.deep", "top.command")}
    picture = ElementTree.fromstring(layers.draw(layers.read(checkout)))
    classes = [each.get("class") for each in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert classes.count("up") == 2  # in the legend and in the table
    assert classes.count("both") == 1


def test_the_script_draws_the_repository(tmp_path):
    output = tmp_path / "layers.svg"
    done = subprocess.run([sys.executable, str(SCRIPT), str(output)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    words = {each.text for each in ElementTree.parse(output).iter("{http://www.w3.org/2000/svg}text")}
    assert {"rnn_cli", "rnn_lab", "rnn_plugins", "rnn_cells", "minigrad", "minigrad.scan"} <= words


def test_no_import_runs_upward(layers):
    assert layers.read(ROOT).upward() == set()


def test_the_order_has_the_fewest_imports_upward(layers):
    rng = random.Random(1)
    for _ in range(20):
        counts = Counter({pair: rng.randint(0, 3) for pair in permutations("abcde", 2)})

        def upward(order, counts=counts):
            return sum(counts[b, a] for i, a in enumerate(order) for b in order[i + 1 :])

        found = layers._least_upward(list("abcde"), counts)
        assert sorted(found) == list("abcde")
        assert upward(found) == min(map(upward, permutations("abcde")))


def test_many_folders_are_ordered_without_trying_all_orders(layers):
    folders = [f"f{i:02}" for i in range(15)]
    counts = Counter({(a, b): 1 for i, a in enumerate(folders) for b in folders[i + 1 :]})
    assert layers._least_upward(folders[::-1], counts) == tuple(folders)
