"""Two looks at a frame: the first at the whole of it proposes a place, the second at a crop around it decides."""

import numpy as np
import torch
from torch import nn

from nerveceg_lib.data import crops
from nerveceg_lib.inference import Size, Stage, batches_of


class TwoLooks:
    """A system of shared trunks, one for each look; `second` is trained by `jobs.second_look`."""

    def __init__(self, first: Stage, second: Stage):
        self.first, self.second = first, second

    def read(self, frames: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Input of the first look, and the frames, which the second is cut from."""
        return self.first.read(frames), frames

    def __call__(self, inputs: tuple[torch.Tensor, np.ndarray], threshold: float):
        """See `inference.System`; P(nerve) is the second look's, which every frame gets, and masks have full size."""
        batch, frames = inputs
        at, presence = crops.corners(_proposals(self.first, batch, frames.shape[1:]), frames.shape[1:]), []

        def look(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
            logit, (masks,) = network(image, coverage=True)
            presence.append(logit.float().sigmoid())
            return masks

        maps = self.second.each(look, self.second.read(crops.cut(frames, at))).cpu()  # (networks, B, h, w)
        probability = torch.stack(presence).mean(0).cpu()
        kept = probability > threshold
        if not kept.any():
            return probability, kept, None
        full = [crops.paste(map_[kept].numpy(), at[kept.numpy()], frames.shape[1:]) for map_ in maps]
        return probability, kept, torch.from_numpy(np.stack(full))


def propose_places(
    model: nn.Module, frames: np.ndarray, rows: np.ndarray, size: Size, batch_size: int = 32
) -> np.ndarray:
    """Row and column, (len(rows), 2), of the place in each frame that shared trunk `model` finds most suspicious."""
    first = Stage([model], size)
    found = [
        _proposals(first, first.read(batch), batch.shape[1:])
        for batch in batches_of(frames, rows, batch_size, "places")
    ]
    return np.concatenate(found)


def _proposals(first: Stage, batch: torch.Tensor, shape: Size) -> np.ndarray:
    maps = first.each(lambda network, image: network(image, coverage=True)[1][0], batch).mean(0)
    return crops.propose(maps.cpu().numpy(), shape)
