"""From trained networks to masks: ensembles, the two stages, the gate, post-processing and the submission."""
