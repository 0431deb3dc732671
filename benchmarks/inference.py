"""Two-stage inference from files to masks and RLE: the kit against naive code with the same weights."""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import harness, naive, networks
from nerveceg_lib import metrics, rle
from nerveceg_lib.data.io import read_frame
from nerveceg_lib.inference.ensemble import Ensemble, PresenceEnsemble
from nerveceg_lib.inference.fuse import for_inference
from nerveceg_lib.inference.gate import HardGate
from nerveceg_lib.inference.two_stage import OneNetwork, System, TwoNetworks, segment
from nerveceg_lib.models import build_model, complexity
from nerveceg_lib.runtime import configure, device
from nerveceg_tools.predict import segment_files

CLASSIFIER, SEGMENTER, ONE_NETWORK = "efficientnet-b4", "unet", "efficient-unet-b4"


def rows(quick: bool = False) -> list[harness.Row]:
    """Throughput, agreement with the naive masks, share of the machine's peak, memory."""
    configure(seed=0)
    torch.manual_seed(0)
    paths = networks.frame_paths(16 if quick else 128)
    classifier, segmenter = networks.trained(CLASSIFIER), networks.trained(SEGMENTER)
    plain = [networks.as_people_build_it(*pair) for pair in ((CLASSIFIER, classifier), (SEGMENTER, segmenter))]
    systems: dict[str, System] = {
        "two networks": _two_networks(classifier, segmenter, "auto"),
        "one network": OneNetwork(Ensemble([networks.trained(ONE_NETWORK)], networks.SIZE, "auto")),
    }
    gates = {name: _gate(system, paths) for name, system in systems.items()}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        threshold = gates["two networks"].threshold
        naively = partial(naive.segment_folder, paths, *plain, folder, networks.SIZE, threshold)
        jobs = {"naive": lambda: results.update(naive=naively())}
        for name, system in systems.items():
            jobs[name] = lambda name=name, system=system: results.update(
                {name: segment_files(system, paths, gates[name], Path(folder))}
            )
        seconds = harness.alternate(jobs, repeats=2 if quick else 3)
        exact_system = _two_networks(classifier, segmenter, "fp32")
        exact = segment_files(exact_system, paths, HardGate(threshold, 1), Path(folder))
    speed = [
        harness.rate_row(
            f"two-stage inference, {name}", "frames/s", len(paths), seconds["naive"], seconds[name], target,
            f"{(results[name]['probability'] > gates[name].threshold).sum()} of {len(paths)} frames pass the gate",
        )
        for name, target in (("two networks", 2.5), ("one network", 6.0))
    ]  # fmt: skip
    own, naive_masks = results["two networks"], {name: text for name, (_, text) in results["naive"].items()}
    probabilities = [(p, results["naive"][name][0]) for name, p in zip(*_by_name(own, "probability"), strict=True)]
    note = "the naive code cuts at 0.5 before it resizes, the kit afterwards, so only the naive outlines have steps"
    return [
        *speed,
        _agreement("mean Dice against fp32 masks made alike", own, dict(zip(*_by_name(exact, "pixels"), strict=True))),
        _agreement("mean Dice against the naive masks", own, naive_masks, note),
        _same_gate(*np.array(probabilities).T),
        _share_of_peak(segmenter),
        _memory(quick),
    ]


def _two_networks(classifier: torch.nn.Module, segmenter: torch.nn.Module, precision: str) -> TwoNetworks:
    presence = PresenceEnsemble([classifier], networks.SIZE, precision)
    return TwoNetworks(presence, Ensemble([segmenter], networks.SIZE, precision))


def _gate(system: System, paths: list[Path]) -> HardGate:
    """Return a gate whose threshold 41% of the frames pass."""
    batches = [paths[start : start + 16] for start in range(0, len(paths), 16)]
    probabilities = [prediction.probability for prediction in segment(system, batches, 2.0, load=_read)]
    return HardGate(float(np.quantile(probabilities, 0.59)), 1)


def _same_gate(own: np.ndarray, naive_ones: np.ndarray) -> harness.Row:
    """Share of frames on which both gates decide alike, averaged over thresholds that 30 to 50% of the frames pass.

    A single threshold would lie between two frames of this small set, and the least difference would turn one of them.
    """
    thresholds = np.quantile(naive_ones, np.linspace(0.5, 0.7, 101))[:, None]
    same = ((own > thresholds) == (naive_ones > thresholds)).mean(1)
    note = f"mean over {len(thresholds)} thresholds, the lowest is {same.min():.3f}"
    return harness.paired_row(
        "gate decisions equal", "", [1.0], [float(same.mean())], target=0.995, on_figure=True, note=note
    )


def _read(paths: list[Path]) -> np.ndarray:
    return np.stack([read_frame(path) for path in paths])


def _by_name(table: pd.DataFrame, column: str) -> tuple[list[str], list]:
    return [Path(name).stem for name in table["frame"]], table[column].tolist()


def _agreement(name: str, own: pd.DataFrame, others: dict[str, str], note: str = "") -> harness.Row:
    """Mean Dice over the frames for which both have a mask."""
    pairs = [
        (text, others[frame]) for frame, text in zip(*_by_name(own, "pixels"), strict=True) if text and others[frame]
    ]
    dice = [metrics.dice(rle.decode(a), rle.decode(b)) for a, b in pairs]
    return harness.paired_row(name, "", [1.0], [float(np.mean(dice))], target=0.995, on_figure=True, note=note)


def _share_of_peak(segmenter: torch.nn.Module) -> harness.Row:
    """FLOP/s of the U-Net's forward pass against a matrix product, both in bf16, or in fp32 if that is what runs."""
    precision = device.resolve_precision("auto")
    image = torch.randn(4, 1, *networks.SIZE).contiguous(memory_format=torch.channels_last)
    folded = device.channels_last(for_inference(segmenter, image[:1]))
    matrix = torch.randn(2048, 2048, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    work = 2e9 * complexity.gmacs(folded, image[:1]) * len(image)

    @torch.inference_mode()
    def forward() -> None:
        with device.autocast(precision):
            folded(image)

    seconds = harness.alternate({"matrix": lambda: [matrix @ matrix for _ in range(50)], "forward": forward})
    rates = [50 * 2 * 2048**3 / s / 1e9 for s in seconds["matrix"]], [work / s / 1e9 for s in seconds["forward"]]
    return harness.paired_row(f"U-Net forward, {precision}, against a matrix product", "GFLOP/s", *rates, target=0.85)


def _memory(quick: bool) -> harness.Row:
    peaks = harness.in_fresh_process("benchmarks.inference", 300 if quick else 5508)
    return harness.paired_row(
        f"memory after {peaks['frames']} frames against 200", "MiB", [peaks["early"]], [peaks["late"]],
        target=1.05, at_least=False, note="peak of a process with small networks at 64x96",
    )  # fmt: skip


def _watch_memory(count: int) -> dict:
    configure(seed=0)
    paths = networks.frame_paths(128)
    presence, segmenter = PresenceEnsemble([build_model("resnet18")], (64, 96)), [build_model("efficient-unet-b0")]
    batches = [[paths[(start + i) % len(paths)] for i in range(16)] for start in range(0, count, 16)]
    early = 0.0
    for number, _ in enumerate(segment(TwoNetworks(presence, Ensemble(segmenter, (64, 96))), batches, load=_read)):
        if number == 200:
            early = harness.peak_mib()
    return {"frames": number + 1, "early": early, "late": harness.peak_mib()}


if __name__ == "__main__":
    print(json.dumps(_watch_memory(int(sys.argv[1]))))
