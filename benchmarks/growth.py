"""What grows how: all six notebooks on the phantom at 1/6, 1/2 and all of the competition's size.

    python -m benchmarks.growth [FOLDER] [PARTS]

Each notebook runs by a command of its own, in FOLDER (default: bench/growth in the artefact root). PARTS are the frames
per patient, of the competition's 120 (default: 20,60,120). Prints and writes growth.csv: seconds of the clock and of
all cores together, the most memory that the command and its processes held, and the MiB that it left on the disk. A
finished size is not run again; remove its folder to do so. At the full size the training of the segmenter is ended
once, in the middle, and resumed.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import yaml

from nerveceg_lib.inference.submission import validate_submission
from nerveceg_lib.runtime import folders
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_lib.runtime.io import write_csv

PATIENTS, FRAMES, TEST_FRAMES = 47, 120, 5508
INTERRUPTED = NOTEBOOKS[2]  # after its first epoch
PARAMETERS = {  # small inputs and few epochs, because two cores have to do it
    "classifier": {"model": "efficientnet-lite0", "pretrained": True, "epochs": 2},
    "segmenter": {
        "model": "efficient-unet-lite0", "pretrained": True, "presence_head": True, "epochs": 2,
        "height": 96, "width": 128, "batch_size": 8,
    },
    "inference": {"gate_from": "segmenter"},
}  # fmt: skip


def measure(root: Path, frames_per_patient: int) -> pd.DataFrame:
    """Run the notebooks one by one at one size; return a row for each."""
    test_frames = TEST_FRAMES * frames_per_patient // FRAMES
    data = {"phantom_patients": PATIENTS, "phantom_frames": frames_per_patient, "phantom_test_frames": test_frames}
    shutil.rmtree(root, ignore_errors=True)  # what an interrupted measurement has left would seem to cost nothing
    root.mkdir(parents=True)
    profile = root / "profile.yaml"
    profile.write_text(yaml.safe_dump(PARAMETERS | {"data": data | {"phantom_difficulty": "medium"}}))
    command = [sys.executable, "-m", "nerveceg_tools", "run", "--resume", "--profile", str(profile)]
    rows = []
    for notebook in NOTEBOOKS:
        before, start, computed = bytes_below(root), time.monotonic(), core_seconds()
        only, peaks = [*command, "--only", notebook[:2]], []
        if notebook == INTERRUPTED and frames_per_patient == FRAMES:
            peaks.append(run(only, root, until="epoch 1/"))
        peaks.append(run(only, root))
        row = {"notebook": notebook, "seconds": time.monotonic() - start, "core_seconds": core_seconds() - computed}
        rows.append(row | {"peak_mib": max(peaks), "disk_mib": (bytes_below(root) - before) / 2**20})
        print(f"{frames_per_patient} frames per patient", rows[-1], flush=True)
    sample = next(root.glob("phantom-*")) / "sample_submission.csv"
    submission = validate_submission(root / "demo" / NOTEBOOKS[5] / "submission.csv", sample)
    frames = PATIENTS * frames_per_patient
    return pd.DataFrame(rows).assign(frames=frames, test_frames=test_frames, submitted=len(submission))


def run(command: list[str], root: Path, until: str = "") -> float:
    """Run a command to its end, or end it once it has printed `until`; return the most MiB that its processes held."""
    log, peak = root / "log.txt", 0.0
    with open(log, "w") as output:
        environment = os.environ | {"NERVECEG_RUNS": str(root)}
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    while process.poll() is None:
        peak = max(peak, held_by(process.pid))
        time.sleep(0.2)
        if until and until in log.read_text():
            process.send_signal(signal.SIGTERM)
            until = ""
    if process.returncode not in (0, 130):
        raise subprocess.CalledProcessError(process.returncode, command, log.read_text())
    return peak


def held_by(pid: int) -> float:
    """Return the MiB of memory of a process and all that it has started; pages that they share count once for each."""
    total = 0
    try:
        for process in [(parent := psutil.Process(pid)), *parent.children(recursive=True)]:
            total += process.memory_info().rss - process.memory_info().shared
    except psutil.Error:  # one of them has ended
        pass
    return total / 2**20


def core_seconds() -> float:
    """Return what the ended processes below this one have computed; others on the machine add nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(folder: str = "", parts: str = "20,60,120") -> None:
    root = Path(folder) if folder else folders.artefact_root() / "bench" / "growth"
    tables = []
    for part in map(int, parts.split(",")):
        table = root / f"{part}.csv"
        if not table.exists():
            write_csv(table, measure(root / str(part), part))
        tables.append(pd.read_csv(table))
    grown = pd.concat(tables).pivot(index="notebook", columns="frames", values=["core_seconds", "peak_mib", "disk_mib"])
    write_csv(root / "growth.csv", pd.concat(tables))
    print(grown.round(0).astype(int).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
