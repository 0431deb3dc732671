"""Small data sets and artefact roots that several test files share."""

import os
from pathlib import Path

import pytest

from nerveceg_lib import runtime
from nerveceg_lib.data.cache import FrameCache, open_cache
from nerveceg_tools.phantom import write_phantom

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("NERVECEG_SHARED", REPOSITORY.parent / "shared"))  # real data, not in the repository


@pytest.fixture(scope="session", autouse=True)
def _process(tmp_path_factory):
    """Seed this process, and keep what a test writes without an artefact root of its own out of the repository."""
    runtime.configure(seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A phantom data set of 6 patients with 8 frames, and 6 test frames. Tests must not change it."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, patients=6, frames_per_patient=8, test_frames=6, difficulty="easy")
    return folder


@pytest.fixture(scope="session")
def frames(phantom, tmp_path_factory) -> FrameCache:
    """The decoded phantom. Tests must not change it."""
    return open_cache(phantom, tmp_path_factory.mktemp("frames") / "cache")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An artefact root for one test."""
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
