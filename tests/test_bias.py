"""Notebook 7's experiment: equal frames, equal compute, and nothing fitted on held-out patients."""

from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

from nerveceg_lib import rle
from nerveceg_lib.data import prepared
from nerveceg_lib.data.splits import split_patients
from nerveceg_lib.models import build_model, complexity
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import write_csv
from tests.conftest import REPOSITORY

ARMS = ("bce_dice", "two-networks", "presence-head")
PARAMETERS = {"height": 32, "width": 48, "base_channels": 2, "lr": 0.003, "epochs": 6, "classifier": "efficientnet-b0"}


def define(frames, root):
    """Return the names that the notebook's definitions make, with small parameters and `frames` instead of a run's."""
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(root))
        patch.setattr(prepared, "load_frames", lambda run: frames)
        for number, cell in enumerate(nbformat.read(REPOSITORY / "notebooks/07_blank_mask_bias.ipynb", 4).cells):
            tags = cell.metadata.get("tags", [])
            if cell.cell_type == "code" and (number <= 2 or "definitions" in tags):
                code = TransformerManager().transform_cell(cell.source)
                exec(compile(code, f"notebook 7, cell {number}", "exec"), names)
            if "parameters" in tags:
                names |= PARAMETERS
    names["two_stage_arms"] = []
    names["splits"] = {0.0: names["split_frames"](frames.index, 0, 0.0, 0)}
    return names


def run_arm(notebook, arm):
    if arm not in notebook["TWO_STAGES"]:
        return notebook["run_one_stage"](arm, 0.0)
    return notebook["run_two_stages"](arm, 0.0)


@pytest.fixture(scope="module")
def notebook(frames, tmp_path_factory):
    split = replace(frames, index=split_patients(frames.index, 0.34, 3, 0))
    return define(split, tmp_path_factory.mktemp("bias"))


@pytest.fixture(scope="module")
def results(notebook):
    return {arm: run_arm(notebook, arm) for arm in ARMS}


@pytest.mark.parametrize("share", [0.2, 0.41, 0.59, 0.8])
def test_sets_have_the_wanted_share_and_a_size_that_does_not_depend_on_it(notebook, share):
    has_nerve = (np.random.default_rng(0).random(240) < 0.4).astype(int)
    table = pd.DataFrame({"subject": np.repeat(np.arange(12), 20), "set": "train", "row": np.arange(240)})
    index = split_patients(table.assign(has_nerve=has_nerve), 0.34, 3, 0)
    splits, others = (notebook["split_frames"](index, 1, wanted, 0) for wanted in (share, 0.5))
    for rows, other in zip(splits.values(), others.values(), strict=True):
        assert (rows["has_nerve"] == 0).mean() == pytest.approx(share, abs=0.5 / len(rows)) and len(rows) == len(other)
    patients = [set(rows["subject"]) for rows in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert set(splits["validation"]["fold"]) == {1} and set(splits["heldout"]["split"]) == {"heldout"}


@pytest.mark.slow
def test_every_way_of_drawing_scores_every_held_out_frame_once(notebook, results):
    for arm, scored in results.items():
        assert scored["gate"].nunique() == (1 if arm == "bce_dice" else 6)  # five gates and the oracle
        for (gate, _), way in scored.groupby(["gate", "cleaned"]):
            assert way["row"].tolist() == notebook["splits"][0.0]["heldout"]["row"].tolist()
            blank, false = way[way["keep"] == 0], way[(way["keep"] == 1) & (way["has_nerve"] == 0)]
            assert np.array_equal(blank["score"], 1 - blank["has_nerve"]) and not false["score"].any()
            assert gate != "oracle" or (way["keep"] <= way["has_nerve"]).all()
    predictions = pd.read_csv(notebook["folder"] / "empty-0.00" / "presence-head" / "predictions.csv")
    for name, rows in predictions.groupby("set"):
        assert rows["row"].tolist() == notebook["splits"][0.0][name]["row"].tolist() and rows["peak"].notna().all()


@pytest.mark.slow
def test_masks_of_another_system_are_scored_like_our_own(notebook, results, frames, tmp_path, monkeypatch):
    rows = frames.index[frames.index["set"] == "train"]
    perfect = [(r.subject, r.image, rle.encode(frames.masks[r.row])) for r in rows.itertuples()]
    table = pd.DataFrame(perfect, columns=["subject", "img", "pixels"])
    write_csv(tmp_path / "sam.csv", table)
    monkeypatch.setitem(notebook, "other_masks", str(tmp_path / "sam.csv"))
    monkeypatch.setitem(notebook, "two_stage_arms", ["presence-head"])
    monkeypatch.setitem(notebook, "resume", True)
    scored = run_arm(notebook, "presence-head")
    pd.testing.assert_frame_equal(scored[scored["method"] == "presence-head"], results["presence-head"])
    other = scored[scored["method"] == "sam"]
    assert set(other["gate"]) == {"none", "hard", "classifier", "oracle"} and other["compute"].isna().all()
    assert (other.loc[other["gate"].isin(["none", "oracle"]), "score"] == 1).all()
    kept = other[other["gate"] == "hard"]
    assert np.array_equal(kept["score"], kept["keep"] == kept["has_nerve"]), "a perfect mask fails by its gate only"
    first = notebook["splits"][0.0]["validation"].iloc[0]
    write_csv(tmp_path / "sam.csv", table[(table["subject"] != first["subject"]) | (table["img"] != first["image"])])
    with pytest.raises(InputError, match="sam.csv: expected a mask for each labelled frame, found none for"):
        notebook["score_other"](str(tmp_path / "sam.csv"), None, 0.0)


@pytest.mark.slow
def test_every_arm_spends_the_budget(notebook, results):
    spent = {arm: scored["compute"].iloc[0] for arm, scored in results.items()}
    forward = 2 * complexity.gmacs(build_model("unet", base_channels=2), torch.zeros(1, 1, 32, 48))
    assert notebook["budget"](10) == pytest.approx(6 * 10 * 3 * forward)  # six epochs
    assert spent["bce_dice"] == 1 and 0.95 < spent["presence-head"] <= 1
    rows = np.arange(10, 20)
    for num_frames, num_epochs, length in ((25, 2, 12), (39, 3, 13), (20, 2, 10), (7, 1, 10)):
        assert notebook["spend"](num_frames, rows)[0] == num_epochs
        shown = notebook["spend"](num_frames, rows)[1]
        assert len(shown) == length and set(shown) == set(rows)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["bce_dice", "two-networks", "presence-head"])
def test_held_out_truth_changes_only_the_scores(notebook, results, arm, tmp_path):
    """Anything that was fitted on held-out patients would change if their truth were another one."""
    frames = notebook["frames"]
    index, masks = frames.index.copy(), np.array(frames.masks)
    heldout = index["split"] == "heldout"
    index.loc[heldout, "has_nerve"] = 1 - index.loc[heldout, "has_nerve"]
    masks[index.loc[heldout, "row"]] = 0
    masks[index.loc[heldout & (index["has_nerve"] == 1), "row"], :60, :60] = 1
    scored = run_arm(define(replace(frames, index=index, masks=masks), tmp_path), arm)
    fitted = scored["gate"] != "oracle"
    columns = ["gate", "row", "cleaned", "min_area", "keep", "probability", "compute"]
    pd.testing.assert_frame_equal(scored.loc[fitted, columns], results[arm].loc[fitted, columns])
    assert not np.array_equal(scored["score"], results[arm]["score"])


def test_unknown_arms_and_shares_are_refused(notebook):
    assert sum(map(len, notebook["splits"][0.0].values())) == 48  # share 0 keeps all frames
    with pytest.raises(InputError, match="empty_shares.*0.2 to 0.8, found 0.9"):
        notebook["split_frames"](notebook["frames"].index, 0, 0.9, 0)
    assert notebook["read_arms"]("dice,presence-head") == (["dice"], ["presence-head"])
    with pytest.raises(InputError, match="arms: expected one of.*presence-head.*found 'guess'"):
        notebook["read_arms"]("bce,guess")
    with pytest.raises(InputError, match="arms: expected at least one loss"):
        notebook["read_arms"]("two-networks,presence-head")


def four_frames(method, loss, gate, keep, score, compute=1.0, probability=np.nan, seed=0, cohort="a"):
    """Score four frames of two patients: with, without, with, without a nerve."""
    rows = pd.DataFrame({"row": range(4), "subject": [1, 1, 2, 2], "has_nerve": [1, 0, 1, 0], "keep": keep})
    rows = rows.assign(score=score, contradictory=[0, 1, 0, 0], method=method, loss=loss, gate=gate)
    rows = rows.assign(compute=compute, probability=probability, run=0, dataset="d", difficulty="none", empty_share=0.5)
    rows = rows.assign(clean=[1, 1, 0, 1], seed=seed, cohort=cohort)
    return pd.concat([rows.assign(cleaned=cleaned) for cleaned in (0, 1)])


def test_a_table_by_hand(notebook):
    dice = four_frames("one-stage", "dice", "none", [0, 0, 0, 0], [0, 1, 0, 1])
    bce = four_frames("one-stage", "bce", "none", [1, 0, 0, 1], [0.8, 1, 0, 0])
    fused = four_frames("g", "dice", "fused", [1, 0, 1, 1], [0.9, 1, 0.7, 0], 1.5, probability=0.5)
    oracle = four_frames("g", "dice", "oracle", [1, 0, 1, 0], [0.9, 1, 0.7, 1], 1.5)
    table = notebook["summarise"](pd.concat([dice, bce, fused, oracle]))
    table = table[table["cleaned"] == 1].set_index(["method", "loss", "gate"])
    clean, table = (table[table["subset"] == subset] for subset in ("clean", "all"))
    assert clean.loc[("g", "dice", "fused"), "score"] == pytest.approx((0.9 + 1 + 0) / 3)
    assert set(table["best_loss"]) == {"dice"} and table.loc[("blank", "none", "none"), "score"] == 0.5
    assert table.loc[("one-stage", "dice", "none"), ["score", "fnr", "fpr", "gain"]].tolist() == [0.5, 1, 0, 0]
    row = table.loc[("g", "dice", "fused")]
    assert row["score"] == pytest.approx(0.65) and row["gain"] == pytest.approx(0.15) and row["compute"] == 1.5
    assert row["over_blank"] == pytest.approx(0.65 - 0.5)
    assert row["dice_true_positive"] == pytest.approx(0.8) and row["fpr"] == 0.5
    assert row["ece"] == pytest.approx(0.0)  # half of the frames have a nerve
    assert row["ceiling"] == pytest.approx(0.9 - 0.25) and row["closed"] == pytest.approx(0.15 / 0.15)
    # the means of the two patients are -0.15 and 0.45: 0.15 -+ 12.71 * 0.42 / sqrt(2)
    assert row[["gain_low", "gain_high"]].tolist() == [-1, 1]  # of two patients
    assert [notebook["verdict"](*i) for i in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == ["better", "worse", "unclear"]


def test_the_choice_of_a_way_never_sees_the_patients_that_it_is_judged_on(notebook):
    parts = [
        four_frames("g", "dice", gate, 1, float(good), probability=0.5, cohort=cohort).assign(run=run)
        for run, cohort in enumerate("ab")
        for gate, good in (("fused", run == 0), ("hard", run == 1))
    ]
    chosen = notebook["choose_on_others"](pd.concat(parts))
    assert len(chosen) == 16 and not chosen["score"].any() and set(chosen["run"]) == {0, 1}
    assert notebook["choose_on_others"](parts[0]).empty
    assert notebook["choose_on_others"](pd.concat([parts[0], parts[3]])).empty, "the runs have no way in common"


def test_runs_share_patients_only_if_they_share_the_data(notebook, root):
    for number, (seed, cohort) in enumerate([(0, "a"), (1, "a"), (0, "b")]):
        (folder := root / f"bias-{number}" / "07_blank_mask_bias").mkdir(parents=True)
        scored = four_frames("one-stage", "dice", "none", 0, [0, 1, 0, 1], seed=seed, cohort=cohort)
        write_csv(folder / "heldout.csv", scored)
    table = notebook["summarise"](notebook["read_runs"]("bias-0, bias-*")).query("subset == 'all'")
    assert set(table["runs"]) == {3} and set(table["patients"]) == {4} and set(table["frames"]) == {12}
    with pytest.raises(InputError, match="pool: expected.*finished runs, found none"):
        notebook["read_runs"]("other-*")
