"""The figures of the notebooks, in one style; notebook 5 also uses `plots.explain`."""

from nerveceg_lib.plots.style import HELDOUT, NEUTRAL, PREDICTION, TRUTH, frame_grid, show, show_source, use_style
from nerveceg_lib.plots.training import learning_curves, reliability
