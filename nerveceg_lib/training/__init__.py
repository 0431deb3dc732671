"""Training: what is minimised, how, and what is written to disk."""

from nerveceg_lib.training.loop import fit
from nerveceg_lib.training.module import TrainingConfig, TrainingModule
from nerveceg_lib.training.objectives import (
    PresenceHeadObjective,
    PresenceObjective,
    SegmentationObjective,
)
