"""Small data sets and runs that several test files share."""

import os
from pathlib import Path

import pytest

from nerveceg_lib import runtime
from nerveceg_lib.data.phantom_set import write_phantom

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("NERVECEG_SHARED", REPOSITORY.parent / "shared"))  # real data, not in the repository


@pytest.fixture(scope="session", autouse=True)
def _runtime():
    runtime.configure(seed=0)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A phantom data set of 6 patients with 8 frames, and 6 test frames. Tests must not change it."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, subjects=6, frames_per_subject=8, test_frames=6, difficulty="easy", workers=1, progress=False)
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An artefact root of this test's own."""
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
