"""A trained network on disk: `<name>.pt` (weights only) and `<name>.json` (how to rebuild and feed it).

Also how training in progress reaches the disk.
"""

import io
import pickle
from pathlib import Path

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from nerveceg_lib.errors import InputError
from nerveceg_lib.files import read_json, write_atomically, write_json
from nerveceg_lib.models import build_model

FORMAT = 1


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning writes to the system's temporary folder and moves: a copy, where that is another disk."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: None = None) -> None:
        _write(Path(path), checkpoint)


def _write(path: Path, content: dict) -> None:
    buffer = io.BytesIO()  # torch.save to a file does not say why it cannot be written
    torch.save(content, buffer)
    write_atomically(path, lambda unfinished: unfinished.write_bytes(buffer.getbuffer()))


def save_checkpoint(path: Path, model: nn.Module, name: str, config: dict, **facts) -> None:
    """Write `path` (.pt) and its .json: model `name` and `config` for `build_model`, and free-form `facts`
    (JSON-safe), such as `size` (height, width of the input) and validation figures."""
    _write(path, model.state_dict())
    write_json(path.with_suffix(".json"), {"format": FORMAT, "model": name, "config": config, **facts})


def load_checkpoint(path: Path) -> tuple[nn.Module, dict]:
    """Rebuild the network from `path` (.pt) and its .json, in eval mode on the CPU; also return the JSON.

    Loads tensors only (`weights_only`), never pickled code. Raises InputError for missing, broken or
    mismatched files.
    """
    if not path.exists() or not path.with_suffix(".json").exists():
        raise InputError(f"{path}: expected this file and its .json, at least one is missing")
    facts = read_json(path.with_suffix(".json"))
    if facts.get("format") != FORMAT:
        raise InputError(f"{path.with_suffix('.json')}: expected format {FORMAT}, found {facts.get('format')!r}")
    config = {key: value for key, value in facts["config"].items() if key != "pretrained"}
    model = build_model(facts["model"], **config)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not the weights of {facts['model']} {config}: {error}") from error
    return model.eval(), facts
