"""Do maps mean anything? Whether they point at the nerve, whether what they mark counts, and whether weights matter."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from kornia.filters import gaussian_blur2d
from scipy.stats import spearmanr
from torch import nn
from tqdm import tqdm

from nerveceg_lib.explain.borrow import hooked


def localisation(maps: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Do maps (N, H, W) point at the true masks (N, H, W)? What speaks against the target is left out.

    One row a frame: `energy`, the share inside the mask (0 for a map without evidence), and `hit`, 1 if the highest
    place lies there: the pointing game (Zhang et al. 2016, arXiv:1608.00507).
    """
    evidence, inside = np.maximum(maps, 0).reshape(len(maps), -1), masks.reshape(len(maps), -1) != 0
    total = evidence.sum(1)
    hit = inside[np.arange(len(maps)), evidence.argmax(1)] & (total > 0)
    energy = np.where(inside, evidence, 0).sum(1) / np.maximum(total, np.finfo(np.float32).tiny)
    return pd.DataFrame({"energy": energy, "hit": hit.astype(int)})


def centre_prior(shape: tuple[int, int]) -> np.ndarray:
    """A map (H, W) that knows nothing but the middle: a Gaussian, its deviation a quarter of each side."""
    rows, columns = (np.exp(-((np.linspace(-2, 2, side)) ** 2) / 2) for side in shape)
    return np.outer(rows, columns)


@torch.no_grad()
def faithfulness(
    score: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, evidence: torch.Tensor, steps: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Deletion and insertion curves (Petsiuk et al. 2018, arXiv:1806.07421), steps + 1 scores each.

    The pixels of `image` (1, C, H, W) in falling order of `evidence` (H, W) are taken out (mean grey takes their place)
    or put into a blurred frame. A faithful map makes the first curve fall and the second rise at once.
    """
    places = evidence.flatten().argsort(descending=True, stable=True).argsort().reshape(evidence.shape)
    counts = torch.linspace(0, evidence.numel(), steps + 1).round()
    taken = (places < counts.reshape(-1, 1, 1)).unsqueeze(1)  # (steps + 1, 1, H, W)
    side = 2 * (min(image.shape[-2:]) // 4) + 1
    blurred = gaussian_blur2d(image, (side, side), (side / 4, side / 4))
    deletion, insertion = torch.where(taken, 0.0, image), torch.where(taken, image, blurred)
    return score(deletion).numpy(), score(insertion).numpy()


def judge(
    score: Callable, images: torch.Tensor, masks: np.ndarray, maps: dict[str, np.ndarray], steps: int = 16
) -> tuple[pd.DataFrame, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """`localisation` and `faithfulness` of named maps (N, H, W) of `images` (N, C, H, W).

    One row a method and frame (`method`, `frame`, `energy`, `hit`, areas `deletion` and `insertion` in the unit of
    `score`), and by method the mean deletion and insertion curves.
    """
    tables, curves = [], {}
    for method, stack in tqdm(maps.items(), "judge", delay=5, mininterval=5):
        heats = torch.tensor(np.array(stack))
        pairs = [faithfulness(score, images[n : n + 1], heat, steps) for n, heat in enumerate(heats)]
        each = [np.stack(kind) for kind in zip(*pairs, strict=True)]  # deletion, insertion: (N, steps + 1)
        areas = dict(zip(("deletion", "insertion"), (np.trapezoid(kind, dx=1 / steps) for kind in each), strict=True))
        tables.append(localisation(stack, masks).assign(method=method, frame=range(len(stack)), **areas))
        curves[method] = tuple(kind.mean(0) for kind in each)
    return pd.concat(tables, ignore_index=True), curves


def randomised(model: nn.Module, image: torch.Tensor, shares: tuple[float, ...], seed: int = 0) -> Iterator[nn.Module]:
    """Copies of `model` whose last `shares` of layers have random weights (Adebayo et al. 2018, arXiv:1810.03292).

    Cascading from the output: each tensor is drawn anew from a normal distribution of its own mean and deviation, so
    that activations keep their size.
    """
    layers = {part: None for part in model.modules() if next(part.parameters(recurse=False), None) is not None}
    order: dict[nn.Module, None] = {}  # of first use
    with hooked(list(layers), lambda module, inputs, output: order.setdefault(module)), torch.no_grad():
        model(image)
    names = {part: name for name, part in model.named_modules()}
    generator = torch.Generator().manual_seed(seed)
    for share in shares:
        changed = copy.deepcopy(model)
        for layer in list(order)[round(len(order) * (1 - share)) :]:
            for weight in changed.get_submodule(names[layer]).parameters(recurse=False):
                std, mean = torch.std_mean(weight.data, correction=0)
                weight.data = mean + std * torch.randn(weight.shape, generator=generator)
        yield changed


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two maps' absolute values; 0 if one of them is flat."""
    first, second = np.abs(first).ravel(), np.abs(second).ravel()
    return float(spearmanr(first, second)[0]) if np.ptp(first) > 0 and np.ptp(second) > 0 else 0.0


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The methods (rows) from best to worst by `rank`, the mean of their places in localisation (`energy` and `hit`),
    faithfulness (`insertion` less `deletion`) and sanity (low `similarity` to the map of random weights)."""
    where = (table["energy"].rank(ascending=False) + table["hit"].rank(ascending=False)).rank()
    faith = (table["insertion"] - table["deletion"]).rank(ascending=False)
    places = pd.concat([where, faith, table["similarity"].rank()], axis=1)
    return table.assign(rank=places.mean(axis=1)).sort_values("rank")
