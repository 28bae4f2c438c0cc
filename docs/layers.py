"""Draw the layers of the packages, the folders and modules in each, and the imports between folders, as SVG.

Run ``python docs/layers.py docs/images/layers.svg``; ``--checkout PATH`` draws another checkout of the repository.
"""

import argparse
import ast
import textwrap
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TEXT, CELL, HEAD, LINE, WRAP = 385, 28, 136, 16, 58  # pixels, but WRAP: characters per line of module names
STYLE = """
svg{--paper:#fff;--ink:#1f2328;--dim:#59636e;--band:#f3f5f7;--down:#0969da;--both:#bc6a00;--up:#d1242f}
@media(prefers-color-scheme:dark){
svg{--paper:#0d1117;--ink:#e6edf3;--dim:#9198a1;--band:#1b222b;--down:#4493f8;--both:#e09b2d;--up:#ff6b64}}
text{font:12px system-ui,sans-serif;fill:var(--ink)}
.layer{font-weight:700;font-size:14px}.folder{font-weight:600}.dim{fill:var(--dim)}.count{text-anchor:middle}
.paper{fill:var(--paper)}.band{fill:var(--band)}.grid{stroke:var(--dim);stroke-opacity:.25;fill:none}
.down{fill:var(--down)}.both{fill:var(--both)}.up{fill:var(--up)}
"""


class Import(NamedTuple):
    """An import of one module by another, both by their full names."""

    source: str
    target: str


class House(NamedTuple):
    """The packages of a checkout.

    Attributes:
        layers: the packages, the top layer first.
        folders: the modules in each folder, by the folder's dotted name; the top layer comes first.
        imports: those between folders, each pair of modules once.
    """

    layers: list[str]
    folders: dict[str, list[str]]
    imports: set[Import]

    def counts(self) -> Counter[tuple[str, str]]:
        """The number of imports from one folder to another."""
        return Counter((self.folder(each.source), self.folder(each.target)) for each in self.imports)

    def folder(self, module: str) -> str:
        """The folder that contains a module, or that a package is."""
        return module if module in self.folders else module.rpartition(".")[0]

    def upward(self) -> set[Import]:
        """Imports from a lower layer to a higher one."""
        height = {layer: -depth for depth, layer in enumerate(self.layers)}
        return {each for each in self.imports if height[package(each.source)] < height[package(each.target)]}


def package(module: str) -> str:
    """The top-level package of a module."""
    return module.partition(".")[0]


def read(checkout: Path) -> House:
    """The layers in ``pyproject.toml``'s contract, and the imports anywhere in their modules."""
    contracts = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    files = {}
    for layer in layers:
        (root,) = (path.parent for path in checkout.glob(f"**/{layer}/__init__.py"))
        for file in sorted(root.rglob("*.py")):
            files[".".join((layer, *file.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")] = file
    folders: dict[str, list[str]] = {}
    for module, file in files.items():
        inside = folders.setdefault(module if file.stem == "__init__" else module.rpartition(".")[0], [])
        if file.stem != "__init__":
            inside.append(file.stem)
    house = House(layers, folders, set())
    for module, file in files.items():
        for target in _targets(ast.parse(file.read_text()), files):
            if house.folder(module) != house.folder(target):
                house.imports.add(Import(module, target))
    return house._replace(folders=_ordered(house))


def _targets(tree: ast.Module, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name in modules)


def _ordered(house: House) -> dict[str, list[str]]:
    """The folders of each layer in the order in which the fewest imports run upward."""
    counts, best = house.counts(), []
    for layer in house.layers:
        best += _least_upward([folder for folder in house.folders if package(folder) == layer], counts)
    return {folder: house.folders[folder] for folder in best}


def _least_upward(folders: list[str], counts: Counter[tuple[str, str]]) -> tuple[str, ...]:
    """The order with the fewest imports of an earlier folder by a later one; the first of several.

    By dynamic programming over the sets of folders that may stand first (Held and Karp 1962): there are 2^n of those,
    and n! orders.
    """
    best: dict[frozenset[str], tuple[int, tuple[str, ...]]] = {frozenset(): (0, ())}
    for _ in folders:
        longer: dict[frozenset[str], tuple[int, tuple[str, ...]]] = {}
        for first, (cost, order) in best.items():
            for last in folders:
                if last not in first:
                    found = cost + sum(counts[last, each] for each in first), (*order, last)
                    key = first | {last}
                    if key not in longer or found[0] < longer[key][0]:
                        longer[key] = found
        best = longer
    return best[frozenset(folders)][1]


def draw(house: House) -> str:
    """The picture: a row and a column for each folder, and where they cross the number of imports."""
    counts, folders = house.counts(), list(house.folders)
    lines = {folder: textwrap.wrap(", ".join(house.folders[folder]) or " ", WRAP) for folder in folders}
    height = {folder: 32 + LINE * len(lines[folder]) for folder in folders}
    width = TEXT + CELL * len(folders) + 64
    body, top = [], HEAD
    for column, folder in enumerate(folders):
        x = TEXT + CELL * (column + 0.5) + 4
        body.append(f'<text transform="translate({x:g} {HEAD - 8}) rotate(-60)">{folder}</text>')
    previous = ""
    for row, folder in enumerate(folders):
        if package(folder) != previous:
            previous = package(folder)
            tall = sum(height[each] for each in folders if package(each) == previous)
            body.append(f'<rect class="band" x="8" y="{top + 3}" width="{width - 16}" height="{tall - 6}" rx="6"/>')
        style = "layer" if folder in house.layers else "folder"
        body.append(f'<text class="{style}" x="20" y="{top + 23}">{folder}</text>')
        for number, line in enumerate(lines[folder]):
            body.append(f'<text class="dim" x="20" y="{top + 23 + LINE * (number + 1)}">{line}</text>')
        for column, other in enumerate(folders):
            x, y = TEXT + CELL * column, top + height[folder] / 2 - CELL / 2
            if row == column:
                body.append(f'<circle class="dim" cx="{x + CELL / 2}" cy="{y + CELL / 2}" r="2.5"/>')
            elif count := counts[folder, other]:
                body.append(_cell(x, y, count, _kind(house, folder, other, row > column)))
        top += height[folder]
    legend = [
        ("down", "imports downward"),
        ("both", "imports within a layer that close a circle of folders"),
        ("up", f"imports upward: {len(house.upward())}"),
    ]
    for number, (kind, words) in enumerate(legend):
        y = 22 + 22 * number
        body.append(f'<rect class="{kind}" x="20" y="{y - 11}" width="14" height="14" rx="3"/>')
        body.append(f'<text x="42" y="{y}">{words}</text>')
    body.append(f'<text class="dim" x="20" y="{HEAD - 36}">The number of imports between modules,</text>')
    body.append(f'<text class="dim" x="20" y="{HEAD - 20}">from the folder of the row to that of the column</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + 10}" width="{width}" role="img">\n'
        f"<title>The layers and the imports between their folders</title>\n<style>{STYLE}</style>\n"
        f'<rect class="paper" width="{width}" height="{top + 10}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _kind(house: House, source: str, target: str, back: bool) -> str:
    if package(source) == package(target):
        return "both" if back else "down"
    return "up" if back else "down"


def _cell(x: float, y: float, count: int, kind: str) -> str:
    opacity, side = min(0.25 + count / 50, 0.75), CELL - 2
    return (
        f'<rect class="{kind}" x="{x + 1:g}" y="{y + 1:g}" width="{side}" height="{side}" rx="4" '
        f'fill-opacity="{opacity:.2f}"/>'
        f'<text class="count" x="{x + CELL / 2:g}" y="{y + CELL / 2 + 4:g}">{count}</text>'
    )


def main() -> None:
    """Write the picture, and print the imports that run upward."""
    parser = argparse.ArgumentParser(description="Draw the layers of the packages as SVG.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[1])
    options = parser.parse_args()
    house = read(options.checkout)
    options.output.write_text(draw(house))
    for source, target in sorted(house.upward()):
        print(f"upward: {source} imports {target}")


if __name__ == "__main__":
    main()
