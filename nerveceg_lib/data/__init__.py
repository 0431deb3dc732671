"""Files and frames: the competition's folder layout, the frame cache, the split, the label audit, the data sets."""
