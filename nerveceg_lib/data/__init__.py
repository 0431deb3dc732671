"""Files and frames: the competition's folder layout, reading, index, cache, audit, data sets."""
