"""Synthetic B-mode ultrasound of the neck with a nerve to find, where the real frames may not go."""

from nerveceg_lib.phantom.cohort import Plan, cohort
from nerveceg_lib.phantom.difficulty import DIFFICULTIES, Difficulty, difficulty_named
from nerveceg_lib.phantom.patient import Patient, make_patient

__all__ = ["DIFFICULTIES", "Difficulty", "Patient", "Plan", "cohort", "difficulty_named", "make_patient"]
