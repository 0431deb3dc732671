"""`python -m tests.dependencies` prints docs/dependencies.md from what is installed."""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAD = """# Dependencies and their licences

These packages are installed by `make setup`, with the licence that each of them states. All licences are permissive,
except for the Mozilla Public License 2.0 of certifi, fqdn, hypothesis, pathspec and tqdm: whoever distributes these
packages has to offer their source code. docutils also states the GPL, for a file for Emacs that is not in its
wheel. Two things are not in the metadata: the wheel of opencv-python contains FFmpeg (LGPL 2.1) and Qt (LGPL 3) as
separate libraries, and the CUDA builds of torch contain libraries under NVIDIA's terms.

The versions are pinned in `constraints.txt`. `make bench`, `make torture` and `make audit` also install pycocotools
(FreeBSD), atheris (Apache-2.0) and pip-audit (Apache-2.0).

`python -m tests.dependencies > docs/dependencies.md` writes this page; a test compares it with what is installed.

| package | licence |
|---|---|
"""


def needed_by(name: str, extras: tuple[str, ...] = (), visited: set | None = None) -> set[str]:
    """Return the names of the packages that `name[extras]` needs on this system, including itself."""
    visited = set() if visited is None else visited
    if (name, extras) not in visited:
        visited.add((name, extras))
        for requirement in map(Requirement, metadata.requires(name) or []):
            if not requirement.marker or any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                needed_by(canonicalize_name(requirement.name), tuple(sorted(requirement.extras)), visited)
    return {package for package, _ in visited}


def licence(name: str) -> str:
    """Return the licence in the package's metadata: an SPDX expression, else trove classifiers, else free text.

    Where the metadata say UNKNOWN, it is the first line of the package's LICENSE file.
    """
    fields = metadata.metadata(name)
    classifiers = [line.split(" :: ")[-1] for line in fields.get_all("Classifier", []) if line.startswith("License ::")]
    stated = fields.get("License-Expression") or "; ".join(classifiers) or fields.get("License", "")
    if stated != "UNKNOWN":
        return stated
    return (metadata.distribution(name).read_text("LICENSE") or "").partition("\n")[0]


if __name__ == "__main__":
    packages = sorted(needed_by("nerveceg", ("pretrained", "test", "docs")) - {"nerveceg"})
    print(HEAD + "\n".join(f"| {name} | {licence(name)} |" for name in packages))
