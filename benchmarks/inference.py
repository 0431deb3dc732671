"""Two-stage inference from files to masks and RLE, with the same weights: the engine against naive code."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness, naive, networks
from nerveceg_lib import complexity, compute, metrics, rle, runtime
from nerveceg_lib.folding import fold_batch_norm
from nerveceg_lib.gate import Gate
from nerveceg_lib.inference import OneTrunk, PresenceStage, Stage, TwoNetworks, segment
from nerveceg_lib.models import build_model
from nerveceg_lib.predict import segment_files

CLASSIFIER, SEGMENTER, TRUNK = "efficientnet-b4", "unet", "efficient-unet-b4"


def rows(quick: bool = False) -> list[harness.Row]:
    """Throughput, agreement with the naive masks, share of the machine's peak, memory."""
    runtime.configure(seed=0)
    paths = networks.frame_paths(16 if quick else 128)
    classifier, segmenter = networks.trained(CLASSIFIER), networks.trained(SEGMENTER)
    gate, masks = (stage([m], networks.SIZE, "auto") for stage, m in ((PresenceStage, classifier), (Stage, segmenter)))
    plain = [networks.as_people_build_it(*pair) for pair in ((CLASSIFIER, classifier), (SEGMENTER, segmenter))]
    systems = {
        "two networks": TwoNetworks(gate, masks),
        "one trunk": OneTrunk(Stage([_trunk(paths)], networks.SIZE, "auto")),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = {"naive": lambda: found.update(naive=naive.segment_folder(paths, *plain, folder, networks.SIZE))}
        for name, system in systems.items():
            jobs[name] = lambda name=name, system=system: found.update(
                {name: segment_files(system, paths, Gate(0.5, 1), Path(folder))}
            )
        seconds = harness.alternate(jobs, repeats=2 if quick else 3)
    drawn = sum(code != "" for _, code in found["naive"].values())
    passed = (found["one trunk"]["probability"] > 0.5).sum()
    note = f"{drawn} of {len(paths)} frames pass the naive gate, {passed} the trunk's"
    speed = [
        harness.rate_row(
            f"two-stage inference, {name}", "frames/s", len(paths), seconds["naive"], seconds[name], target, note
        )
        for name, target in (("two networks", 2.5), ("one trunk", 6.0))
    ]
    return [*speed, *_agreement(found["naive"], found["two networks"]), _share_of_peak(segmenter), _memory(quick)]


def _trunk(paths: list[Path]) -> torch.nn.Module:
    """An untrained EfficientU-Net whose gate is set to let 41% of the frames pass: this row is about speed alone."""
    torch.manual_seed(0)
    model = build_model(TRUNK)
    system = OneTrunk(Stage([model], networks.SIZE, "auto"))
    found = segment(system, [paths[i : i + 8] for i in range(0, len(paths), 8)], 2.0, load=_read)
    probability = np.array([prediction.probability for prediction in found])
    logit = np.log(probability / (1 - probability))
    last = model.presence[-1]
    middle = float(np.quantile(logit, 0.59))
    with torch.no_grad():  # spread the logits too, or rounding would move all of them
        last.weight *= 1000
        last.bias.copy_((last.bias - middle) * 1000)
    return model


def _read(part: list[Path]) -> np.ndarray:
    from nerveceg_lib.data.frames import read_frame

    return np.stack([read_frame(path) for path in part])


def _agreement(theirs: dict, ours) -> list[harness.Row]:
    names = [name.removesuffix(".tif") for name in ours["frame"]]
    same_gate = [(p > 0.5) == (theirs[n][0] > 0.5) for n, p in zip(names, ours["probability"], strict=True)]
    dice = [
        metrics.dice(rle.decode(code), rle.decode(theirs[name][1]))
        for name, code in zip(names, ours["pixels"], strict=True)
        if code and theirs[name][1]
    ]
    figures = {f"mean Dice of {len(dice)} masks against the naive ones": dice, "gate decisions equal": same_gate}
    return [
        harness.paired_row(name, "", [1.0], [float(np.mean(values))], target=0.995, on_figure=True)
        for name, values in figures.items()
    ]


def _share_of_peak(segmenter: torch.nn.Module) -> harness.Row:
    """FLOP/s of the U-Net's forward pass against a matrix product, both in bf16 (or fp32 where that is what runs)."""
    precision = compute.resolve_precision("auto")
    image = torch.randn(4, 1, *networks.SIZE).contiguous(memory_format=torch.channels_last)
    folded = fold_batch_norm(segmenter, image[:1]).to(memory_format=torch.channels_last)
    matrix = torch.randn(2048, 2048, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    work = 2e9 * complexity.gmacs(segmenter, image[:1]) * len(image)

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
    import json

    print(json.dumps(_watch_memory(int(sys.argv[1]))))
