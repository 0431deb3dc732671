"""Two-stage inference from files to masks and RLE, with the same weights: the engine against naive code."""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import harness, naive, networks
from nerveceg_lib import complexity, compute, metrics, rle, runtime
from nerveceg_lib.data.frames import read_frame
from nerveceg_lib.folding import for_inference
from nerveceg_lib.gate import Gate
from nerveceg_lib.inference import OneTrunk, PresenceStage, Stage, TwoNetworks, segment
from nerveceg_lib.models import build_model
from nerveceg_lib.predict import segment_files

CLASSIFIER, SEGMENTER, TRUNK = "efficientnet-b4", "unet", "efficient-unet-b4"


def rows(quick: bool = False) -> list[harness.Row]:
    """Throughput, agreement with the naive masks, share of the machine's peak, memory."""
    runtime.configure(seed=0)
    torch.manual_seed(0)
    paths = networks.frame_paths(16 if quick else 128)
    classifier, segmenter = networks.trained(CLASSIFIER), networks.trained(SEGMENTER)
    plain = [networks.as_people_build_it(*pair) for pair in ((CLASSIFIER, classifier), (SEGMENTER, segmenter))]
    systems = {
        "two networks": _system(classifier, segmenter, "auto"),
        "one trunk": OneTrunk(_stage(networks.trained(TRUNK))),
    }
    gates = {name: _gate(system, paths) for name, system in systems.items()}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        threshold = gates["two networks"].threshold
        naively = partial(naive.segment_folder, paths, *plain, folder, networks.SIZE, threshold)
        jobs = {"naive": lambda: found.update(naive=naively())}
        for name, system in systems.items():
            jobs[name] = lambda name=name, system=system: found.update(
                {name: segment_files(system, paths, gates[name], Path(folder))}
            )
        seconds = harness.alternate(jobs, repeats=2 if quick else 3)
        exact = segment_files(_system(classifier, segmenter, "fp32"), paths, Gate(threshold, 1), Path(folder))
    speed = [
        harness.rate_row(
            f"two-stage inference, {name}", "frames/s", len(paths), seconds["naive"], seconds[name], target,
            f"{(found[name]['probability'] > gates[name].threshold).sum()} of {len(paths)} frames pass the gate",
        )
        for name, target in (("two networks", 2.5), ("one trunk", 6.0))
    ]  # fmt: skip
    ours, theirs = found["two networks"], {name: code for name, (_, code) in found["naive"].items()}
    decided = zip(*_by_name(ours, "probability"), strict=True)
    probability = np.array([(p, found["naive"][name][0]) for name, p in decided])
    note = "the naive code cuts at 0.5 before it resizes, ours after: steps of the coarse grid against none"
    return [
        *speed,
        _agreement("mean Dice against fp32 masks made alike", ours, dict(zip(*_by_name(exact, "pixels"), strict=True))),
        _agreement("mean Dice against the naive masks", ours, theirs, note),
        _same_gate(*probability.T),
        _share_of_peak(segmenter), _memory(quick),
    ]  # fmt: skip


def _stage(model: torch.nn.Module, kind: type = Stage, precision: str = "auto") -> Stage:
    return kind([model], networks.SIZE, precision)


def _system(classifier: torch.nn.Module, segmenter: torch.nn.Module, precision: str) -> TwoNetworks:
    return TwoNetworks(_stage(classifier, PresenceStage, precision), _stage(segmenter, precision=precision))


def _gate(system: TwoNetworks | OneTrunk, paths: list[Path]) -> Gate:
    """The threshold that 41% of the frames pass."""
    parts = [paths[start : start + 16] for start in range(0, len(paths), 16)]
    return Gate(float(np.quantile([found.probability for found in segment(system, parts, 2.0, load=_read)], 0.59)), 1)


def _same_gate(ours: np.ndarray, theirs: np.ndarray) -> harness.Row:
    """Share of frames decided alike, averaged over thresholds that pass 30 to 50% of them: any single one would lie
    right between two frames of this small set, where the least difference turns one."""
    thresholds = np.quantile(theirs, np.linspace(0.5, 0.7, 101))[:, None]
    same = ((ours > thresholds) == (theirs > thresholds)).mean(1)
    note = f"mean over {len(thresholds)} thresholds, {same.min():.3f} at the worst"
    return harness.paired_row(
        "gate decisions equal", "", [1.0], [float(same.mean())], target=0.995, on_figure=True, note=note
    )


def _read(part: list[Path]) -> np.ndarray:
    return np.stack([read_frame(path) for path in part])


def _by_name(table: pd.DataFrame, column: str) -> tuple[list[str], list]:
    return [Path(name).stem for name in table["frame"]], table[column].tolist()


def _agreement(name: str, ours: pd.DataFrame, theirs: dict[str, str], note: str = "") -> harness.Row:
    """Of the masks that both drew."""
    pairs = [(code, theirs[n]) for n, code in zip(*_by_name(ours, "pixels"), strict=True) if code and theirs[n]]
    dice = [metrics.dice(rle.decode(a), rle.decode(b)) for a, b in pairs]
    return harness.paired_row(name, "", [1.0], [float(np.mean(dice))], target=0.995, on_figure=True, note=note)


def _share_of_peak(segmenter: torch.nn.Module) -> harness.Row:
    """FLOP/s of the U-Net's forward pass against a matrix product, both in bf16 (or fp32 where that is what runs)."""
    precision = compute.resolve_precision("auto")
    image = torch.randn(4, 1, *networks.SIZE).contiguous(memory_format=torch.channels_last)
    folded = for_inference(segmenter, image[:1]).to(memory_format=torch.channels_last)
    matrix = torch.randn(2048, 2048, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    work = 2e9 * complexity.gmacs(folded, image[:1]) * len(image)

    @torch.inference_mode()
    def forward() -> None:
        with compute.autocast(precision):
            folded(image)

    seconds = harness.alternate({"matrix": lambda: [matrix @ matrix for _ in range(50)], "forward": forward})
    rates = [50 * 2 * 2048**3 / s / 1e9 for s in seconds["matrix"]], [work / s / 1e9 for s in seconds["forward"]]
    return harness.paired_row(f"U-Net forward, {precision}, against a matrix product", "GFLOP/s", *rates, target=0.85)


def _memory(quick: bool) -> harness.Row:
    found = harness.in_fresh_process("benchmarks.inference", 600 if quick else 5508)
    return harness.paired_row(
        f"memory after {found['frames']} frames against 200", "MiB", [found["early"]], [found["late"]],
        target=1.05, at_least=False, note="peak of a process with small networks at 64x96",
    )  # fmt: skip


def _watch_memory(count: int) -> dict:
    runtime.configure(seed=0)
    paths = networks.frame_paths(128)
    stages = [
        stage([build_model(n)], (64, 96)) for stage, n in ((PresenceStage, "resnet18"), (Stage, "efficient-unet-b0"))
    ]
    parts = [[paths[(start + i) % len(paths)] for i in range(16)] for start in range(0, count, 16)]
    early = 0.0
    for number, _ in enumerate(segment(TwoNetworks(*stages), parts, load=_read)):
        if number == 200:
            early = harness.peak_mib()
    return {"frames": number + 1, "early": early, "late": harness.peak_mib()}


if __name__ == "__main__":
    print(json.dumps(_watch_memory(int(sys.argv[1]))))
