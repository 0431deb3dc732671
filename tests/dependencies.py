"""`python -m tests.dependencies`: print docs/dependencies.md, of what is installed."""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAD = """# Dependencies and their licences

Everything that `make setup` installs, with the licence that its package states. All are permissive, but for five under
the Mozilla Public License 2.0 (certifi, fqdn, hypothesis, pathspec, tqdm), which asks for the source of those packages'
own files alone, and only of who hands them on. What metadata do not say: the wheel of opencv-python carries FFmpeg
(LGPL 2.1) and Qt (LGPL 3) as libraries of their own, and the CUDA builds of torch bring NVIDIA's under NVIDIA's terms.

Versions are pinned in `constraints.txt`. `make bench`, `make torture` and `make audit` add pycocotools (FreeBSD),
atheris (Apache-2.0) and pip-audit (Apache-2.0).

`python -m tests.dependencies > docs/dependencies.md` writes this page; a test compares it with what is installed.

| package | licence |
|---|---|
"""


def installed(name: str, extras: tuple[str, ...] = (), found: set | None = None) -> set[str]:
    """Names of the packages that `name[extras]` needs on this system, itself among them."""
    found = set() if found is None else found
    if (name, extras) in found:
        return set()
    found.add((name, extras))
    for line in metadata.requires(name) or []:
        needed = Requirement(line)
        if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            installed(canonicalize_name(needed.name), tuple(sorted(needed.extras)), found)
    return {name for name, _ in found}


def licence(name: str) -> str:
    """What the package's metadata state: an SPDX expression, else trove classifiers, else free text."""
    facts = metadata.metadata(name)
    classifiers = [line.split(" :: ")[-1] for line in facts.get_all("Classifier", []) if line.startswith("License ::")]
    return facts.get("License-Expression") or "; ".join(classifiers) or facts.get("License", "")


def rows() -> list[str]:
    names = sorted(installed("nerveceg", ("test",)) - {"nerveceg"})
    return [f"| {name} | {licence(name)} |" for name in names]


if __name__ == "__main__":
    print(HEAD + "\n".join(rows()))
