"""What the pages promise is there: links, commands, parameters, files; and nothing is ahead of the code."""

import re
import shlex

import nbformat
import pytest
import yaml

from nerveceg_lib import __version__
from nerveceg_tools.cli import parser
from nerveceg_tools.run import resolve_parameters
from nerveceg_tools.sweep import read_sweep
from tests.conftest import REPOSITORY
from tests.test_doctor import COMMANDS

README, CONTRIBUTING = REPOSITORY / "README.md", REPOSITORY / "docs" / "contributing.md"
PAGES = [
    README,
    REPOSITORY / "CHANGELOG.md",
    *(REPOSITORY / "docs").glob("*.md"),
    REPOSITORY / "benchmarks" / "README.md",
]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
FILES = [*PAGES, *NOTEBOOKS, *(REPOSITORY / "params").rglob("*.yaml")]
HTML = r'(?:src|href)="([^"]+)"'


def text_of(path):
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, 4).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return path.read_text()


def anchors(text):
    """Return the anchors that GitHub makes from headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_links_and_pictures_resolve(path):
    prose = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
    targets = [*re.findall(r"\]\(([^)\s]+)\)", prose), *re.findall(HTML, prose)]
    for target in targets:
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(text_of(file)), f"{path.name}: {target}"
    assert targets or path.parent.name in {"docs", "benchmarks"}


def commands_of(path):
    """Return all command lines of the kit in blocks and in backticks, without the command's own name."""
    text = text_of(path)
    lines = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)).splitlines()
    lines += re.findall(r"`([^`\n]+)`", text)
    kit = r"^(?:torchrun .*-m nerveceg_tools|(?:\S*python -m nerveceg_tools|(?:\S*/)?nerveceg)) ([a-z].*)"
    return [match[1].split(" #")[0].rstrip() for line in lines if (match := re.match(kit, line.strip()))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_are_understood(path):
    for line in commands_of(path):
        words = shlex.split(line.replace("...", "more").removesuffix(" …"))
        if words[-1] == "--help":
            continue
        options = parser().parse_args(words)
        if hasattr(options, "overrides"):
            readers_own = {name for name, value in options.overrides if value.startswith("my_")}
            values = {name: value for name, value in options.overrides if name not in readers_own}
            resolve_parameters(options.profile, values)
        if hasattr(options, "grid") and options.grid.parts[0] == "params":
            read_sweep(REPOSITORY / options.grid)


def test_the_reference_names_every_command():
    text = text_of(REPOSITORY / "docs" / "reference.md")
    assert [command for command in COMMANDS if f"`{command}`" not in text] == []


def test_nothing_is_called_by_its_old_name():
    for path in FILES:
        assert not re.search(r"-m nerveceg_lib|bias-table|--profile FILE|second.look", text_of(path)), path


def test_the_tree_names_what_is_there():
    """A row without indentation names a folder or file, a row indented by two blanks some entries of that folder."""
    trees = [re.search(r"```\n(notebooks/ .*?)```", path.read_text(), re.DOTALL) for path in (CONTRIBUTING, README)]
    rows = next(tree[1] for tree in trees if tree).splitlines()
    named: dict[str, set[str]] = {}
    for row in rows:
        indent, names = re.match(r"( *)(.*?)(?:  |$)", row).groups()
        if not indent:
            folder = names
            named[folder] = set()
        elif indent == "  ":
            named[folder] |= {name.strip("/") for name in names.split()}
    for folder, names in named.items():
        path = REPOSITORY / folder
        assert path.exists(), folder
        entries = (
            {entry.stem for entry in path.iterdir() if not entry.name.startswith("__")} if path.is_dir() else set()
        )
        assert names <= entries and (names == entries or not folder.startswith("nerveceg_")), folder


def test_the_citation_names_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
