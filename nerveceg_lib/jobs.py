"""Complete trainings, as notebooks and the command `fit` start them: data, network, task and schedule by parameters.

The parameters are called as in the notebooks; what they mean stands there.
"""

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from nerveceg_lib import runtime, tasks, training
from nerveceg_lib.checkpoints import save_checkpoint
from nerveceg_lib.compute import Hardware
from nerveceg_lib.data import dataset, source
from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.models import build_model, supported
from nerveceg_lib.paths import STAGES, stage_dir


@dataclass(frozen=True)
class Job:
    """One training: `name` and `config` for `build_model`, and `facts` (JSON-safe) that go into the checkpoint.

    `start` holds options of the first build alone, such as pretrained weights.
    """

    name: str
    config: dict
    task: training.Task
    schedule: training.Schedule
    data: training.Data
    facts: dict
    start: dict


def fit(stage: str, parameters: dict, resume: bool) -> None:
    """Train `stage` ("classifier" or "segmenter") of a run as its notebook does, from the frames of notebook 1.

    For the processes that torchrun, SLURM or Lightning start. `parameters` are the notebooks' by name.
    """
    make, folder = {"classifier": (classifier_job, STAGES[1]), "segmenter": (segmenter_job, STAGES[2])}[stage]
    runtime.configure(parameters["seed"], threads=runtime.threads_of_each(parameters["devices"]))
    frames = source.load_prepared(parameters["run"])
    job = make(frames, **{name: parameters[name] for name in inspect.signature(make).parameters if name != "frames"})
    hardware = Hardware(**{field.name: parameters[field.name] for field in dataclasses.fields(Hardware)})
    train(job, stage_dir(parameters["run"], folder) / f"{stage}.pt", resume, hardware)


def train(job: Job, file: Path, resume: bool, hardware: Hardware) -> tuple[nn.Module, pd.DataFrame]:
    """Train and save as checkpoint `file` (.pt); returns the network and its learning curves."""
    torch.manual_seed(job.schedule.seed)
    model = build_model(job.name, **job.config, **job.start)
    fingerprint = {
        "model": job.name, "config": job.config, **job.facts, **job.start, "batch": job.data.batch,
        "schedule": vars(job.schedule), "precision": hardware.precision, "frames": job.data.train.rows.tolist(),
    }  # fmt: skip
    curves = training.fit(model, job.task, job.schedule, job.data, file.parent, fingerprint, resume, hardware)
    _keep(file, model, job)
    return model, curves


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
        tasks.presence_task(coverage_weight),
        schedule,
        fold_data(frames, frames.index, fold, size, classifier_batch),
        {"task": "presence", "size": list(size), "fold": fold, "seed": seed, "coverage_weight": coverage_weight},
        {"pretrained": True} if pretrained else {},
    )


def segmenter_job(
    frames: FrameCache, *, seed: int, fold: int, segmenter_model: str, segmenter_channels: int, segmenter_height: int,
    segmenter_width: int, segmenter_epochs: int, segmenter_batch: int, segmenter_accumulate: int,
    segmenter_rate: float, segmenter_schedule: str, segmenter_patience: int, segmenter_ema: float,
    segmenter_loss: str, deep_supervision: bool, one_trunk: bool,
) -> Job:  # fmt: skip
    """The segmenter of notebook 3: on frames with a nerve, or with `one_trunk` on all."""
    size = (segmenter_height, segmenter_width)
    config = supported(segmenter_model, base_channels=segmenter_channels)
    if deep_supervision:
        config["deep_supervision"] = True
    task = tasks.segmentation_task(segmenter_loss, deep_supervision)
    if one_trunk:
        task = tasks.one_trunk_task(segmenter_loss)
    schedule = training.Schedule(
        segmenter_epochs, segmenter_rate, kind=segmenter_schedule, patience=segmenter_patience,
        accumulate=segmenter_accumulate, ema=segmenter_ema, seed=seed,
    )  # fmt: skip
    chosen = frames.index if one_trunk else frames.index[frames.index["presence"] == 1]
    return Job(
        segmenter_model,
        config,
        task,
        schedule,
        fold_data(frames, chosen, fold, size, segmenter_batch),
        {"task": "segmentation", "size": list(size), "fold": fold, "seed": seed, "loss": segmenter_loss}
        | {"one_trunk": one_trunk},
        {},
    )


def fold_data(frames: FrameCache, chosen: pd.DataFrame, fold: int, size: tuple[int, int], batch: int) -> training.Data:
    """Of the `chosen` rows of the index those of the training side: fold `fold` validates, the others train."""
    side = chosen[chosen["split"] == "train"]
    rows: tuple[np.ndarray, ...] = tuple(
        side.loc[mask, "row"].to_numpy() for mask in (side["fold"] != fold, side["fold"] == fold)
    )
    train_set, validation = (dataset.FrameSet(frames, part, size) for part in rows)
    move = dataset.augmentation()
    return training.Data(train_set, validation, batch, lambda given: dataset.augment(move, given))
