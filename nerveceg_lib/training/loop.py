"""Train a network by Lightning, keep its best epoch, and resume what was interrupted."""

import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from nerveceg_lib.data.datasets import Batch, FrameSet
from nerveceg_lib.models.checkpoints import load_weights, save_checkpoint, weights_digest
from nerveceg_lib.runtime.device import channels_last, resolve_precision
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import matches, read_json, storing, write_csv, write_json
from nerveceg_lib.training import callbacks
from nerveceg_lib.training.module import TrainingConfig, TrainingModule
from nerveceg_lib.training.objectives import Objective


def fit(
    network: nn.Module,
    objective: Objective,
    train_set: FrameSet,
    validation_set: FrameSet,
    config: TrainingConfig,
    checkpoint: Path,
    metadata: dict,
    augment: Callable[[Batch], Batch] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
) -> pd.DataFrame:
    """Train `network` in place, leave it with the weights of its best validation epoch, and save them.

    Args:
        network: plain module that the objective can call.
        objective: loss to minimise and figure to maximise; see `training.objectives`.
        train_set, validation_set: labelled frames.
        config: epochs, batch size, learning rate, ….
        checkpoint: the .pt file to write; its .json and `curves.csv` are written beside it. Checkpoints of the training
            in progress are kept there too and removed at the end.
        metadata: what the .json holds besides the data and configuration: `model`, `options`, `size`, ….
        augment: random change of each training batch.
        resume: continue the interrupted training in this folder, or return the finished one, if everything that shapes
            it is the same; otherwise start from the beginning.
        tensorboard: also write what is logged to a folder `tensorboard` beside the checkpoint.

    Returns the learning curves: `epoch`, `loss`, `val_loss`, `val_metric`. With several processes each of them calls
    this function; the first one writes files and messages. Raises InputError if loss or gradient is not finite.
    """
    folder, last = checkpoint.parent, checkpoint.parent / "last.ckpt"
    recipe = _recipe(network, objective, train_set, validation_set, config, metadata)
    if resume and _is_finished(checkpoint, recipe):
        callbacks.say(f"{checkpoint.name} is finished and of the same training: its weights are read")
        load_weights(network, checkpoint)
        network.eval()
        return pd.read_csv(folder / "curves.csv")
    continues = resume and last.exists() and matches(folder / "training.json", recipe)
    if not continues:
        if resume and last.exists():
            callbacks.say("the checkpoint in this folder is of another training: starting from the beginning")
        _start_over(checkpoint, recipe)

    callbacks.quiet_lightning()
    channels_last(network)
    module = TrainingModule(network, objective, train_set, validation_set, config, augment)
    log = callbacks.EpochLog(objective.metric_name)
    logger = TensorBoardLogger(folder, name="", version="tensorboard") if tensorboard else False
    # Lightning stores averaged weights in whole checkpoints only
    best = ModelCheckpoint(
        folder, "best", "val_metric", mode="max", save_weights_only=not config.ema_decay, enable_version_counter=False
    )
    try:
        trainer = _trainer(config, logger, [log, best, ModelCheckpoint(folder, "last", enable_version_counter=False)])
        with storing(last):
            trainer.fit(module, ckpt_path=last if continues else None, weights_only=True)
    except MisconfigurationException as error:  # more devices than there are, or a notebook's kernel, which has one
        raise InputError(f"devices: expected what Lightning can use here, found {config.devices}: {error}") from error
    except SystemExit as error:  # Lightning's answer to Ctrl-C, after which it ignores further ones
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from error
    module.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"])
    network.eval()
    trainer.strategy.barrier()  # the first process may remove the checkpoint once all have read it
    curves = pd.DataFrame(log.records)
    _finish(checkpoint, network, curves, metadata | {"training": recipe})
    trainer.strategy.barrier()
    return curves


def _trainer(config: TrainingConfig, logger: TensorBoardLogger | bool, observers: list[Callback]) -> L.Trainer:
    observers = [callbacks.ReproducibleSteps(config.seed), callbacks.StopAtNonFinite(), *observers]
    if config.patience:
        observers.append(EarlyStopping("val_metric", mode="max", patience=config.patience))
    if config.ema_decay:
        observers.append(EMAWeightAveraging(decay=config.ema_decay))
    several = config.devices * config.num_nodes > 1
    return L.Trainer(
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate_grad_batches,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy="ddp" if several and config.strategy == "auto" else config.strategy,
        precision="bf16-mixed" if resolve_precision(config.precision) == "bf16" else "32-true",
        use_distributed_sampler=False,
        plugins=[callbacks.WholeCheckpoints()],
        callbacks=observers,
        logger=logger,
        deterministic="warn",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _recipe(
    network: nn.Module,
    objective: Objective,
    train_set: FrameSet,
    validation_set: FrameSet,
    config: TrainingConfig,
    metadata: dict,
) -> dict:
    """Return everything that shapes a training, JSON-safe: equal recipes give equal networks."""
    rows = [frame_set.rows.tolist() for frame_set in (train_set, validation_set)]
    recipe = {
        **metadata,
        "objective": f"{type(objective).__name__} {vars(objective)}",
        "config": asdict(config),
        "start": weights_digest(network),
        "data": train_set.digest,
        "rows": hashlib.blake2b(str(rows).encode(), digest_size=16).hexdigest(),
    }
    return json.loads(json.dumps(recipe))  # as it is read again: tuples become lists


def _is_finished(checkpoint: Path, recipe: dict) -> bool:
    metadata = checkpoint.with_suffix(".json")
    files = (checkpoint, metadata, checkpoint.parent / "curves.csv")
    return all(path.exists() for path in files) and read_json(metadata).get("training") == recipe


@rank_zero_only
def _start_over(checkpoint: Path, recipe: dict) -> None:
    """Remove the progress of an earlier training; the network that it finished stays until this one replaces it."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    _clear_progress(checkpoint.parent)
    write_json(checkpoint.parent / "training.json", recipe)


@rank_zero_only
def _finish(checkpoint: Path, network: nn.Module, curves: pd.DataFrame, metadata: dict) -> None:
    write_csv(checkpoint.parent / "curves.csv", curves)
    save_checkpoint(checkpoint, network, metadata)
    _clear_progress(checkpoint.parent)


def _clear_progress(folder: Path) -> None:
    for name in ("last.ckpt", "best.ckpt", "training.json"):
        (folder / name).unlink(missing_ok=True)
