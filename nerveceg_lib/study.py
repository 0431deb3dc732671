"""The arms of notebook 7: ways to turn one training budget into masks, on the same frames.

An arm may spend as many floating-point operations as `Budget.epochs` passes of the one-stage network over all training
frames take (forward and backward, counted as three forward passes); two stages share them out between their networks.
Whatever is fitted or chosen after training, is on validation patients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from nerveceg_lib import cleanup, complexity, fusion, jobs, metrics, rle, tasks, training
from nerveceg_lib.compute import Hardware
from nerveceg_lib.data import dataset
from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.errors import InputError, one_of
from nerveceg_lib.files import read_json, write_csv, write_json
from nerveceg_lib.inference import (
    PresenceStage,
    Stage,
    System,
    TwoNetworks,
    batches_of,
    mask_table,
    predict_masks,
    prediction_table,
    segment,
)
from nerveceg_lib.looks import TwoLooks
from nerveceg_lib.losses import SEGMENTATION_LOSSES
from nerveceg_lib.models import SHARED_TRUNKS, build_model, supported

# What two stages are made of: the network that looks first, its share of the budget, and how the second stage begins
TWO_STAGE = {
    "efficientnet-b4": ("efficientnet-b4", 0.75, "scratch"),
    "shared-unet": ("shared-unet", 0.6, "classifier"),
    "second-look": ("shared-unet", 0.6, "second_look"),
}
# frames a step and peak learning rate, the best of some tried on phantoms that are in no table; one stage has its own
RECIPES = {
    "efficientnet-b4": (8, 0.003), "shared-unet": (4, 0.005),
    "scratch": (8, 0.005), "classifier": (4, 0.002), "second_look": (4, 0.003),
}  # fmt: skip
COVERAGE = {"efficientnet-b4": 20.0, "shared-unet": 5.0}  # weight of the pixel loss
BALANCED = "-balanced"
REMOVED = (0, 1000, 2000, 3000, 4000)  # px: components below it may be removed, as validation patients advise


@dataclass(frozen=True)
class Sides:
    """Rows of the index to train on, to validate and calibrate on, and to judge on: no patient is on two sides."""

    train: pd.DataFrame
    validation: pd.DataFrame
    heldout: pd.DataFrame


@dataclass(frozen=True)
class Budget:
    """What one stage, a U-Net, spends, in steps of `batch` frames at the peak `rate`.

    Two stages may spend `slack` times as much. `size` (height, width) is the input of all networks but the second look,
    which sees crops as (look, look).
    """

    size: tuple[int, int]
    look: int
    channels: int
    epochs: int
    batch: int
    rate: float
    seed: int
    slack: float = 1.0


def sides_of(index: pd.DataFrame, fold: int, empty_share: float = 0.0, seed: int = 0) -> Sides:
    """The sides of the split that notebook 1 made; `fold` validates.

    With an `empty_share` (0.2 to 0.8) frames are left out at random until that share of each side has no nerve; how
    many are left does not depend on it. 0 keeps all frames. Raises InputError for other shares.
    """
    if empty_share and not 0.2 <= empty_share <= 0.8:
        raise InputError(f"empty_share: expected 0 (all frames) or 0.2 to 0.8, found {empty_share}")
    parts = *jobs.sides(index, fold), index[index["split"] == "heldout"]
    return Sides(*(_thinned(part, empty_share, seed) for part in parts))


def _thinned(frames: pd.DataFrame, empty_share: float, seed: int) -> pd.DataFrame:
    if not empty_share:
        return frames
    empty, full = frames[frames["presence"] == 0], frames[frames["presence"] == 1]
    total = int(min(len(empty), len(full)) / 0.8)
    count = round(total * empty_share)
    chosen = [empty.sample(count, random_state=seed), full.sample(total - count, random_state=seed)]
    return pd.concat(chosen).sort_values("row")


@dataclass(frozen=True)
class Lab:
    """Where the arms are trained and judged: frames, sides, budget, and a `folder` for what they leave behind."""

    frames: FrameCache
    sides: Sides
    budget: Budget
    folder: Path
    resume: bool = False
    hardware: Hardware = Hardware()
    gates: dict = field(default_factory=dict)  # what has been trained of the first stages

    def run(self, arm: str) -> pd.DataFrame:
        """Train one arm (a name in SEGMENTATION_LOSSES or TWO_STAGE) and judge it, or read what a former run found.

        A loss with "-balanced" behind it gets the balanced frames that shared trunks get, in as many steps as without.

        One row a held-out frame, way of drawing (`arm`) and `cleaned` (0: as drawn; 1: components below `removed` px
        gone): `row`, `subject`, `presence`, `probability` (P(nerve), NaN without a gate), `drawn`, `score`, `gflops`.
        """
        one_of("arm", arm, [*SEGMENTATION_LOSSES, *(f"{loss}{BALANCED}" for loss in SEGMENTATION_LOSSES), *TWO_STAGE])
        rows = [side["row"].tolist() for side in vars(self.sides).values()]
        wanted = {"budget": asdict(self.budget) | {"size": list(self.budget.size)}, "rows": rows}
        facts, result = self.folder / arm / "facts.json", self.folder / arm / "heldout.csv"
        if self.resume and facts.exists() and result.exists() and read_json(facts) == wanted:
            return pd.read_csv(result)
        print(f"{arm}, {len(rows[0])} training frames", flush=True)
        ways = self._two_stages(arm) if arm in TWO_STAGE else self._one_stage(arm)
        found = pd.concat(ways, ignore_index=True)
        write_csv(result, found)
        write_json(facts, wanted)
        return found

    def _one_stage(self, arm: str) -> Iterator[pd.DataFrame]:
        loss, train = arm.removesuffix(BALANCED), self.sides.train
        data = self._whole_frames(
            (dataset.balanced(train) if loss != arm else train, self.sides.validation), "one stage"
        )
        epochs = max(1, self.budget.epochs * len(train) // len(data.train))
        model, gflops = self._train(self._job("one stage", "unet", tasks.segmentation_task(loss), data, epochs), arm)
        sides = [self._masks(model, side) for side in (self.sides.validation, self.sides.heldout)]
        draws = [side["mask_area"] > 0 for side in sides]
        yield self._judge(f"one stage, {arm}", sides, gflops, draws)

    def _two_stages(self, arm: str) -> Iterator[pd.DataFrame]:
        name, share, start = TWO_STAGE[arm]
        total = self.budget.slack * self.budget.epochs * len(self.sides.train) * self._gflops("unet", self.budget.size)
        gate, trunk, spent = self._gate(name, share * total)
        if start == "second_look":
            second, more = self._second_look(arm, trunk, total - spent)
            system: System = TwoLooks(Stage([gate], self.budget.size), second)
        else:
            second, more = self._segmenter(arm, trunk, total - spent)
            system = TwoNetworks(PresenceStage([gate], self.budget.size), second)
        sides = [self._predictions(system, side) for side in (self.sides.validation, self.sides.heldout)]
        judge = partial(self._judge, sides=sides, gflops=spent + more)
        for kind, fit in fusion.GATES.items():
            fitted = fit(sides[0])
            sure = fitted.presence(sides[1]) if isinstance(fitted, fusion.ScoreOptimalGate) else sides[1]["probability"]
            found = judge(f"{arm}, {kind} gate", draws=[fitted.draws(side) for side in sides])
            yield found.assign(probability=np.tile(sure, 2))
        yield judge(f"{arm}, oracle gate", draws=[side["presence"] == 1 for side in sides])

    def _gate(self, name: str, gflops: float) -> tuple[nn.Module, Path, float]:
        """The network that looks first, its checkpoint, and what it took of at most `gflops`; arms share it."""
        if name not in self.gates:
            train = dataset.balanced(self.sides.train) if name in SHARED_TRUNKS else self.sides.train
            data = self._whole_frames((train, self.sides.validation), name)
            task = (tasks.shared_task if name in SHARED_TRUNKS else tasks.presence_task)(COVERAGE[name])
            self.gates[name] = self._train(self._job(name, name, task, data, gflops=gflops), f"gate-{name}")
        return self.gates[name][0], self.folder / f"gate-{name}" / "network.pt", self.gates[name][1]

    def _segmenter(self, arm: str, trunk: Path, gflops: float) -> tuple[Stage, float]:
        start = TWO_STAGE[arm][2]
        parts = [side[side["presence"] == 1] for side in (self.sides.train, self.sides.validation)]
        data, task = self._whole_frames(parts, start), tasks.segmentation_task("bce_dice")
        job = self._job(start, "unet", task, data, gflops=gflops)
        model, spent = self._train(replace(job, trunk=trunk if start == "classifier" else None), arm)
        return Stage([model], self.budget.size), spent

    def _second_look(self, arm: str, trunk: Path, gflops: float) -> tuple[Stage, float]:
        size, (batch, _) = (self.budget.look, self.budget.look), RECIPES["second_look"]
        sides = dataset.balanced(self.sides.train), self.sides.validation
        parts = [side["row"].to_numpy() for side in sides]
        name = TWO_STAGE[arm][0]
        schedule = self._schedule("second_look", self._epochs(name, size, len(parts[0]), gflops))
        facts = {"size": size, "seed": self.budget.seed}
        job = jobs.second_look(self.frames, parts, trunk, COVERAGE[name], schedule, batch, facts)
        model, spent = self._train(job, arm)
        return Stage([model], size), spent

    def _whole_frames(self, parts: Sequence[pd.DataFrame], recipe: str) -> training.Data:
        train, validation = (dataset.FrameSet(self.frames, part["row"].to_numpy(), self.budget.size) for part in parts)
        move = dataset.augmentation()
        return training.Data(train, validation, self._recipe(recipe)[0], lambda given: dataset.augment(move, given))

    def _job(
        self, recipe: str, network: str, task: training.Task, data: training.Data, epochs=0, gflops=0.0
    ) -> jobs.Job:
        """Of `epochs`, or as many as `gflops` pay."""
        size = self.budget.size
        epochs = epochs or self._epochs(network, size, len(data.train), gflops)
        facts = {"size": list(size), "seed": self.budget.seed}
        return jobs.Job(network, self._config(network), task, self._schedule(recipe, epochs), data, facts, {})

    def _schedule(self, recipe: str, epochs: int) -> training.Schedule:
        return training.Schedule(epochs, self._recipe(recipe)[1], seed=self.budget.seed)

    def _recipe(self, name: str) -> tuple[int, float]:
        return RECIPES.get(name, (self.budget.batch, self.budget.rate))

    def _epochs(self, network: str, size: tuple[int, int], frames: int, gflops: float) -> int:
        return max(1, int(gflops / (frames * self._gflops(network, size))))

    def _train(self, job: jobs.Job, name: str) -> tuple[nn.Module, float]:
        """Train, store below `name`, and count the GFLOPs."""
        model, _ = jobs.train(job, self.folder / name / "network.pt", self.resume, self.hardware)
        cost = self._gflops(job.name, tuple(job.facts["size"]))
        return model, job.schedule.epochs * len(job.data.train) * cost

    def _config(self, network: str) -> dict:
        return supported(network, base_channels=self.budget.channels)

    def _gflops(self, network: str, size: tuple[int, int]) -> float:
        """Of one training pass over one frame."""
        model = build_model(network, **self._config(network))
        return 3 * 2 * complexity.gmacs(model, torch.zeros(1, 1, *size))

    def _masks(self, model: nn.Module, side: pd.DataFrame) -> pd.DataFrame:
        rows = side["row"].to_numpy()
        masks = predict_masks(model, self.frames.frames, rows, self.budget.size)
        return self._with_cleaned(side, mask_table(masks, rows, self.frames.masks))

    def _predictions(self, system: System, side: pd.DataFrame) -> pd.DataFrame:
        rows = side["row"].to_numpy()
        found = segment(system, batches_of(self.frames.frames, rows, 16, "frames"))
        return self._with_cleaned(side, prediction_table(found, rows, self.frames.masks))

    def _with_cleaned(self, side: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        """Add the area and the Dice of each mask after removing components below each of REMOVED."""
        records = []
        for row, area, dice, pixels in table[["row", "mask_area", "mask_dice", "pixels"]].itertuples(index=False):
            record = {f"{what}_{limit}": value for limit in REMOVED for what, value in (("area", area), ("dice", dice))}
            mask = rle.decode(pixels)
            smallest = cleanup.component_areas(mask).min() if area else 0
            for limit in REMOVED:
                if smallest < limit and area:
                    kept = cleanup.remove_small(mask, limit)
                    record |= {f"area_{limit}": kept.sum(), f"dice_{limit}": metrics.dice(kept, self.frames.masks[row])}
            records.append(record)
        return side[["row", "subject", "presence"]].merge(table.join(pd.DataFrame(records)), on="row")

    def _judge(self, arm: str, sides: list[pd.DataFrame], gflops: float, draws: list) -> pd.DataFrame:
        """Rows of `run` of one way to draw; which components to remove is chosen on the validation side."""
        validation, heldout = sides
        limit = max(REMOVED, key=lambda limit: _drawn_scores(validation, draws[0], limit)[1].mean())
        parts = []
        for cleaned, removed in enumerate((0, limit)):
            drawn, score = _drawn_scores(heldout, draws[1], removed)
            part = heldout[["row", "subject", "presence"]].assign(arm=arm, cleaned=cleaned, removed=removed)
            parts.append(part.assign(probability=np.nan, drawn=drawn.astype(int), score=score, gflops=gflops))
        return pd.concat(parts)


def _drawn_scores(table: pd.DataFrame, draws: np.ndarray, removed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which frames bear a mask once components below `removed` px are gone, and the score of each frame."""
    drawn = np.asarray(draws) & (table[f"area_{removed}"] > 0)
    return drawn, metrics.gated_scores(table["presence"], table[f"dice_{removed}"], drawn)
