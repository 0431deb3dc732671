"""Notebook 7's arms and its conclusions: equal frames, equal compute, nothing learnt from held-out patients."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from nerveceg_lib import complexity, fusion, study, verdict
from nerveceg_lib.data.cache import open_cache
from nerveceg_lib.data.index import split_patients
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import write_csv
from nerveceg_lib.models import build_model

ARMS = ("bce_dice", "efficientnet-b4", "shared-unet", "second-look")
BUDGET = study.Budget((32, 48), look=32, channels=2, epochs=6, batch=4, rate=0.003, seed=0)


def listing(patients=12, frames=20):
    """An index as notebook 1 makes it: a third of the patients held out, three folds."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"subject": np.repeat(np.arange(patients), frames)})
    presence = rng.random(len(table)) < 0.4
    table = table.assign(set="train", row=np.arange(len(table)), presence=presence.astype(int))
    return split_patients(table, 0.34, 3, 0)


@pytest.mark.parametrize("share", [0.2, 0.41, 0.59, 0.8])
def test_sides_have_the_share_asked_for_and_the_same_size_whatever_it_is(share):
    index = listing()
    sides, other = study.sides_of(index, 1, share), study.sides_of(index, 1, 0.5)
    for name, side in vars(sides).items():
        assert (side["presence"] == 0).mean() == pytest.approx(share, abs=0.5 / len(side))
        assert len(side) == len(vars(other)[name]) and side["row"].is_monotonic_increasing
    patients = [set(side["subject"]) for side in vars(sides).values()]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert set(sides.validation["fold"]) == {1} and set(sides.heldout["split"]) == {"heldout"}


def test_share_zero_keeps_all_frames_and_others_are_refused():
    index = listing()
    assert sum(map(len, vars(study.sides_of(index, 0)).values())) == len(index)
    with pytest.raises(InputError, match="empty_share.*0.2 to 0.8, found 0.9"):
        study.sides_of(index, 0, 0.9)


@pytest.mark.parametrize("part", range(4))
def test_every_patient_is_held_out_in_one_part(part):
    table = listing()[["subject", "set", "row", "presence"]]
    held = [set(split_patients(table, 0.25, 2, 5, p).query("split == 'heldout'")["subject"]) for p in range(4)]
    assert sorted(subject for patients in held for subject in patients) == sorted(set(table["subject"]))
    with pytest.raises(InputError, match="heldout_part.*found 4"):
        split_patients(table, 0.25, 2, 5, 4)


@pytest.fixture(scope="module")
def cache(phantom, tmp_path_factory):
    found = open_cache(phantom, tmp_path_factory.mktemp("study") / "cache", progress=False)
    return replace(found, index=split_patients(found.index, 0.34, 3, 0))


@pytest.fixture(scope="module")
def lab(cache, tmp_path_factory):
    return study.Lab(cache, study.sides_of(cache.index, 0), BUDGET, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def results(lab):
    return {arm: lab.run(arm) for arm in ARMS}


def test_every_arm_judges_every_held_out_frame_once_each_way(lab, results):
    for arm, found in results.items():
        assert found["arm"].nunique() == (1 if arm == "bce_dice" else 5)  # four gates and the oracle
        for _, way in found.groupby(["arm", "cleaned"]):
            assert way["row"].tolist() == lab.sides.heldout["row"].tolist()
            blank = way[way["drawn"] == 0]
            assert np.array_equal(blank["score"], 1.0 - blank["presence"])
            assert (way.loc[(way["drawn"] == 1) & (way["presence"] == 0), "score"] == 0).all()


def test_the_oracle_draws_nerves_alone(results):
    oracle = results["shared-unet"].query("arm == 'shared-unet, oracle gate'")
    assert (oracle["drawn"] <= oracle["presence"]).all()
    assert (oracle.loc[oracle["presence"] == 0, "score"] == 1).all()


def test_two_stages_spend_no_more_than_one(lab, results):
    spent = {arm: found["gflops"].iloc[0] for arm, found in results.items()}
    one = spent["bce_dice"]
    # six passes over every frame, each as dear as three forward ones of two operations a multiply-add
    network = build_model("unet", base_channels=2)
    assert one == pytest.approx(6 * len(lab.sides.train) * 6 * complexity.gmacs(network, torch.zeros(1, 1, 32, 48)))
    assert 0.7 * one < spent["shared-unet"] <= one and 0.7 * one < spent["second-look"] <= one


@pytest.mark.parametrize("arm", ["bce_dice", "shared-unet", "second-look"])
def test_held_out_truth_changes_scores_and_nothing_else(lab, results, arm, tmp_path):
    """The same arm with false truths of held-out patients: whatever was fitted to them would come out otherwise."""
    index, masks = lab.frames.index.copy(), np.array(lab.frames.masks)
    held = index["split"] == "heldout"
    rows = index.loc[held, "row"].to_numpy()
    index.loc[held, "presence"] = 1 - index.loc[held, "presence"]
    masks[rows] = 0
    masks[rows[index.loc[held, "presence"] == 1], :60, :60] = 1
    frames = replace(lab.frames, index=index, masks=masks)
    false = replace(lab, frames=frames, sides=study.sides_of(index, 0), folder=tmp_path, gates={}).run(arm)
    ways = ~false["arm"].str.contains("oracle")
    columns = ["arm", "row", "cleaned", "removed", "drawn", "probability", "gflops"]
    pd.testing.assert_frame_equal(false.loc[ways, columns], results[arm].loc[ways.to_numpy(), columns])
    assert not np.array_equal(false["score"], results[arm]["score"])


def test_what_is_fitted_sees_validation_frames_alone(lab, results, monkeypatch, tmp_path):
    seen = {}
    for kind, fit in fusion.GATES.items():
        monkeypatch.setitem(fusion.GATES, kind, lambda p, kind=kind, fit=fit: (seen.update({kind: p}), fit(p))[1])
    replace(lab, folder=tmp_path, budget=replace(BUDGET, epochs=1), gates={}).run("second-look")
    assert set(seen) == set(fusion.GATES)
    for predictions in seen.values():
        assert set(predictions["row"]) == set(lab.sides.validation["row"])


def test_an_arm_is_read_again_only_if_it_is_the_same(lab, results, monkeypatch):
    monkeypatch.setattr(study.Lab, "_train", lambda *args, **kwargs: pytest.fail("trained again"))
    again = replace(lab, resume=True)
    pd.testing.assert_frame_equal(again.run("bce_dice"), results["bce_dice"], check_dtype=False)
    with pytest.raises(pytest.fail.Exception):
        replace(again, budget=replace(BUDGET, epochs=7)).run("bce_dice")


def test_unknown_arms_are_named(lab):
    with pytest.raises(InputError, match="arm: expected one of.*shared-unet.*found 'guess'"):
        lab.run("guess")


def judged(arm, drawn, score, gflops=10.0, **more):
    """Four frames of two patients: nerve, none, nerve, none."""
    frames = pd.DataFrame({"row": range(4), "subject": [1, 1, 2, 2], "presence": [1, 0, 1, 0], "drawn": drawn})
    frames = frames.assign(arm=arm, score=score, gflops=gflops, probability=np.nan, run=0, data="d", empty_share=0.5)
    parts = [frames.assign(cleaned=cleaned, removed=0, contradictory=[0, 1, 0, 0]) for cleaned in (0, 1)]
    return pd.concat(parts).assign(**more)


def test_a_table_by_hand():
    frames = pd.concat(
        [
            judged("one stage, dice", [0, 0, 0, 0], [0, 1, 0, 1]),
            judged("one stage, bce", [1, 0, 0, 1], [0.8, 1, 0, 0]),
            judged("g, fused gate", [1, 0, 1, 1], [0.9, 1, 0.7, 0], 15.0, probability=0.5),
            judged("g, oracle gate", [1, 0, 1, 0], [0.9, 1, 0.7, 1], 15.0),
        ]
    )
    table = verdict.summarise(frames, draws=200).query("cleaned == 1").set_index("arm")
    assert set(table["best_one_stage"]) == {"dice"} and set(table["patients"]) == {2}
    assert table.loc["one stage, dice", ["score", "blank_rate", "false_mask_rate", "gain"]].tolist() == [0.5, 1, 0, 0]
    row = table.loc["g, fused gate"]
    assert row["score"] == pytest.approx(0.65) and row["gain"] == pytest.approx(0.15) and row["compute"] == 1.5
    assert row["dice_detected"] == pytest.approx(0.8) and row["false_mask_rate"] == 0.5
    assert row["ceiling"] == pytest.approx(0.9 - 0.25) and row["closed"] == pytest.approx(0.15 / 0.15)
    assert row["ece"] == pytest.approx(0.0)  # half of the frames have a nerve
    # patient 1 gains 0.45 on average, patient 2 loses 0.15
    assert (row["gain_low"], row["gain_high"]) == pytest.approx((-0.15, 0.45))
    assert table.loc[verdict.ALL_EMPTY, "score"] == 0.5
    with pytest.raises(InputError, match="at least one loss of one stage"):
        verdict.summarise(frames[frames["arm"].str.startswith("g,")])


def test_patients_of_different_runs_are_different_ones(tmp_path):
    for run in range(2):
        write_csv(tmp_path / f"{run}.csv", judged("one stage, dice", [0] * 4, [0, 1, 0, 1]))
    table = verdict.summarise(verdict.pooled([tmp_path / "0.csv", tmp_path / "1.csv"]), draws=50)
    assert set(table["runs"]) == {2} and set(table["patients"]) == {4} and set(table["frames"]) == {8}
    with pytest.raises(InputError, match="found none"):
        verdict.pooled([])


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "not distinguishable")]
)
def test_words_follow_from_the_interval(low, high, words):
    assert verdict.verdict(low, high) == words


def test_reliability_counts_every_frame_once():
    rng = np.random.default_rng(0)
    stated = rng.random(400)
    frames = pd.DataFrame({"probability": stated, "presence": rng.random(400) < stated, "row": range(400)})
    frames = frames.assign(data="d", empty_share=0.5, arm="g, fused gate", cleaned=0)
    table = verdict.reliability(frames, bins=5)
    assert table["frames"].tolist() == [80] * 5
    assert np.allclose(table["predicted"], table["observed"], atol=0.15)
    assert verdict.calibration_error(frames["presence"], frames["probability"]) < 0.1
    assert verdict.calibration_error(frames["presence"], 1 - frames["probability"]) > 0.3
