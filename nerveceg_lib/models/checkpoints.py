"""A trained network on disk: `<name>.pt` (weights only) and `<name>.json` (how to rebuild it and what it was fed)."""

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import nn

from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.models import build_model
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import show
from nerveceg_lib.runtime.io import read_json, write_atomically, write_json

FORMAT = 5


def save_checkpoint(path: Path, network: nn.Module, metadata: dict) -> None:
    """Write the weights to `path` (.pt) and the metadata to its .json.

    `metadata` fits into JSON and holds at least `model` and `options`, the arguments of `build_model`, and `size`
    (height and width of the input).
    """
    path.with_suffix(".json").unlink(missing_ok=True)  # an interruption must not leave it beside other weights
    write_tensors(path, network.state_dict())
    write_json(path.with_suffix(".json"), {"format": FORMAT, **metadata})


def load_checkpoint(path: Path, frames: FrameCache | None = None) -> tuple[nn.Module, dict]:
    """Rebuild the network from `path` (.pt) and its .json; return it in eval mode on the CPU, with its metadata.

    frames: the frames that the network is to be applied to, as `load_frames` returns them; None for any others.

    Only tensors are loaded (`weights_only`), never pickled code. Raises InputError for files that are missing, broken,
    written by an older release, or that do not belong together, and for a network that was trained on other data than
    `frames`, or on patients who are held out in it or who are in the fold that the network validated on.
    """
    metadata = read_metadata(path)
    if frames is not None:
        _check_unseen(metadata, frames, path)
    options = {name: value for name, value in metadata["options"].items() if name != "pretrained"}
    network = build_model(metadata["model"], **options)
    load_weights(network, path)
    return network.eval(), metadata


def read_metadata(path: Path) -> dict:
    """Return the metadata of the checkpoint at `path` (.pt). Raises InputError as `load_checkpoint` does."""
    if not path.exists() or not path.with_suffix(".json").exists():
        raise InputError(f"{path}: expected this file and its .json, at least one is missing")
    metadata = read_json(path.with_suffix(".json"))
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path.with_suffix('.json')}: expected a checkpoint of format {FORMAT}, found format "
            f"{metadata.get('format')!r}, which another release wrote; train the network again"
        )
    return metadata


def _check_unseen(metadata: dict, frames: FrameCache, path: Path) -> None:
    index, patients = frames.index, metadata["patients"]
    heldout, fold = index["split"] == "heldout", index["fold"] == metadata["fold"]
    seen = set(patients["train"]) & set(index.loc[heldout | fold, "subject"].tolist())
    seen |= set(patients["validation"]) & set(index.loc[heldout, "subject"].tolist())
    if seen or metadata["training"]["data"] != frames.digest:
        what = f"patients that are left out now ({sorted(seen)})" if seen else "other frames than notebook 1 prepared"
        raise InputError(f"{show(path)}: the network was trained on {what}; train it again")


def load_weights(network: nn.Module, path: Path) -> None:
    """Load the weights at `path` into `network`. Raises InputError if they are broken or of another network."""
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not the weights of this {type(network).__name__}: {error}") from error


def weights_digest(network: nn.Module) -> str:
    """Return a hash of the weights of `network`: the start of a training is part of what shapes it."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weights in network.state_dict().items():
        digest.update(name.encode() + weights.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, content: dict) -> None:
    """Write what `torch.save` takes; the file appears only once it is complete."""
    buffer = io.BytesIO()  # torch.save to a file does not say why it cannot be written
    torch.save(content, buffer)
    write_atomically(path, lambda unfinished: unfinished.write_bytes(buffer.getbuffer()))
