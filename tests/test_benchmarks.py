"""The benchmark framework: arithmetic of a row, fair turns, and a baseline that does the same job. Nothing is timed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks import naive
from benchmarks.__main__ import main
from benchmarks.harness import alternate, in_fresh_process, paired_row, peak_mib, rate_row, report
from nerveceg_lib import rle
from nerveceg_lib.models import build_model

MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1))


def test_rate_row_by_hand():
    row = rate_row("x", "frames/s", 12, [6.0, 4.0, 12.0], [2.0, 2.0, 3.0], target=3, note="why")
    assert (row.baseline, row.figure) == (2, 6)  # of 2, 3, 1 and of 6, 6, 4
    assert (row.ratio, row.spread) == (3, (2, 4))  # of 3, 2, 4
    assert row.met
    assert row.note == "why"


@pytest.mark.parametrize(
    ("target", "rest", "met"),
    [
        (2.0, {}, True),
        (2.1, {}, False),
        (2.0, {"at_least": False}, True),
        (1.9, {"at_least": False}, False),
        (20, {"on_figure": True}, True),
        (21, {"on_figure": True}, False),
        (20, {"on_figure": True, "at_least": False}, True),
        (19, {"on_figure": True, "at_least": False}, False),
    ],
)
def test_met(target, rest, met):
    assert paired_row("x", "MiB", [10], [20], target=target, **rest).met is met


def test_rows_need_paired_rounds():
    with pytest.raises(ValueError):
        paired_row("x", "MiB", [10, 10], [20], target=1)


def test_alternate_takes_turns():
    calls = []
    seconds = alternate({name: lambda name=name: calls.append(name) for name in "ABC"}, repeats=3)
    assert "".join(calls) == "ABC" + "ABC" + "CBA" + "ABC"  # the first three are the warm-up
    assert {name: len(durations) for name, durations in seconds.items()} == {"A": 3, "B": 3, "C": 3}
    assert all(duration >= 0 for durations in seconds.values() for duration in durations)


def test_fresh_process(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.py").write_text("import json, sys\nprint('so far')\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "wrong.py").write_text("print('almost')\nraise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert in_fresh_process("small", "a", 2) == ["a", "2"]
    with pytest.raises(Exception, match="exit status 3"):
        in_fresh_process("wrong")
    assert "almost" in capsys.readouterr().out


def test_peak_memory_grows():
    before = peak_mib()
    assert np.ones(2**24).sum() and peak_mib() >= before > 1


def test_report(tmp_path, capsys):
    rows = [
        rate_row("quick | one", "frames/s", 10, [2.0], [1.0], target=1.5),
        rate_row("slow one", "frames/s", 10, [1.0], np.array([1.0]), target=1.5, note="memory"),
    ]
    report(rows, tmp_path / "new")
    stored = json.loads((tmp_path / "new" / "benchmarks.json").read_text())
    assert [(row["name"], row["ratio"], row["met"]) for row in stored["rows"]] == [
        ("quick | one", 2.0, True),
        ("slow one", 1.0, False),
    ]
    assert {"processor", "cores", "torch", "torch threads", "bf16 in hardware", "date"} <= set(stored["machine"])
    assert (
        "| quick \\| one | frames/s | 5 | 10 | 2.00 | 2.00 to 2.00 | >= 1.5 | met |"
        in (tmp_path / "new" / "benchmarks.md").read_text()
    )
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:3]] == ["met", "memory"]


def test_report_goes_to_the_artefact_root(root):
    report([rate_row("x", "frames/s", 1, [1.0], [1.0], target=1)])
    assert (root / "bench" / "benchmarks.json").is_file()


def test_unknown_subject_is_answered_with_the_names(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "'speed'" in (message := capsys.readouterr().err) and "'inference'" in message


@given(MASKS)
def test_naive_run_lengths_agree_with_ours(mask):
    text = rle.encode(mask)
    assert naive.run_lengths(mask) == text
    np.testing.assert_array_equal(naive.from_run_lengths(text, mask.shape), mask)


def test_naive_segmentation_of_a_folder(phantom, tmp_path):
    torch.manual_seed(0)
    classifier = build_model("efficientnet-b0", in_channels=3)
    segmenter = build_model("unet", in_channels=3, base_channels=4)
    files = sorted((phantom / "test").glob("*.tif"))[:3]
    found = naive.segment_folder(files, classifier, segmenter, tmp_path, size=(32, 48), threshold=0.0)
    assert list(found) == [file.stem for file in files]
    for name, (probability, text) in found.items():
        assert 0 < probability < 1
        png = cv2.imread(str(tmp_path / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(rle.decode(text) * 255, png)
    assert any(text for _, text in found.values())

    (closed := tmp_path / "closed").mkdir()
    found = naive.segment_folder(files, classifier, segmenter, closed, size=(32, 48), threshold=1.0)
    assert {text for _, text in found.values()} == {""} and not list(closed.iterdir())


def test_naive_training(phantom):
    torch.manual_seed(0)
    masks = sorted((phantom / "train").glob("*_mask.tif"))[:5]
    pairs = [(Path(str(mask).replace("_mask", "")), mask) for mask in masks]
    batches = naive.loader(pairs, size=(32, 48), batch=2)
    image, mask = next(iter(batches))
    assert image.shape == (2, 3, 32, 48) and mask.shape == (2, 1, 32, 48)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    model = build_model("unet", in_channels=3, base_channels=4)
    losses = naive.train_steps(model, torch.optim.Adam(model.parameters()), iter(batches), steps=2)
    assert len(losses) == 2 and np.isfinite(losses).all()
