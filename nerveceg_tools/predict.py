"""Segment any folder of frames in shards; each shard is a Dask task, on any number of workers.

OUT/shards/00042.csv   one finished shard; running the command again skips it
OUT/masks/<name>.png   the mask of each frame that has one, 0 and 255, of the frame's own size
OUT/predictions.csv    all shards, sorted by file name: frame, probability, mask_area, pixels (RLE)
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from itertools import compress, islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from nerveceg_lib import rle
from nerveceg_lib.inference.gate import AnyGate, load_gate
from nerveceg_lib.inference.postprocessing import CLEANUPS
from nerveceg_lib.inference.two_stage import System, load_system, prediction_table, segment
from nerveceg_lib.runtime import process
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, artefact_root, notebook_folder
from nerveceg_lib.runtime.io import matches, read_json, write_atomically, write_csv, write_json
from nerveceg_tools.importers import SUFFIXES, fit_frame, image_files, read_image, unfit_mask
from nerveceg_tools.provenance import stamp

SHARD = 256  # frames per task: a minute or so, little to lose and little to schedule


def predict(folder: Path, out: Path, run: str, precision: str, client=None) -> Path:
    """Segment all frames in `folder` with the networks and the gate of `run`, in the way that notebook 4 evaluated.

    Frames may have any size and colour; they are scaled as `import-frames` scales them, and masks are scaled back.

    client: a `distributed.Client`; without one this process does the work.

    Shards that `out` already holds are kept. Returns the path of predictions.csv. Raises InputError for an empty
    folder, a missing run, a frame that does not fit, and an `out` that holds predictions of something else.
    """
    images, _ = image_files(folder.absolute())
    paths = [path for path in images if path.parent == folder.absolute() and not path.stem.endswith("_mask")]
    if not paths:
        raise InputError(f"{folder}: expected frames ({', '.join(sorted(SUFFIXES))}), found none")
    if twins := [name for name, count in Counter(path.stem for path in paths).items() if count > 1]:
        raise InputError(f"{folder}: expected one file per frame, found {twins[0]} with several endings")
    gate, cleanup, system = load_gate(run)
    trained = [notebook_folder(name, notebook) for name in system["runs"] for notebook in NOTEBOOKS[1:3]]
    networks = stamp(path for place in trained for path in sorted(place.glob("*.pt")))
    inputs = {"frames": stamp(paths), "networks": networks, "gate": vars(gate), "cleanup": cleanup}
    _claim(out, inputs | {"system": system, "precision": precision, "run": run, "shard": SHARD})
    starts = range(0, len(paths), SHARD)
    shards = {out.absolute() / "shards" / f"{n // SHARD:05d}.csv": paths[n : n + SHARD] for n in starts}
    tasks = [(shard, part) for shard, part in shards.items() if not shard.exists()]
    settings = {**system, "runs": tuple(system["runs"]), "precision": precision}
    settings |= {"root": artefact_root(), "networks": networks}
    work = partial(segment_shard, settings=settings, gate=gate, cleanup=cleanup)
    results: Iterable[None] = map(work, tasks)
    if client is not None:
        from distributed import as_completed

        results = (future.result() for future in as_completed(client.map(work, tasks, pure=False, retries=1)))
    for _ in tqdm(results, "shards", total=len(tasks), mininterval=5, delay=5):
        pass
    write_atomically(out / "predictions.csv", lambda path: _merge(list(shards), path))
    return out / "predictions.csv"


def segment_shard(task: tuple[Path, list[Path]], settings: dict, gate: AnyGate, cleanup: str) -> None:
    """Segment the frames of one shard, and write their masks and finally its table."""
    shard, paths = task
    write_csv(shard, segment_files(_system(**settings), paths, gate, shard.parents[1] / "masks", CLEANUPS[cleanup]))


def segment_files(
    system: System, paths: list[Path], gate: AnyGate, masks: Path, clean: Callable = np.asarray, batch_size: int = 16
) -> pd.DataFrame:
    """Return one row per file, as in predictions.csv, and write the masks that the gate keeps to the folder `masks`."""
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    shapes: dict[Path, tuple[int, ...]] = {}

    def load(batch: list[Path]) -> np.ndarray:
        frames = [read_image(path, "L") for path in batch]
        shapes.update(zip(batch, (frame.shape for frame in frames), strict=True))
        return np.stack([fit_frame(frame, cv2.INTER_AREA) for frame in frames])

    stream = segment(system, batches, gate.threshold, load, clean)
    tables = []
    for batch in batches:
        predictions = list(islice(stream, len(batch)))
        table = prediction_table(predictions, np.arange(len(batch))).assign(frame=[path.name for path in batch])
        keep = gate.keep(table)
        for path, prediction in compress(zip(batch, predictions, strict=True), keep):
            assert prediction.mask is not None  # a gate keeps only masks that its threshold let through
            mask = unfit_mask(prediction.mask, shapes[path])
            png = cv2.imencode(".png", mask * np.uint8(255))[1].tobytes()
            write_atomically(masks / f"{path.stem}.png", partial(Path.write_bytes, data=png))
            table.loc[table["frame"] == path.name, ["mask_area", "pixels"]] = int(mask.sum()), rle.encode(mask)
        table.loc[~keep, ["mask_area", "pixels"]] = 0, ""
        tables.append(table[["frame", "probability", "mask_area", "pixels"]])
    return pd.concat(tables)


@lru_cache(maxsize=1)
def _system(root: Path, networks: str, **arguments) -> System:
    """Load the networks, once per worker, and again if the run was trained again (`networks` is their stamp)."""
    os.environ["NERVECEG_RUNS"] = str(root)
    process.configure(seed=0)
    return load_system(**arguments)[0]


def _merge(shards: list[Path], path: Path) -> None:
    """Join the tables as text, one after the other, since those of a million frames may not fit into memory."""
    with open(path, "w") as merged:
        for number, shard in enumerate(shards):
            merged.writelines(shard.read_text().splitlines(keepends=True)[number > 0 :])


def _claim(out: Path, claim: dict) -> None:
    """Note in `out` what it holds predictions of. Raises InputError if they are of something else."""
    path = out / "predict.json"
    if path.exists() and not matches(path, claim):
        before = read_json(path)
        differing = sorted(key for key in claim if before.get(key) != claim[key])
        raise InputError(f"{out}: holds predictions with other {', '.join(differing)}; choose an empty folder")
    for name in ("masks", "shards"):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_json(path, claim)
