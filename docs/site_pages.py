"""What the site adds to docs/: the pages of the repository outside it, and links that lead to them.

MkDocs calls these functions; mkdocs.yml names the file.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FOLDER = "repository"
"""Where the site has them."""

OUTSIDE = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "plugins/examples/*/README.md")
    for path in sorted(ROOT.glob(pattern))
]
"""The pages outside docs/ that the site has."""

LINK = re.compile(r"(\]\()([^)#\s]+)")
ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for path in OUTSIDE:
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"{FOLDER}/{path}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page of the repository into one of the site."""
    here = page.file.src_uri
    path = posixpath.relpath(here, FOLDER) if here.startswith(f"{FOLDER}/") else f"docs/{here}"

    def led(link: re.Match[str]) -> str:
        return link[1] + target(path, here, link[2])

    # In a table, GitHub's Markdown wants a backslash before each bar, in code too, where Python's shows it.
    markdown = ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), markdown)
    return LINK.sub(led, markdown)


def target(path: str, here: str, link: str) -> str:
    """The link of the site for a link of the repository.

    Args:
        path: The page that has the link, in the repository.
        here: The same page in the site.
        link: A path from that page, or the address of a page elsewhere, which stays.
    """
    if ":" in link:
        return link
    named = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if (ROOT / named).is_dir():
        named = f"{named}/README.md"
    there = named.removeprefix("docs/") if named.startswith("docs/") else f"{FOLDER}/{named}"
    return posixpath.relpath(there, posixpath.dirname(here))
