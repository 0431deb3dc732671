"""Write a phantom data set in the competition's layout, frame by frame, on several processes.

Every patient and frame has random numbers of its own, so the files do not depend on the number of workers,
and only run-length strings travel between processes, so memory does not depend on the number of frames.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from nerveceg_lib.data import layout
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import new_folder, whole_folder
from nerveceg_lib.phantom import Plan, cohort, difficulty_named, make_patient
from nerveceg_lib.rle import encode
from nerveceg_lib.runtime import uninterrupted

CHUNK = 60  # frames a worker renders at a stretch: enough to pay for drawing the patient's anatomy


class Job(NamedTuple):
    """Frames of one patient and their image numbers. subject 0 means the test set."""

    plan: Plan
    difficulty: str
    subject: int
    frames: tuple[int, ...]
    images: tuple[int, ...]


def write_phantom(
    out: Path,
    *,
    subjects: int = 47,
    frames_per_subject: int = 120,
    test_frames: int = 5508,
    seed: int = 0,
    difficulty: str = "medium",
    contradictory: float = 0.03,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write a synthetic data set to the new or empty folder `out`, laid out as data/layout.py says.

    subjects, frames_per_subject: size of the train set, 1 or more each. test_frames: 0 or more, of other
    patients, in random order. difficulty: easy, medium or hard. contradictory: share of frames (0 to 0.5)
    that nearly repeat a positive frame and are labelled negative; contradictory.csv (subject,img,twin) lists
    those of the train set. workers: processes, by default one per usable core. The same seed gives the same
    bytes; killed, it leaves no `out`. Raises InputError naming the parameter if one is out of range, or `out` if it
    holds something.
    """
    _check(subjects=(subjects, 1), frames_per_subject=(frames_per_subject, 1), test_frames=(test_frames, 0))
    _check(seed=(seed, 0), workers=(1 if workers is None else workers, 1))
    difficulty_named(difficulty)
    train_seed, test_seed, order_seed = np.random.SeedSequence(seed).spawn(3)
    train = cohort([frames_per_subject] * subjects, seed=train_seed, contradictory=contradictory)
    sizes = _shares(test_frames, frames_per_subject)
    test = cohort(sizes, seed=test_seed, contradictory=contradictory) if sizes else []
    order = np.random.default_rng(order_seed).permutation(test_frames) + 1
    jobs = [*_train_jobs(train, difficulty), *_test_jobs(test, difficulty, order)]

    total = frames_per_subject * subjects + test_frames
    with (
        whole_folder(new_folder(out)) as folder,
        tqdm(total=total, desc="phantom", disable=not progress, delay=5, mininterval=5) as bar,
    ):
        _draw(folder, jobs, workers, bar)
        _write_twins(folder, train)


def _draw(out: Path, jobs: list[Job], workers: int | None, bar: tqdm) -> None:
    for name in ("train", "test"):
        (out / name).mkdir()
    rows: list[tuple[int, int, str]] = []
    for done in _run(partial(_write, out), jobs, workers):
        rows += done
        bar.update(len(done))
    layout.write_train_masks(out, [row for row in rows if row[0]])
    layout.write_test_tables(out, [row[1:] for row in rows if not row[0]])


def _check(**parameters: tuple[int, int]) -> None:
    for name, (value, least) in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name}: found {value!r}, expected a whole number of {least} or more")


def _shares(total: int, each: int) -> list[int]:
    """Split the test frames over about total / each patients, as evenly as can be."""
    count = max(1, round(total / each))
    return [len(part) for part in np.array_split(np.arange(total), count)] if total else []


def _train_jobs(plans: list[Plan], difficulty: str) -> Iterator[Job]:
    for subject, plan in enumerate(plans, start=1):
        for frames in _chunks(range(plan.frames)):
            yield Job(plan, difficulty, subject, frames, tuple(frame + 1 for frame in frames))


def _test_jobs(plans: list[Plan], difficulty: str, order: np.ndarray) -> Iterator[Job]:
    start = 0
    for plan in plans:
        for frames in _chunks(range(plan.frames)):
            yield Job(plan, difficulty, 0, frames, tuple(int(order[start + frame]) for frame in frames))
        start += plan.frames


def _chunks(frames: range) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(frames), CHUNK):
        yield tuple(frames[start : start + CHUNK])


def _run(work: partial, jobs: list[Job], workers: int | None) -> Iterable[list[tuple[int, int, str]]]:
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(work, jobs)
        return
    # spawn: forking a process that holds threads (a notebook kernel, PyTorch) can deadlock;
    # an executor and not a Pool: a worker that dies ends the run instead of being replaced for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_prepare_worker) as pool:
        with uninterrupted():
            done = pool.map(work, jobs)
        yield from done


def _prepare_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


def _write(out: Path, job: Job) -> list[tuple[int, int, str]]:
    patient = make_patient(job.plan, job.difficulty)
    rows = []
    for frame, image in zip(job.frames, job.images, strict=True):
        pixels, mask = patient.render(frame)
        if job.subject:
            layout.write_frame(layout.image_path(out, job.subject, image), pixels)
            layout.write_mask(layout.mask_path(out, job.subject, image), mask)
        else:
            layout.write_frame(layout.test_path(out, image), pixels)
        rows.append((job.subject, image, encode(mask)))
    return rows


def _write_twins(out: Path, plans: list[Plan]) -> None:
    rows = []
    for subject, plan in enumerate(plans, start=1):
        twin = make_patient(plan).frames.twin
        rows += [(subject, int(image) + 1, int(twin[image]) + 1) for image in np.flatnonzero(twin >= 0)]
    pd.DataFrame(rows, columns=["subject", "img", "twin"]).to_csv(out / "contradictory.csv", index=False)
