"""Segment any folder of frames in shards, each a Dask task, on any number of workers.

OUT/shards/00042.csv   one finished shard: written whole or not at all, and skipped when the command runs again
OUT/masks/<name>.png   mask of each drawn frame, 0 and 255
OUT/predictions.csv    all shards, in the order of the frames' names: frame, probability, mask_area, pixels (RLE)
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import compress, islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from nerveceg_lib import runtime
from nerveceg_lib.cleanup import CLEANUPS
from nerveceg_lib.data.frames import read_frame
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import read_json, write_atomically, write_csv, write_json
from nerveceg_lib.fusion import AnyGate, load_gate
from nerveceg_lib.inference import System, prediction_table, segment
from nerveceg_lib.paths import STAGES, artefact_root, require, stage_dir
from nerveceg_lib.systems import load_system

SHARD = 256  # frames a task: a minute or so, little to lose and little to schedule


def predict(folder: Path, out: Path, run: str, gate_from: str, precision: str, flip: bool, client=None) -> Path:
    """Masks of all frames in `folder` (*.tif, *.png; 8-bit grey, 420x580) by the networks and the gate of `run`.

    `client` is a `distributed.Client`; without one this process does the work. Whatever `out` holds of the same
    frames and networks is kept. Returns the path of predictions.csv. Raises InputError for an empty folder, a
    missing run, a frame that does not fit, and an `out` that holds predictions of something else.
    """
    names = sorted(path.name for path in folder.glob("*") if path.suffix in {".tif", ".tiff", ".png"})
    names = [name for name in names if not Path(name).stem.endswith("_mask")]
    if not names:
        raise InputError(f"{folder}: expected frames (*.tif, *.png), found none")
    if twins := [name for name, count in Counter(Path(name).stem for name in names).items() if count > 1]:
        raise InputError(f"{folder}: expected one file a frame, found {twins[0]} with several endings")
    chosen, clean = load_gate(require(stage_dir(run, STAGES[3]) / "gate.json", STAGES[3]))
    settings = {"run": run, "gate_from": gate_from, "precision": precision, "flip": flip, "cleanup": clean}
    listed = {"frames": len(names), "names": hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()}
    _claim(out, {**listed, "shard": SHARD, **settings, "gate": vars(chosen), "networks": _stamps(run)})
    shards = {
        out / "shards" / f"{start // SHARD:05d}.csv": names[start : start + SHARD]
        for start in range(0, len(names), SHARD)
    }
    tasks = [(path.absolute(), part) for path, part in shards.items() if not path.exists()]
    common = {"folder": folder.absolute(), "settings": settings, "gate": chosen, "root": artefact_root()}
    for _ in tqdm(_carry_out(client, tasks, common), "shards", total=len(tasks), mininterval=5, delay=5):
        pass
    write_atomically(out / "predictions.csv", lambda path: _merge(list(shards), path))
    return out / "predictions.csv"


def segment_shard(task: tuple[Path, list[str]], folder: Path, settings: dict, gate: AnyGate, root: Path) -> None:
    """Segment the frames of one shard and write their masks and, last, its table."""
    path, names = task
    os.environ["NERVECEG_RUNS"] = str(root)
    system, clean = _system(json.dumps(settings)), CLEANUPS[settings["cleanup"]]
    write_csv(path, segment_files(system, [folder / name for name in names], gate, path.parents[1] / "masks", clean))


def segment_files(
    system: System,
    paths: list[Path],
    gate: AnyGate,
    masks: Path,
    clean: Callable = np.asarray,
    batch: int = 16,
) -> pd.DataFrame:
    """One row a file, as in predictions.csv; those of drawn masks, after `clean`, are written to the folder `masks`."""
    parts = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    found = segment(system, parts, gate.threshold, lambda part: np.stack([read_frame(path) for path in part]), clean)
    tables = []
    for part in parts:
        predictions = list(islice(found, len(part)))
        table = prediction_table(predictions, np.arange(len(part))).assign(frame=[path.name for path in part])
        drawn = gate.draws(table)
        for path, prediction in compress(zip(part, predictions, strict=True), drawn):
            assert prediction.mask is not None  # a gate draws only what its threshold let through
            png = cv2.imencode(".png", prediction.mask * np.uint8(255))[1].tobytes()
            write_atomically(masks / f"{path.stem}.png", partial(Path.write_bytes, data=png))
        table.loc[~drawn, ["mask_area", "pixels"]] = 0, ""
        tables.append(table[["frame", "probability", "mask_area", "pixels"]])
    return pd.concat(tables)


@lru_cache(maxsize=1)
def _system(settings: str):
    """The networks, loaded once a worker."""
    runtime.configure(seed=0)
    given = json.loads(settings)
    return load_system([given["run"]], given["gate_from"], given["precision"], given["flip"])[0]


def _carry_out(client, tasks: list, common: dict) -> Iterator[None]:
    if client is None:
        for task in tasks:
            segment_shard(task, **common)
            yield
        return
    from distributed import as_completed

    futures = client.map(segment_shard, tasks, **common, pure=False, retries=1)
    for future in as_completed(futures):
        yield future.result()


def _merge(shards: list[Path], path: Path) -> None:
    """Line by line: the tables of a million frames need not fit into memory."""
    with open(path, "w") as merged:
        for number, shard in enumerate(shards):
            with open(shard) as part:
                header = next(part)
                merged.writelines([header] if number == 0 else [])
                merged.writelines(part)


def _claim(out: Path, facts: dict) -> None:
    """Make `out` the place of these predictions, or raise InputError if it is another's."""
    (out / "masks").mkdir(parents=True, exist_ok=True)
    (out / "shards").mkdir(exist_ok=True)
    record = out / "predict.json"
    if record.exists() and (found := read_json(record)) != facts:
        differing = sorted(key for key in facts if found.get(key) != facts[key])
        raise InputError(f"{out}: holds predictions with other {', '.join(differing)}; choose an empty folder")
    write_json(record, facts)


def _stamps(run: str) -> dict[str, list[int]]:
    """Size and time of the networks' files: retrained ones make other predictions."""
    paths = [
        stage_dir(run, stage) / name for stage, name in zip(STAGES[1:3], ("classifier.pt", "segmenter.pt"), strict=True)
    ]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.exists()}
