"""What each command does; it imports what it alone needs itself, so that `--help` and mistakes are answered at once."""

import argparse
import sys
from pathlib import Path

from nerveceg_lib.errors import at_least


def run(options: argparse.Namespace) -> int:
    from nerveceg_lib import runner
    from nerveceg_lib.paths import STAGES, STUDIES, show

    only = [number for number in options.only.split(",") if number]
    try:
        folder = runner.run(options.profile, dict(options.overrides), only, options.resume, options.loudness)
    except runner.StageFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return failure.exit_code
    _print_summary(folder, [show(folder / f"{stage}.ipynb") for stage in (*STAGES, *STUDIES)])
    return 0


def fit(options: argparse.Namespace) -> None:
    from nerveceg_lib import jobs
    from nerveceg_lib.runner import resolve_parameters

    chosen, _ = resolve_parameters(options.profile, dict(options.overrides))
    jobs.fit(options.stage, chosen, options.resume)


def sweep(options: argparse.Namespace) -> int:
    from nerveceg_lib.cluster import connect
    from nerveceg_lib.paths import artefact_root
    from nerveceg_lib.sweep import read_sweep, run_sweep

    at_least(1, **{"--workers": options.workers})
    sweep = read_sweep(options.grid, options.metric)
    print(f"{len(sweep.points)} runs", flush=True)
    with connect(options.scheduler, options.workers) as client:
        table = run_sweep(sweep, client)
    print(f"wrote {artefact_root() / sweep.name / 'results.csv'}")
    return int((table["status"] == "failed").any())


def bias_table(options: argparse.Namespace) -> None:
    from nerveceg_lib import verdict
    from nerveceg_lib.files import write_csv
    from nerveceg_lib.paths import STUDIES, require, stage_dir
    from nerveceg_lib.sweep import read_sweep

    sweep = read_sweep(options.grid)
    stages = [stage_dir(sweep.run_of(point), STUDIES[0]) for point in sweep.points]
    frames = verdict.pooled([require(stage / "heldout.csv", f"the sweep {options.grid}") for stage in stages])
    write_csv(options.out.with_suffix(".csv"), verdict.summarise(frames).round(4))
    if frames.groupby(verdict.SETTING).ngroups == 1:
        write_csv(options.out.with_name(f"{options.out.stem}-reliability.csv"), verdict.reliability(frames).round(4))
    print(f"wrote {options.out.with_suffix('.csv')}")


def predict(options: argparse.Namespace) -> None:
    from nerveceg_lib import predict as folders
    from nerveceg_lib.cluster import connect

    how = (options.run, options.gate_from, options.precision, options.flip)
    with connect(options.scheduler, options.workers) as client:
        print(f"wrote {folders.predict(options.frames, options.out, *how, client=client)}")


def report(options: argparse.Namespace) -> None:
    from nerveceg_lib.report import write_report

    print(f"wrote {write_report(options.run)}")


def kaggle(options: argparse.Namespace) -> None:
    from nerveceg_lib.kaggle import write_kernels

    print("\n".join(write_kernels(options.user, options.out, options.profile, dict(options.overrides))))


def doctor(options: argparse.Namespace) -> int:
    from nerveceg_lib.doctor import examine

    lines, faults = examine(options.data)
    print("\n".join(lines))
    print("\n".join(f"missing: {fault}" for fault in faults) or "nothing is missing")
    return 2 if faults else 0


def import_frames(options: argparse.Namespace) -> None:
    from nerveceg_lib.data import own

    print(own.import_frames(options.images, options.masks, options.out, options.subject))


def phantom(options: argparse.Namespace) -> None:
    from nerveceg_lib.data.phantom_set import write_phantom
    from nerveceg_lib.files import storing

    with storing(options.out):
        write_phantom(
            options.out,
            subjects=options.subjects,
            frames_per_subject=options.frames_per_subject,
            test_frames=options.test_frames,
            seed=options.seed,
            difficulty=options.difficulty,
            contradictory=options.contradictory,
            workers=options.workers,
        )
    print(f"wrote {options.out}")


def import_usgra(options: argparse.Namespace) -> None:
    from nerveceg_lib.data import usgra

    print(usgra.import_usgra(options.source, options.destination, seed=options.seed))


def _print_summary(folder: Path, notebooks: list[str]) -> None:
    from nerveceg_lib.files import read_json

    metrics = read_json(folder / "metrics.json")
    print(f"\nrun folder: {folder}")
    print("notebooks:  " + ", ".join(path for path in notebooks if (folder.parent / path).exists()))
    for stage, figures in metrics.items():
        print(f"{stage}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    if "score_low" in (found := metrics.get("04_two_stage_inference", {})):
        low, high = found["score_low"], found["score_high"]
        print(f"score:      {found['score']:.3f} ({low:.3f} to {high:.3f}) on held-out patients")
        print(f"to compare: all masks empty {found['all_empty']:.3f}, behind a perfect gate {found['oracle_gate']:.3f}")
        print(f"look at it: python -m nerveceg_lib report {folder.name}")
    if (submission := folder / "06_submission_rle" / "submission.csv").exists():
        print(f"submission: {submission}")
