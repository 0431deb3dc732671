"""The site that `make docs` builds with Sphinx: the pages, the notebooks as stored, and the library's docstrings.

The sources are the files that GitHub shows, so Sphinx reads them from the root of the repository.
"""

import inspect
import os
import pkgutil
import shutil
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import nerveceg_lib

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"  # written by each build
REPORT = ROOT / os.environ.get("NERVECEG_RUNS", "runs") / "demo" / "report"
LIBRARY = sorted(module.name for module in pkgutil.walk_packages(nerveceg_lib.__path__, "nerveceg_lib."))
GUIDES = [
    "recipes",
    "running",
    "reference",
    "results",
    "original",
    "contributing",
    "bad_input",
    "hard_to_break",
    "dependencies",
]
CONTENTS = {  # captions and pages of the navigation
    "": ["Start <self>"],
    "Notebooks": [f"notebooks/{path.stem}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))],
    "Guides": [f"docs/{name}" for name in GUIDES],
    "Code": ["API <docs/api/index>", "Benchmarks <benchmarks/README>", "Changes <CHANGELOG>"],
}

project, release, author = "NerveCeg", nerveceg_lib.__version__, "the NerveCeg contributors"
root_doc = "README"
exclude_patterns = [".*", "build", "data", "runs", "site"]  # large folders, which need not be searched
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/api/*.rst",
    "benchmarks/README.md",
    "notebooks/*.ipynb",
]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # the anchors that GitHub makes
default_role = "py:obj"  # `name` in a docstring is code, and a link where the library has that name
highlight_language = "text"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = project
html_static_path = ["theme/site.css"]
html_css_files = ["site.css"]
templates_path = ["theme"]
html_context = {"report": REPORT.is_dir()}
html_copy_source = html_show_copyright = False
html_show_search_summary = False  # the page would fetch the texts, which browsers forbid for files
html_math_renderer = "mathml"


def write_api(app, config):
    """Write a page for each module of the library, and a list of them."""
    shutil.rmtree(API, ignore_errors=True)
    API.mkdir()
    for name in LIBRARY:
        (API / f"{name}.rst").write_text(f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n")
    first_lines = {name: inspect.getdoc(pkgutil.resolve_name(name)).partition("\n")[0] for name in LIBRARY}
    rows = "".join(f":doc:`{name}`\n   {line}\n\n" for name, line in first_lines.items())
    entries = "".join(f"   {name.removeprefix('nerveceg_lib.')} <{name}>\n" for name in LIBRARY)
    (API / "index.rst").write_text(f"The library's modules\n{'=' * 21}\n\n{rows}.. toctree::\n   :hidden:\n\n{entries}")


def add_navigation(app, docname, source):
    if docname == root_doc:
        for caption, pages in CONTENTS.items():
            options = f":hidden:\n:caption: {caption}" if caption else ":hidden:"
            source[0] += "\n".join(["", "```{toctree}", options, "", *pages, "```", ""])


def formula(display):
    """Return what writes a formula as MathML, which browsers draw themselves."""

    def visit(translator, node):
        translator.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit, None


def add_files(app, exception):
    if exception is None:
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")
        if REPORT.is_dir():
            shutil.copytree(REPORT, app.outdir / "report", dirs_exist_ok=True)


def setup(app):
    app.connect("config-inited", write_api)
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_files)
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
