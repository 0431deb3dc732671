"""pyproject.toml, constraints.txt and environment.yml must say the same; nothing unpinned or ill-licensed slips in."""

import ast
import importlib.metadata
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tests import dependencies
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(r) for r in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])]
PINS = {
    name.lower().replace("_", "-"): Version(version)
    for name, _, version in (line.partition("==") for line in (REPOSITORY / "constraints.txt").read_text().split("\n"))
    if version
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_every_requirement_allows_its_pin(requirement):
    assert PINS[requirement.name] in requirement.specifier


def test_everything_installed_is_pinned_and_its_licence_listed():
    needed = dependencies.installed("nerveceg", ("test",)) - {"nerveceg"}
    installed = {name: Version(importlib.metadata.version(name)).public for name in needed}
    assert {"torch", "nbval"} < needed and installed == {name: str(PINS[name]) for name in needed}
    page = (REPOSITORY / "docs" / "dependencies.md").read_text()
    listed = dict(re.findall(r"^\| ([a-z0-9.-]+) \| (.+) \|$", page.partition("|---|")[2], flags=re.MULTILINE))
    assert needed <= set(listed)  # other systems may need fewer
    assert all(listed[name] == dependencies.licence(name) for name in needed)
    permissive = "Apache|BSD|MIT|ISC|PSF-2.0|Python Software Foundation"
    weak = {name for name, licence in listed.items() if "MPL" in licence}
    assert weak == {"certifi", "fqdn", "hypothesis", "pathspec", "tqdm"}
    others = [text for name, text in listed.items() if name not in weak]
    assert all(re.search(permissive, text) and not re.search("GPL|proprietary", text, re.IGNORECASE) for text in others)


def test_environment_installs_the_package_with_the_same_pins():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip_name, pip = environment["dependencies"]
    assert Version(python.removeprefix("python=")) in Requirement(f"x{PROJECT['requires-python']}").specifier
    assert pip_name == "pip" and pip["pip"] == ["-c constraints.txt", "-e .[test]"]


def test_torchvision_is_neither_pinned_nor_imported():
    assert "torchvision" not in PINS
    for path in (REPOSITORY / "nerveceg_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torchvision" for name in names), path


def test_leaves_import_no_sibling():
    leaves = {
        "rle": {"errors"},
        "losses": {"errors"},
        "metrics": set(),
        "cleanup": {"errors"},
        "models": {"errors", "models"},
    }
    leaves["phantom"] = {"errors", "phantom"}
    for leaf, allowed in leaves.items():
        for path in (REPOSITORY / "nerveceg_lib").glob(f"{leaf}*"):
            for file in [path] if path.suffix == ".py" else path.glob("*.py"):
                tree = ast.walk(ast.parse(file.read_text()))
                modules = [node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module]
                used = {m.split(".")[1] for m in modules if m.startswith("nerveceg_lib.")}
                assert used <= allowed, file


def code_lines(path):
    """Lines that are neither blank nor comment nor docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    text = path.read_text()
    docs = [n.body[0] for n in ast.walk(ast.parse(text)) if isinstance(n, documented) and ast.get_docstring(n)]
    inside = {line for doc in docs for line in range(doc.lineno, doc.end_lineno + 1)}
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in inside for n, line in lines)


def test_modules_stay_thin():
    for path in (REPOSITORY / "nerveceg_lib").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path
    assert sum(code_lines(path) for path in (REPOSITORY / "nerveceg_lib" / "explain").glob("*.py")) < 350
    models = (REPOSITORY / "nerveceg_lib" / "models").glob("*.py")
    assert sum(len(path.read_text().splitlines()) for path in models) < 800
