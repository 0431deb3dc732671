"""Who is in the data set: how many frames of each patient show a nerve, and how patients differ.

Patients are stratified, not drawn independently, so that 24 of them are as representative as 47.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from nerveceg_lib.runtime.errors import InputError

# Deciles of the share of positive frames over the 47 patients of the Kaggle Ultrasound Nerve Segmentation training set.
# The extremes leave at least one frame with and one without a nerve in every patient of ten frames or more.
PRESENCE_DECILES = (0.017, 0.15, 0.179, 0.26, 0.293, 0.408, 0.505, 0.538, 0.582, 0.764, 0.892)
PRESENCE_MEAN = 0.412
TRAITS = ("area", "x", "y", "eccentricity", "angle", "gain", "depth", "floor")


@dataclass(frozen=True)
class Plan:
    """What is fixed about a patient before anything is drawn.

    frames, positives, contradictory: numbers of frames in all, with a nerve in the mask, and with a nerve that the mask
    lacks. traits: standard normal scores named by TRAITS. seed: root of all of the patient's random numbers.
    """

    frames: int
    positives: int
    contradictory: int
    traits: dict[str, float]
    seed: np.random.SeedSequence


def cohort(frames: Sequence[int], seed: np.random.SeedSequence, contradictory: float = 0.03) -> list[Plan]:
    """Plan one patient per entry of `frames`, which is the number of frames of that patient.

    contradictory: share of all frames, 0 to 0.5, that show a nerve but are labelled negative. Raises InputError if it
    is out of range.
    """
    if not 0 <= contradictory <= 0.5:
        raise InputError(f"contradictory: expected a share between 0 and 0.5, found {contradictory}")
    cohort_seed, *seeds = seed.spawn(len(frames) + 1)
    rng = np.random.default_rng(cohort_seed)
    counts = np.asarray(frames)
    positives = _positives(counts, rng)
    copies = _apportion(contradictory * counts.sum(), np.where(positives > 0, counts - positives, 0))
    scores = {name: _stratified_scores(positives + 0.5, rng) for name in TRAITS}
    return [
        Plan(int(counts[i]), int(positives[i]), int(copies[i]), {n: float(scores[n][i]) for n in TRAITS}, seeds[i])
        for i in range(len(counts))
    ]


def _positives(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    middles = (np.arange(len(counts)) + 0.5) / len(counts)
    shares = np.interp(middles, np.linspace(0, 1, 11), PRESENCE_DECILES)
    shares = np.clip(shares * PRESENCE_MEAN / shares.mean(), PRESENCE_DECILES[0], PRESENCE_DECILES[-1])
    positives = np.rint(rng.permutation(shares) * counts).astype(int)
    return np.where(counts >= 2, np.clip(positives, 1, counts - 1), positives)


def _apportion(wanted: float, capacity: np.ndarray) -> np.ndarray:
    """Split round(wanted) over patients in proportion to capacity, never above it (largest remainders)."""
    total = min(round(wanted), int(capacity.sum()))
    exact = total * capacity / max(capacity.sum(), 1)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares


def _stratified_scores(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal scores in random order at the midpoints of the patients' shares of all positive frames.

    The weights make the frames, not the patients, follow the normal distribution.
    """
    order = rng.permutation(len(weights))
    middles = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    scores = np.empty(len(weights))
    scores[order] = [NormalDist().inv_cdf(middle) for middle in middles]
    return scores
