"""Write a phantom data set in the competition's layout, frame by frame, on several processes.

Every patient and every frame has its own random numbers, so the files do not depend on the number of workers. Only
run-length strings travel between processes, so memory does not depend on the number of frames.
"""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock

from nerveceg_lib.data import io
from nerveceg_lib.rle import encode
from nerveceg_lib.runtime.errors import InputError, at_least, one_of
from nerveceg_lib.runtime.folders import artefact_root
from nerveceg_lib.runtime.io import new_folder, storing, whole_folder
from nerveceg_lib.runtime.process import cores, reported
from nerveceg_tools.cluster import uninterrupted
from nerveceg_tools.phantom.anatomy import DIFFICULTIES
from nerveceg_tools.phantom.cohort import Plan, cohort
from nerveceg_tools.phantom.patient import Patient

CHUNK = 60  # frames that a worker renders in one go: enough to pay for its start and for drawing the patient's anatomy


class Row(NamedTuple):
    """What is noted of each frame: where it stands, its mask as RLE, and whether it shows calipers."""

    subject: int
    image: int
    pixels: str
    source: str
    calipers: bool


class Job(NamedTuple):
    """Frames `first`, `first` + 1, ... of one patient and their image numbers; subject 0 means the test set."""

    plan: Plan
    difficulty: str
    caliper_share: tuple[float, float]
    subject: int
    first: int
    images: list[int]


def make_phantom(**options) -> Path:
    """Return the folder of the phantom data set with these options of `write_phantom`, and write it the first time.

    It is kept below the artefact root, once for each set of options.
    """
    key = hashlib.blake2b(repr(sorted(options.items())).encode(), digest_size=4).hexdigest()
    folder = artefact_root() / f"phantom-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # several runs at once share one phantom
        if not folder.exists():
            write_phantom(folder, **options)
    return folder


def write_phantom(
    out: Path,
    *,
    patients: int = 47,
    frames_per_patient: int = 120,
    test_frames: int = 5508,
    seed: int = 0,
    difficulty: str = "medium",
    contradictory: float = 0.03,
    caliper_share: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Write a synthetic data set to the new or empty folder `out`, in the layout that `nerveceg_lib.data.io` writes.

    patients, frames_per_patient: size of the training set, at least 1 each. test_frames: of other patients, in random
    order; may be 0. difficulty: easy, medium or hard. contradictory: share of frames (0 to 0.5) that nearly repeat a
    positive frame and are labelled negative; contradictory.csv (subject,img,twin) lists those of the training set.
    caliper_share: shares (0 to 1) of the frames with and of the frames without a nerve in which an examiner has left
    calipers; if there are any, the column `calipers` of names.csv says where.

    The same seed gives the same bytes, and a process that is killed leaves no `out` behind. Raises InputError that
    names a parameter out of range, or `out` if it is not empty.
    """
    at_least(1, patients=patients, frames_per_patient=frames_per_patient)
    at_least(0, test_frames=test_frames, seed=seed)
    one_of("difficulty", difficulty, DIFFICULTIES)
    if any(not 0 <= share <= 1 for share in caliper_share):
        raise InputError(f"caliper_share: expected two shares between 0 and 1, found {caliper_share}")
    train_seed, test_seed, order_seed = np.random.SeedSequence(seed).spawn(3)
    train = cohort([frames_per_patient] * patients, train_seed, contradictory)
    order = np.random.default_rng(order_seed).permutation(test_frames) + 1
    images = np.array_split(order, max(1, round(test_frames / frames_per_patient))) if test_frames else []
    test = cohort([len(numbers) for numbers in images], test_seed, contradictory) if test_frames else []
    numbered = [(plan, subject, np.arange(1, plan.frames + 1)) for subject, plan in enumerate(train, start=1)]
    numbered += [(plan, 0, numbers) for plan, numbers in zip(test, images, strict=True)]
    jobs = [
        Job(plan, difficulty, caliper_share, subject, first, numbers[first : first + CHUNK].tolist())
        for plan, subject, numbers in numbered
        for first in range(0, plan.frames, CHUNK)
    ]
    with storing(out), whole_folder(new_folder(out)) as folder:
        rows = _draw(folder, jobs)
        io.write_train_masks(folder, [row[:3] for row in rows if row[0]])
        io.write_test_tables(folder, [row[1:3] for row in rows if not row[0]])
        if any(caliper_share):
            _names(rows).to_csv(folder / "names.csv", index=False)
        _twins(train).to_csv(folder / "contradictory.csv", index=False)


def _draw(folder: Path, jobs: list[Job]) -> list[Row]:
    for name in ("train", "test"):
        (folder / name).mkdir()
    rows: list[Row] = []
    total = sum(len(job.images) for job in jobs)
    with closing(_run(partial(_write, folder), jobs, workers=min(cores(), total // CHUNK))) as parts:
        for written in reported(parts, "phantom, groups of frames", len(jobs)):
            rows += written
    return rows


def _run(write: partial, jobs: list[Job], workers: int) -> Generator[list[Row], None, None]:
    if workers <= 1:
        yield from map(write, jobs)
        return
    # spawn: forking a process that holds threads (a notebook kernel, PyTorch) can deadlock
    # an executor instead of a Pool: a worker that dies ends the run instead of being replaced for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_prepare_worker) as pool:
        with uninterrupted():
            results = pool.map(write, jobs)
        yield from results


def _prepare_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed: otherwise it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # every worker has one
    parent.join()
    os._exit(1)


def _write(folder: Path, job: Job) -> list[Row]:
    patient = Patient(job.plan, job.difficulty, job.caliper_share)
    rows = []
    for frame, image in enumerate(job.images, start=job.first):
        pixels, mask = patient.render(frame)
        path = io.image_path(folder, job.subject, image) if job.subject else io.test_path(folder, image)
        io.write_frame(path, pixels)
        if job.subject:
            io.write_mask(io.mask_path(folder, job.subject, image), mask)
        rows.append(
            Row(job.subject, image, encode(mask), f"{path.parent.name}/{path.name}", patient.has_calipers(frame))
        )
    return rows


def _names(rows: list[Row]) -> pd.DataFrame:
    """Return names.csv, in which frames with calipers are not `clean`."""
    table = pd.DataFrame(rows).drop(columns="pixels").astype({"calipers": int})
    names = table["subject"].astype(str).where(table["subject"] > 0, "")
    return table.assign(set=table["source"].str.split("/").str[0], patient=names, clean=1 - table["calipers"])


def _twins(plans: list[Plan]) -> pd.DataFrame:
    rows = []
    for subject, plan in enumerate(plans, start=1):
        twin = Patient(plan).frames.twin
        rows += [(subject, int(frame) + 1, int(twin[frame]) + 1) for frame in np.flatnonzero(twin >= 0)]
    return pd.DataFrame(rows, columns=["subject", "img", "twin"])
