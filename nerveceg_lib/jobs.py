"""Complete trainings, as notebooks and the command `fit` start them: data, network, task and schedule by parameters.

The parameters are called as in the notebooks; what they mean stands there.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from nerveceg_lib import runtime, tasks, training
from nerveceg_lib.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.compute import Hardware
from nerveceg_lib.data import crops, dataset, source
from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.errors import InputError, one_of
from nerveceg_lib.looks import propose_places
from nerveceg_lib.models import EFFICIENT_UNETS, SHARED_TRUNKS, build_model, supported
from nerveceg_lib.models.shared_trunk import SharedTrunk
from nerveceg_lib.paths import STAGES, require, show, stage_dir


@dataclass(frozen=True)
class Job:
    """One training: `name` and `config` for `build_model`, and `facts` (JSON-safe) that go into the checkpoint.

    `start` holds options of the first build alone, such as pretrained weights. `trunk` is the checkpoint of a shared
    trunk that this network goes on from: as a second look, or as a segmenter from the one inside.
    """

    name: str
    config: dict
    task: training.Task
    schedule: training.Schedule
    data: training.Data
    facts: dict
    start: dict
    trunk: Path | None = None


def fit(stage: str, parameters: dict, resume: bool) -> None:
    """Train `stage` ("classifier" or "segmenter") of a run as its notebook does, from the frames of notebook 1.

    For the processes that torchrun, SLURM or Lightning start. `parameters` are the notebooks' by name.
    """
    jobs: dict[str, tuple[Callable[..., Job], str]] = {
        "classifier": (classifier_job, STAGES[1]), "segmenter": (segmenter_job, STAGES[2]),
    }  # fmt: skip
    make, folder = jobs[stage]
    runtime.configure(parameters["seed"], threads=runtime.threads_of_each(parameters["devices"]))
    frames = source.load_prepared(parameters["run"])
    job = make(frames, **{name: parameters[name] for name in inspect.signature(make).parameters if name != "frames"})
    hardware = Hardware(**{field.name: parameters[field.name] for field in dataclasses.fields(Hardware)})
    train(job, stage_dir(parameters["run"], folder) / f"{stage}.pt", resume, hardware)


def train(job: Job, file: Path, resume: bool, hardware: Hardware) -> tuple[nn.Module, pd.DataFrame]:
    """Train and save as checkpoint `file` (.pt); returns the network and its learning curves."""
    torch.manual_seed(job.schedule.seed)
    model = build_model(job.name, **job.config, **job.start)
    if job.trunk:
        _go_on_from(model, job, job.trunk)
    trunk = hashlib.blake2b(job.trunk.read_bytes(), digest_size=8).hexdigest() if job.trunk else ""
    fingerprint = {
        "model": job.name, "config": job.config, **job.facts, **job.start, "batch": job.data.batch, "trunk": trunk,
        "schedule": vars(job.schedule), "precision": hardware.precision, "frames": job.data.train.rows.tolist(),
    }  # fmt: skip
    curves = training.fit(model, job.task, job.schedule, job.data, file.parent, fingerprint, resume, hardware)
    _keep(file, model, job)
    return model, curves


def load_trunk(path: Path) -> tuple[SharedTrunk, dict]:
    """The shared trunk in a checkpoint and its facts. Raises InputError for a network of another kind."""
    model, facts = load_checkpoint(path)
    if not isinstance(model, SharedTrunk):
        raise InputError(f"{show(path)}: expected {' or '.join(SHARED_TRUNKS)}, found {facts['model']}")
    return model, facts


def _go_on_from(model: nn.Module, job: Job, path: Path) -> None:
    """Load the trunk at `path`, or the segmenter inside, into `model`. InputError if it is none or built otherwise."""
    trunk, facts = load_trunk(path)
    try:
        model.load_state_dict((trunk if isinstance(model, SharedTrunk) else trunk.segmenter).state_dict())
    except RuntimeError as error:
        own = f"{facts['model']} {facts['config']}"
        raise InputError(f"{job.name} {job.config}: cannot go on from {own}, which is built otherwise") from error


@rank_zero_only
def _keep(file: Path, model: nn.Module, job: Job) -> None:
    save_checkpoint(file, model, job.name, job.config, **job.facts)
    training.clear_progress(file.parent)


def classifier_job(
    frames: FrameCache, *, seed: int, fold: int, classifier_model: str, classifier_channels: int, pretrained: bool,
    classifier_height: int, classifier_width: int, classifier_epochs: int, classifier_batch: int,
    classifier_accumulate: int, classifier_rate: float, classifier_schedule: str, classifier_patience: int,
    classifier_ema: float, coverage_weight: float,
) -> Job:  # fmt: skip
    """The presence classifier of notebook 2, on all frames."""
    size = (classifier_height, classifier_width)
    schedule = training.Schedule(
        classifier_epochs, classifier_rate, kind=classifier_schedule, patience=classifier_patience,
        accumulate=classifier_accumulate, ema=classifier_ema, seed=seed,
    )  # fmt: skip
    return Job(
        classifier_model,
        supported(classifier_model, base_channels=classifier_channels),
        (tasks.shared_task if classifier_model in SHARED_TRUNKS else tasks.presence_task)(coverage_weight),
        schedule,
        fold_data(frames, frames.index, fold, size, classifier_batch, balance=classifier_model in SHARED_TRUNKS),
        {"task": "presence", "size": list(size), "fold": fold, "seed": seed, "coverage_weight": coverage_weight},
        {"pretrained": True} if pretrained else {},
    )


def segmenter_job(
    frames: FrameCache, *, seed: int, fold: int, segmenter_model: str, segmenter_channels: int, segmenter_height: int,
    segmenter_width: int, segmenter_epochs: int, segmenter_batch: int, segmenter_accumulate: int,
    segmenter_rate: float, segmenter_schedule: str, segmenter_patience: int, segmenter_ema: float,
    segmenter_loss: str, deep_supervision: bool, one_trunk: bool, segmenter_start: str, coverage_weight: float,
    run: str,
) -> Job:  # fmt: skip
    """The segmenter of notebook 3: on frames with a nerve, or with `one_trunk` on all.

    With `segmenter_start` "classifier" it goes on from the segmenter inside notebook 2's shared trunk, which must be
    built alike; with "second_look" it is a copy of that trunk, trained on crops of all frames.
    """
    size = (segmenter_height, segmenter_width)
    schedule = training.Schedule(
        segmenter_epochs, segmenter_rate, kind=segmenter_schedule, patience=segmenter_patience,
        accumulate=segmenter_accumulate, ema=segmenter_ema, seed=seed,
    )  # fmt: skip
    facts = {"size": list(size), "fold": fold, "seed": seed, "one_trunk": one_trunk}
    start = one_of("segmenter_start", segmenter_start, ("scratch", "classifier", "second_look"))
    trunk = None if start == "scratch" else require(stage_dir(run, STAGES[1]) / "classifier.pt", STAGES[1])
    if trunk and start == "second_look":
        train_side, validation = sides(frames.index, fold)
        parts = [side["row"].to_numpy() for side in (dataset.balanced(train_side), validation)]
        return second_look(frames, parts, trunk, coverage_weight, schedule, segmenter_batch, facts)
    config = supported(segmenter_model, base_channels=segmenter_channels)
    if trunk and segmenter_model in EFFICIENT_UNETS:
        config["presence_head"] = False  # a shared trunk's is around it, not in it
    if deep_supervision:
        config["deep_supervision"] = True
    task = tasks.segmentation_task(segmenter_loss, deep_supervision)
    if one_trunk:
        task = tasks.one_trunk_task(segmenter_loss)
    chosen = frames.index if one_trunk else frames.index[frames.index["presence"] == 1]
    return Job(
        segmenter_model,
        config,
        task,
        schedule,
        fold_data(frames, chosen, fold, size, segmenter_batch),
        {"task": "segmentation", "loss": segmenter_loss, **facts},
        {},
        trunk,
    )


def second_look(
    frames: FrameCache,
    parts: list[np.ndarray],
    trunk: Path,
    coverage_weight: float,
    schedule: training.Schedule,
    batch: int,
    facts: dict,
) -> Job:
    """A copy of the shared trunk in checkpoint `trunk`, to be trained on crops around the places that it proposes.

    `parts` are the rows to train on and to validate on, `facts` go into the checkpoint and hold the `size` that crops
    are brought to. Raises InputError for a trunk of another kind.
    """
    model, made = load_trunk(trunk)
    places = [propose_places(model, frames.frames, rows, tuple(made["size"])) for rows in parts]
    size = facts["size"]
    train_set, validation = (crops.CropSet(frames, parts[n], places[n], size, margin=n == 0) for n in range(2))
    move = dataset.augmentation()
    data = training.Data(train_set, validation, batch, lambda given: crops.trim(dataset.augment(move, given), size))
    task = tasks.shared_task(coverage_weight)
    return Job(made["model"], made["config"], task, schedule, data, {"task": "second look", **facts}, {}, trunk)


def fold_data(
    frames: FrameCache, chosen: pd.DataFrame, fold: int, size: tuple[int, int], batch: int, balance: bool = False
) -> training.Data:
    """Of the `chosen` rows of the index those of the training side: fold `fold` validates, the others train.

    `balance` is that of `dataset.balanced`.
    """
    train_side, validation_side = sides(chosen, fold)
    parts = (dataset.balanced(train_side) if balance else train_side, validation_side)
    train_set, validation = (dataset.FrameSet(frames, side["row"].to_numpy(), size) for side in parts)
    move = dataset.augmentation()
    return training.Data(train_set, validation, batch, lambda given: dataset.augment(move, given))


def sides(chosen: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the training side of the `chosen` rows those to train on, and those of fold `fold`, to validate on.

    Raises InputError where one of them holds no frame with a nerve.
    """
    training_side = chosen[chosen["split"] == "train"]
    with_nerve = training_side[training_side["presence"] == 1]
    validates = training_side["fold"] == fold
    parts = training_side[~validates], training_side[validates]
    for part, purpose in zip(parts, ("train", "validate"), strict=True):
        if not (part["presence"] == 1).any():
            raise InputError(
                f"fold: expected one that leaves frames with a nerve to {purpose} on, found {fold}: {len(part)} "
                f"frames, none with a nerve; folds with some: {sorted(set(with_nerve['fold'].tolist()))}"
            )
    return parts
