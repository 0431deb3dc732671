"""The baseline: two-stage segmentation as people write it in notebooks, plain but not slow on purpose.

The networks take three channels, so grey frames are repeated.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nerveceg_lib.rle import FRAME_SHAPE


def read_input(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """Read a frame, resize it to `size` (H, W) and standardise it: (3, H, W)."""
    frame = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    frame = (frame - frame.mean()) / max(frame.std(), 1e-3)
    return torch.from_numpy(np.stack([frame, frame, frame]))


def segment_folder(
    paths: Iterable[Path],
    classifier: nn.Module,
    segmenter: nn.Module,
    out_dir: Path,
    size: tuple[int, int] = (400, 400),
    threshold: float = 0.5,
) -> dict[str, tuple[float, str]]:
    """Return P(nerve) and RLE ("" at or below `threshold`) of each frame by file stem, one after the other.

    The masks are written to `out_dir` as {stem}.png of 0 and 255.
    """
    classifier.eval()
    segmenter.eval()
    results = {}
    for path in map(Path, paths):
        image = read_input(path, size).unsqueeze(0)  # (1, 3, H, W)
        with torch.no_grad():
            probability = torch.sigmoid(classifier(image)).item()
            if probability <= threshold:
                results[path.stem] = (probability, "")
                continue
            mask = torch.sigmoid(segmenter(image))[0, 0].numpy() > 0.5  # (H, W)
        mask = (cv2.resize(mask.astype(np.float32), FRAME_SHAPE[::-1]) > 0.5) * np.uint8(255)
        file = str(Path(out_dir) / f"{path.stem}.png")
        cv2.imwrite(file, mask)
        results[path.stem] = (probability, run_lengths(cv2.imread(file, cv2.IMREAD_GRAYSCALE)))
    return results


def run_lengths(mask: np.ndarray) -> str:
    """Return the RLE of a mask (H, W), in a loop over the positions of its nerve pixels."""
    runs = []
    last = -2
    for position in np.where(mask.T.flatten() > 0)[0]:
        if position > last + 1:
            runs.append([position + 1, 0])
        runs[-1][1] += 1
        last = position
    return " ".join(f"{start} {length}" for start, length in runs)


def from_run_lengths(text: str, shape: tuple[int, int] = FRAME_SHAPE) -> np.ndarray:
    """Return the mask (H, W) of an RLE, in a loop over its runs, pixel by pixel."""
    mask = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    numbers = text.split()
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for position in range(int(start) - 1, int(start) - 1 + int(length)):
            mask[position] = 1
    return mask.reshape(shape[::-1]).T


class PairSet(Dataset):
    """Frames and masks that are decoded from their files whenever they are needed."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], size: tuple[int, int]):
        self.pairs, self.size = list(pairs), size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image (3, H, W) and mask (1, H, W) of 0 and 1."""
        image, mask = self.pairs[position]
        pixels = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
        target = cv2.resize(pixels, self.size[::-1], interpolation=cv2.INTER_NEAREST) > 0
        return read_input(image, self.size), torch.from_numpy(target.astype(np.float32)).unsqueeze(0)


def loader(pairs: Sequence[tuple[Path, Path]], size: tuple[int, int] = (400, 400), batch_size: int = 2) -> DataLoader:
    """Return shuffled batches of (image, mask) from (image file, mask file) pairs, decoded in this process."""
    return DataLoader(PairSet(pairs, size), batch_size=batch_size, shuffle=True, num_workers=0, drop_last=True)


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader_iterator: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
) -> list[float]:
    """Train a segmenter for `steps` batches and return the loss of each. Raises StopIteration if they run out."""
    criterion = nn.BCEWithLogitsLoss()
    model.train()
    losses = []
    for _ in range(steps):
        image, mask = next(loader_iterator)
        optimizer.zero_grad()
        loss = criterion(model(image), mask)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
