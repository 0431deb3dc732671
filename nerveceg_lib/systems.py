"""Both stages of trained runs, loaded and joined into one system for inference."""

from collections.abc import Sequence

from nerveceg_lib.checkpoints import load_checkpoint
from nerveceg_lib.errors import InputError, one_of
from nerveceg_lib.inference import OneTrunk, PresenceStage, Stage, System, TwoNetworks
from nerveceg_lib.looks import TwoLooks
from nerveceg_lib.paths import STAGES, require, stage_dir

GATES = ("classifier", "segmenter")


def load_system(
    runs: Sequence[str], gate_from: str = "classifier", precision: str = "fp32", flip: bool = False
) -> tuple[System, dict]:
    """The networks of one run, or of several averaged, and the facts of the first run's gate.

    `gate_from` "classifier" takes the classifiers of notebook 2, "segmenter" the presence heads of EfficientU-Nets
    that notebook 3 trained with `one_trunk`. Second looks of notebook 3 make `TwoLooks`. Raises InputError for missing
    networks, input sizes that differ between runs, and heads that were never trained.
    """
    one_trunk = one_of("gate_from", gate_from, GATES) == "segmenter"
    segmenters, size, facts = _networks(runs, STAGES[2], "segmenter")
    if one_trunk:
        if not all(fact["one_trunk"] for fact in facts):
            raise InputError("gate_from: the segmenter has no trained presence head; run notebook 3 with one_trunk")
        return OneTrunk(Stage(segmenters, size, precision, flip)), facts[0]
    classifiers, gate_size, gate_facts = _networks(runs, STAGES[1], "classifier")
    for run, first, second in zip(runs, gate_facts, facts, strict=True):
        if first.get("fold") != second.get("fold"):
            raise InputError(
                f"fold of run {run}: expected both networks to leave out the same one, found {first.get('fold')} and "
                f"{second.get('fold')}; one of them was trained on the patients that the gate is chosen on"
            )
    masks = Stage(segmenters, size, precision, flip)
    if facts[0].get("task") == "second look":
        return TwoLooks(Stage(classifiers, gate_size, precision, flip), masks), gate_facts[0]
    return TwoNetworks(PresenceStage(classifiers, gate_size, precision, flip), masks), gate_facts[0]


def _networks(runs: Sequence[str], stage: str, kind: str) -> tuple[list, tuple[int, int], list[dict]]:
    loaded = [load_checkpoint(require(stage_dir(run, stage) / f"{kind}.pt", stage)) for run in runs]
    sizes = {tuple(facts["size"]) for _, facts in loaded}
    if len(sizes) > 1:
        raise InputError(f"{kind}s of {list(runs)}: expected one input size, found {sorted(sizes)}")
    return [model for model, _ in loaded], sizes.pop(), [facts for _, facts in loaded]
