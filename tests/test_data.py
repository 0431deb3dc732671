"""Reading frames, the index, the patient split, the cache and the audit."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerveceg_lib.data import audit, cache, frames, index, layout, source
from nerveceg_lib.data.dataset import FrameSet, augment, augmentation, balanced, to_input, train_loader
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import UNFINISHED

GREY = np.full((420, 580), 90, np.uint8)


@pytest.fixture
def data(phantom, tmp_path):
    return shutil.copytree(phantom, tmp_path / "data")


def test_bad_frame_can_be_skipped_and_is_listed(data, tmp_path):
    layout.image_path(data, 1, 1).write_bytes(b"")
    opened = cache.open_cache(data, tmp_path / "cache", "skip", progress=False)
    assert opened.skipped["path"].tolist() == ["train/1_1.tif"]
    assert len(opened.index) == 6 * 8 + 6 - 1
    last = opened.index[opened.index["set"] == "train"].iloc[-1]
    expected = frames.read_mask(layout.mask_path(data, last["subject"], last["image"]))
    assert np.array_equal(opened.masks[last["row"]], expected)


def test_unknown_on_bad_frame_is_refused(data, tmp_path):
    with pytest.raises(InputError, match="on_bad_frame.*'ignore'"):
        cache.open_cache(data, tmp_path, "ignore")


def test_cache_holds_every_frame_and_mask(phantom, tmp_path):
    opened = cache.open_cache(phantom, tmp_path / "cache", progress=False)
    assert opened.index["set"].value_counts().to_dict() == {"train": 48, "test": 6}
    assert opened.index["path"].is_unique
    for row in opened.index.itertuples():
        assert np.array_equal(opened.frames[row.row], frames.read_frame(phantom / row.path))
        if row.set == "train":
            mask = frames.read_mask(phantom / row.mask_path)
            assert np.array_equal(opened.masks[row.row], mask)
            assert (row.presence, row.area) == (int(mask.any()), int(mask.sum()))
    positive = opened.index[opened.index["presence"] == 1].iloc[0]
    rows, columns = np.nonzero(opened.masks[positive["row"]])
    assert positive["centroid_x"] == pytest.approx(columns.mean())
    assert positive["centroid_y"] == pytest.approx(rows.mean())


def test_fresh_cache_is_reused_and_a_changed_file_noticed(data, tmp_path):
    folder = tmp_path / "cache"
    cache.open_cache(data, folder, progress=False)
    built = (folder / "manifest.json").stat().st_mtime_ns
    layout.image_path(data, 1, 1).touch()
    cache.open_cache(data, folder, progress=False)
    assert (folder / "manifest.json").stat().st_mtime_ns == built, "same content with another time is no change"
    layout.write_frame(layout.image_path(data, 1, 1), GREY)
    assert np.array_equal(cache.open_cache(data, folder, progress=False).frames[0], GREY)


def test_half_written_cache_is_rebuilt(data, tmp_path):
    folder = tmp_path / "cache"
    complete = cache.open_cache(data, folder, progress=False)
    first = np.array(complete.frames[0])
    (folder / "manifest.json").unlink()
    np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, (2, 2))
    with pytest.raises(InputError, match="no complete frame cache"):
        cache.load_cache(folder)
    assert np.array_equal(cache.open_cache(data, folder, progress=False).frames[0], first)


def test_new_frame_makes_the_cache_stale(data, tmp_path):
    cache.open_cache(data, tmp_path / "cache", progress=False)
    layout.write_frame(layout.image_path(data, 9, 1), GREY)
    layout.write_mask(layout.mask_path(data, 9, 1), np.zeros_like(GREY))
    assert 9 in set(cache.open_cache(data, tmp_path / "cache", progress=False).index["subject"])


def test_folder_without_frames_and_odd_names_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no frame found"):
        index.list_frames(tmp_path)
    layout.write_frame(tmp_path / "train" / "left_1.tif", GREY)
    with pytest.raises(InputError, match="left_1.tif: expected a frame named"):
        index.list_frames(tmp_path)


def labelled(presence_of):
    rows = [("train", s, i, int(p)) for s, column in presence_of.items() for i, p in enumerate(column)]
    return pd.DataFrame(rows, columns=["set", "subject", "image", "presence"])


def test_published_split_for_the_competition_patients():
    table = index.split_patients(labelled({s: [0, 1] for s in range(1, 48)}), 0.25, 5, seed=3)
    assert set(table.loc[table["split"] == "heldout", "subject"]) == set(range(36, 48))


def test_more_patients_than_the_competition_are_not_its_split():
    table = index.split_patients(labelled({s: [0, 1] for s in range(1, 101)}), 0.25, 5, seed=3)
    assert set(table.loc[table["split"] == "heldout", "subject"]) != set(range(36, 48))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=12, max_size=30), st.integers(0, 99))
def test_no_patient_is_ever_on_both_sides(patients, seed):
    table = index.split_patients(labelled(dict(enumerate(patients, start=1))), 0.25, 3, seed)
    assert table.groupby("subject")["split"].nunique().max() == 1
    assert table.groupby("subject")["fold"].nunique().max() == 1
    assert set(table["split"]) == {"train", "heldout"}
    assert set(table.loc[table["split"] == "train", "fold"]) <= {0, 1, 2}
    assert (table.loc[table["split"] == "heldout", "fold"] == -1).all()


def test_a_shared_patient_is_caught():
    table = labelled({1: [0, 1]}).assign(split=["train", "heldout"], fold=[0, -1])
    with pytest.raises(InputError, match=r"split: expected each patient in one split.*found \[1\] on both sides"):
        index.check_split(table)


def test_too_few_patients_and_bad_shares_are_refused():
    with pytest.raises(InputError, match="folds: .*found 5 groups and 2 patients"):
        index.split_patients(labelled({1: [0, 1], 2: [1, 0], 3: [0, 1]}), 0.3, 5, seed=0)
    with pytest.raises(InputError, match="heldout_share: expected"):
        index.split_patients(labelled({1: [0, 1]}), 0.9, 2, seed=0)


def test_audit_finds_planted_duplicates_and_contradictions(data, tmp_path):
    opened = cache.open_cache(data, tmp_path / "a", progress=False)
    positive = opened.index[opened.index["presence"] == 1].iloc[0]
    subject, frame = positive["subject"], np.array(opened.frames[positive["row"]])
    nudged = np.clip(frame.astype(int) + np.random.default_rng(0).integers(-3, 4, frame.shape), 0, 255)
    for image, pixels in ((101, frame), (102, nudged.astype(np.uint8))):
        layout.write_frame(layout.image_path(data, subject, image), pixels)
        layout.write_mask(layout.mask_path(data, subject, image), np.zeros_like(GREY))
    opened = cache.open_cache(data, tmp_path / "a", progress=False)
    of_subject = opened.index[opened.index["subject"] == subject].set_index("image")["row"]
    row, original = of_subject.to_dict(), of_subject[positive["image"]]
    duplicates = audit.exact_duplicates(opened)
    assert duplicates.to_dict("records") == [{"row": original, "other": row[101], "same_mask": False}]
    pairs = audit.contradictory_pairs(opened, similarity=0.995)
    assert {(original, row[101]), (original, row[102])} <= set(zip(pairs["row"], pairs["other"], strict=True))


def test_input_is_standardised_per_frame_and_constant_frames_are_zero():
    rng = np.random.default_rng(0)
    batch = to_input(np.stack([rng.integers(0, 256, (8, 9)), np.full((8, 9), 7)]).astype(np.uint8))
    assert batch.shape == (2, 1, 8, 9)
    assert batch[0].mean().abs() < 1e-5 and batch[0].std(correction=0) == pytest.approx(1, abs=1e-4)
    assert (batch[1] == 0).all()


def test_batches_depend_on_seed_and_epoch_alone_and_augmentation_moves_mask_with_image(phantom, tmp_path):
    opened = cache.open_cache(phantom, tmp_path / "c", progress=False)
    rows = opened.index.loc[opened.index["presence"] == 1, "row"].to_numpy()
    frame_set = FrameSet(opened, rows, (48, 64))
    loader, again = (train_loader(frame_set, 4, seed=1) for _ in range(2))
    again.sampler.set_epoch(1)
    first, other = next(iter(loader)), next(iter(again))
    assert not np.array_equal(first["image"], other["image"])
    again.sampler.set_epoch(0)
    assert np.array_equal(first["image"], next(iter(again))["image"])
    # the mask itself as image: both must land in the same place
    moved = augment(augmentation(), {"image": first["mask"].clone(), "mask": first["mask"].clone()})
    drawn, mask = moved["image"] > 0.5, moved["mask"] > 0.5
    overlap = 2 * (drawn & mask).sum() / (drawn.sum() + mask.sum())
    assert overlap > 0.9
    assert not np.array_equal(moved["mask"], first["mask"])


def test_manifest_is_json_with_a_hash_of_every_file(phantom, tmp_path):
    cache.open_cache(phantom, tmp_path / "c", progress=False)
    files = json.loads((tmp_path / "c" / "manifest.json").read_text())["files"]
    assert len(files) == 2 * 48 + 6
    assert all(len(record["blake2b"]) == 32 for record in files.values())


def test_phantom_is_made_once_and_a_half_made_one_thrown_away(root):
    options = {"subjects": 1, "frames_per_subject": 2, "test_frames": 1, "seed": 5, "progress": False}
    made = source.resolve_data("auto", **options)
    stamp = (made / "train_masks.csv").stat().st_mtime_ns
    assert source.resolve_data("auto", **options) == made
    assert (made / "train_masks.csv").stat().st_mtime_ns == stamp
    unfinished = root / (UNFINISHED + made.name)
    made.rename(unfinished)
    (unfinished / "train" / "9_9.tif").touch()
    assert not (source.resolve_data("auto", **options) / "train" / "9_9.tif").exists()


@pytest.mark.parametrize(
    "empty, nerve, times", [(8, 2, 4), (59, 41, 1), (61, 39, 2), (6, 3, 2), (2, 8, 1), (5, 5, 1), (0, 3, 1), (4, 0, 1)]
)
def test_balanced_repeats_the_frames_with_a_nerve_whole_times(empty, nerve, times):
    frames = pd.DataFrame({"presence": [0] * empty + [1] * nerve, "row": range(10, 10 + empty + nerve)})
    found = balanced(frames).value_counts("row")
    assert [found[row] for row in range(10, 10 + empty)] == [1] * empty
    assert [found[row] for row in range(10 + empty, 10 + empty + nerve)] == [times] * nerve
