"""The frame cache, the patient split, and the frames as a network sees them."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerveceg_lib.data import io
from nerveceg_lib.data.cache import load_cache, open_cache
from nerveceg_lib.data.datasets import Augmentation, FrameSet, to_input, train_loader
from nerveceg_lib.data.splits import split_fold, split_patients
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import write_json

GREY = np.full((420, 580), 90, np.uint8)


@pytest.fixture
def data(phantom, tmp_path):
    return shutil.copytree(phantom, tmp_path / "data")


def test_cache_holds_every_frame_and_mask(phantom, frames):
    assert frames.index["set"].value_counts().to_dict() == {"train": 48, "test": 6}
    assert frames.index["path"].is_unique and frames.index["row"].tolist() == list(range(54))
    for row in frames.index.itertuples():
        assert np.array_equal(frames.images[row.row], io.read_frame(phantom / row.path))
        if row.set == "train":
            mask = io.read_mask(phantom / row.mask_path)
            assert np.array_equal(frames.masks[row.row], mask)
            assert (row.has_nerve, row.area) == (int(mask.any()), int(mask.sum()))
            if mask.any():
                assert (row.centroid_y, row.centroid_x) == pytest.approx(tuple(np.argwhere(mask).mean(axis=0)))


def test_bad_frame_can_be_skipped_and_is_listed(data, tmp_path):
    io.image_path(data, 1, 1).write_bytes(b"")
    frames = open_cache(data, tmp_path / "cache", "skip")
    assert frames.skipped["path"].tolist() == ["train/1_1.tif"] and len(frames.index) == 6 * 8 + 6 - 1
    last = frames.index[frames.index["set"] == "train"].iloc[-1]
    assert np.array_equal(frames.masks[last["row"]], io.read_mask(data / last["mask_path"]))
    with pytest.raises(InputError, match="on_bad_frame.*'ignore'"):
        open_cache(data, tmp_path / "cache", "ignore")


def test_names_in_any_case_hidden_files_and_names_that_do_not_fit(data, tmp_path):
    train = data / "train"
    (train / "1_1.tif").rename(train / "1_1.TIF")
    (train / "1_1_mask.tif").rename(train / "1_1_Mask.Tif")
    (train / "._1_2.tif").write_bytes(b"what macOS puts into archives")
    (train / "1_1 (copy).tif").write_bytes(b"")
    shutil.copy(train / "2_1.tif", train / "2_1.TIF")
    with pytest.raises(InputError, match=r"(?s)1_1 \(copy\).tif: expected a frame named.*2_1.*: expected one file of"):
        open_cache(data, tmp_path / "cache")
    frames = open_cache(data, tmp_path / "cache", "skip")
    assert len(frames.index) == 6 * 8 + 6 and len(frames.skipped) == 2
    assert frames.index.iloc[0][["path", "mask_path"]].tolist() == ["train/1_1.TIF", "train/1_1_Mask.Tif"]


def test_fresh_cache_is_reused_and_a_change_is_noticed(data, tmp_path):
    digest = open_cache(data, tmp_path / "cache").digest
    built = (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns
    assert open_cache(data, tmp_path / "cache").digest == digest
    assert (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns == built
    io.write_frame(io.image_path(data, 1, 1), GREY)
    io.write_frame(io.image_path(data, 9, 1), GREY)
    io.write_mask(io.mask_path(data, 9, 1), 0 * GREY)
    changed = open_cache(data, tmp_path / "cache")
    assert np.array_equal(changed.images[0], GREY) and changed.digest != digest and 9 in set(changed.index["subject"])


def test_incomplete_and_outdated_caches_are_named_and_rebuilt(data, root):
    folder = root / "cache" / "data"
    first = np.array(open_cache(data, folder).images[0])
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="no complete frame cache"):
        load_cache(folder)
    assert np.array_equal(open_cache(data, folder).images[0], first)
    write_json(folder / "manifest.json", {"format": 1, "on_bad_frame": "stop", "files": {}})
    with pytest.raises(InputError, match="cache of format 3, found 1, which an older release wrote; run 01_data_prep"):
        load_cache(folder)
    assert np.array_equal(open_cache(data, folder).images[0], first)


def labelled(has_nerve_of):
    rows = [("train", s, i, int(label)) for s, column in has_nerve_of.items() for i, label in enumerate(column)]
    return pd.DataFrame(rows, columns=["set", "subject", "image", "has_nerve"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=12, max_size=30), st.integers(0, 99))
def test_no_patient_is_ever_on_both_sides(patients, seed):
    heldout = []
    for part in range(4):
        index = split_patients(labelled(dict(enumerate(patients, 1))), 0.25, 3, seed, part)
        assert index.groupby("subject")[["split", "fold"]].nunique().max().max() == 1
        train = index["split"] == "train"
        assert set(index.loc[train, "fold"]) <= {0, 1, 2} and set(index.loc[~train, "fold"]) == {-1}
        heldout += set(index.loc[index["split"] == "heldout", "subject"])
    assert sorted(heldout) == list(range(1, len(patients) + 1)), "each patient is held out by one of the parts"


def test_the_competition_has_its_published_split_and_a_fold_validates():
    for patients, published in ((47, True), (100, False)):
        index = split_patients(labelled({subject: [0, 1] for subject in range(1, patients + 1)}), 0.25, 5, seed=3)
        assert (set(index.loc[index["split"] == "heldout", "subject"]) == set(range(36, 48))) == published
    index = labelled({1: [1, 0], 2: [1], 3: [0], 4: [1]})
    index = index.assign(split=["train"] * 4 + ["heldout"], fold=[0, 0, 1, 2, -1])
    train, validation = split_fold(index, 0)
    assert set(train["subject"]) == {2, 3} and set(validation["subject"]) == {1}
    with pytest.raises(InputError, match=r"fold: .*to validate on, found 2: 1 frames, none with a nerve.*: \[0, 1\]"):
        split_fold(index, 2)
    for share, folds, message in ((0.3, 5, "folds: .*found 5 groups and 2 patients"), (0.5, 2, "heldout_share: exp")):
        with pytest.raises(InputError, match=message):
            split_patients(index, share, folds, seed=0)


def test_a_batch_is_standardised_and_holds_the_share_of_nerve_below_each_pixel(frames):
    row = frames.index.loc[frames.index["has_nerve"] == 1, "row"].iloc[0]
    batch = FrameSet(frames, [0, row, row], (42, 58)).__getitems__([2, 0])
    assert batch["has_nerve"].tolist() == [1.0, frames.index["has_nerve"][0]] and batch["position"].tolist() == [2, 0]
    share = frames.masks[row].reshape(42, 10, 58, 10).mean(axis=(1, 3))
    np.testing.assert_allclose(batch["mask"][0, 0], share, atol=0.005)
    std, mean = torch.std_mean(batch["image"], dim=(1, 2, 3), correction=0)
    assert mean.tolist() == pytest.approx([0, 0], abs=1e-5) and std.tolist() == pytest.approx([1, 1], abs=1e-3)
    assert (to_input(GREY[None]) == 0).all()


def test_no_batch_has_a_single_frame_and_processes_share_the_frames(frames):
    def order(batch_size, **process):
        loader = train_loader(FrameSet(frames, np.arange(9), (12, 16)), batch_size, seed=1, **process)
        return [sorted(batch["position"].tolist()) for batch in loader]

    halves = [order(2, processes=2, process=process) for process in (0, 1)]
    assert [len(batch) for batch in order(4)] == [4, 4]
    assert [sorted(sum(batches, [])) for batches in zip(*halves, strict=True)] == order(4)


def test_augmentation_moves_the_mask_with_the_image(frames):
    rows = frames.index.loc[frames.index["has_nerve"] == 1, "row"][:4]
    mask = FrameSet(frames, rows, (48, 64)).__getitems__([0, 1, 2, 3])["mask"]
    batch = Augmentation()({"image": mask.clone(), "mask": mask.clone()})  # the mask itself is the image
    image, moved = batch["image"] > 0.5, batch["mask"] > 0.5
    assert 2 * (image & moved).sum() / (image.sum() + moved.sum()) > 0.9
    assert not torch.equal(batch["mask"], mask)
