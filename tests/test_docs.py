"""What the pages say is there is there: links, commands, files; and nothing runs ahead of the code."""

import re
import shlex

import nbformat
import pytest
import yaml

from nerveceg_lib import __version__
from nerveceg_lib.__main__ import _parser
from nerveceg_lib.runner import resolve_parameters
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "benchmarks" / "README.md"]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
HTML = r'(?:src|href)="([^"]+)"'


def text_of(path):
    if path.suffix == ".md":
        return path.read_text()
    return "\n\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")


def anchors(text):
    """As GitHub makes them from headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_links_and_pictures_resolve(path):
    text = text_of(path)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = [*re.findall(r"\]\(([^)\s]+)\)", prose), *re.findall(HTML, prose)]
    for target in targets:
        if target.startswith(("https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        place = path.parent / file if file else path
        assert place.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(text_of(place)), f"{path.name}: {target}"
    assert targets or path.parent.name in {"docs", "benchmarks"}


def commands_of(path):
    """Every command line of the kit's in blocks and in backticks."""
    text = text_of(path)
    lines = re.findall(r"^.*$", "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL)), re.MULTILINE)
    lines += re.findall(r"`((?:nerveceg|\S*python -m nerveceg_lib) [^`]+)`", text)
    kit = r"^(?:torchrun .*-m nerveceg_lib|(?:\S*python -m nerveceg_lib|nerveceg)) ([a-z].*)"
    return [found[1].split(" #")[0].rstrip() for line in lines if (found := re.match(kit, line.strip()))]


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_commands_are_understood(path):
    for line in commands_of(path):
        words = shlex.split(line.replace("...", "more").replace("COMMAND ", "run "))
        if words[-1] in {"--help", "doctor"}:
            continue
        options = _parser().parse_args(words)
        profile = getattr(options, "profile", "demo")
        resolve_parameters(profile, dict(getattr(options, "overrides", [])))


def test_the_readme_shows_commands():
    assert len(commands_of(REPOSITORY / "README.md")) > 10


def test_the_tree_names_what_is_there():
    tree = re.search(r"```\n(notebooks/.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)[1]
    library, rows = REPOSITORY / "nerveceg_lib", [re.split(r"  +", row.rstrip()) for row in tree.splitlines()]
    named = {word.strip("/") for row in rows if row[0] == "" for word in row[1].split()}
    there = {path.stem for path in library.iterdir() if not path.name.startswith("__")}
    assert named == there
    assert all((REPOSITORY / row[0]).exists() for row in rows if row[0])


def test_the_citation_names_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
