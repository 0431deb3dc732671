"""Synthetic B-mode ultrasound of the neck with a nerve to segment, for wherever the real frames are not available."""

from nerveceg_tools.phantom.cohort import cohort
from nerveceg_tools.phantom.patient import Patient
from nerveceg_tools.phantom.write import make_phantom, write_phantom

__all__ = ["Patient", "cohort", "make_phantom", "write_phantom"]
