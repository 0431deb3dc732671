"""Requirements, pins and licences agree, and the code keeps to its floors and its size."""

import ast
import importlib.metadata
import io
import pkgutil
import re
import tokenize
import tomllib

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


def test_everything_installed_is_pinned_and_its_licence_listed():
    assert all(PINS[requirement.name] in requirement.specifier for requirement in REQUIREMENTS)
    needed = dependencies.needed_by("nerveceg", ("pretrained", "test", "docs")) - {"nerveceg"}
    installed = {name: Version(importlib.metadata.version(name)).public for name in needed}
    assert {"torch", "nbval"} < needed and installed == {name: str(PINS[name]) for name in needed}
    page = (REPOSITORY / "docs" / "dependencies.md").read_text()
    listed = dict(re.findall(r"^\| ([a-z0-9.-]+) \| (.+) \|$", page.partition("|---|")[2], flags=re.MULTILINE))
    assert needed <= set(listed)  # other systems may need fewer
    assert all(listed[name] == dependencies.licence(name) for name in needed)
    weak = {name for name, licence in listed.items() if "MPL" in licence}
    assert weak == {"certifi", "fqdn", "hypothesis", "pathspec", "tqdm"}
    for text in (text for name, text in listed.items() if name not in weak | {"docutils"}):
        assert re.search("Apache|BSD|MIT|ISC|PSF-2.0|Python Software Foundation", text), text
        assert not re.search("GPL|proprietary", text, re.IGNORECASE), text


def test_environment_installs_the_package_with_the_same_pins():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip_name, pip = environment["dependencies"]
    assert Version(python.removeprefix("python=")) in Requirement(f"x{PROJECT['requires-python']}").specifier
    assert pip_name == "pip" and pip["pip"] == ["-c constraints.txt", "-e .[pretrained,test,docs]"]
    assert callable(pkgutil.resolve_name(PROJECT["scripts"]["nerveceg"]))


def code_lines(path):
    """Return the number of lines of a file that hold more than docstrings and comments."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [n.body[0] for n in ast.walk(ast.parse(text)) if isinstance(n, documented) and ast.get_docstring(n)]
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in layout]
    lines = {number for token in tokens for number in range(token.start[0], token.end[0] + 1)}
    return len(lines - {number for node in docstrings for number in range(node.lineno, node.end_lineno + 1)})


def test_floors_and_totals():
    library, tools = (sorted((REPOSITORY / name).rglob("*.py")) for name in ("nerveceg_lib", "nerveceg_tools"))
    leaves = [REPOSITORY / "nerveceg_lib" / f"{name}.py" for name in ("rle", "losses", "metrics")]
    for path in [*library, *tools]:
        imports = re.findall(r"^\s*(?:from|import) ((?:nerveceg|torchvision)[\w.]*)", path.read_text(), re.MULTILINE)
        assert path in tools or not any(name.startswith(("nerveceg_tools", "torchvision")) for name in imports), path
        assert path not in leaves or all(name.startswith("nerveceg_lib.runtime") for name in imports), path
    for notebook in (REPOSITORY / "notebooks").glob("*.ipynb"):
        taken = set(re.findall(r"from nerveceg_tools\.(\w+)", notebook.read_text()))
        assert taken <= {"phantom", "explore"}, notebook
        assert 'read_csv(\\"results' not in notebook.read_text(), f"{notebook}: there is `stored_results`"
    entries = {path.name for path in (REPOSITORY / "nerveceg_lib").iterdir()} - {"__pycache__"}
    assert len(entries) <= 12 and "torchvision" not in PINS, entries
    assert sum(map(code_lines, library)) <= 2800, "leave something out; see the house rules in docs/contributing.md"
    may_grow = [path for path in tools if re.search("import|explore", str(path.relative_to(REPOSITORY)))]
    assert sum(map(code_lines, tools)) - sum(map(code_lines, may_grow)) <= 1970, "as above"
    assert sum(len(path.read_text().splitlines()) for path in (REPOSITORY / "tests").rglob("*.py")) <= 5990
