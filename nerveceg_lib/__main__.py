"""Command line: `python -m nerveceg_lib COMMAND`."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from nerveceg_lib import __version__
from nerveceg_lib.errors import InputError, StorageError, at_least
from nerveceg_lib.runtime import cores


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (failed notebook, full disk), 2 (bad input) or 130 (stopped)."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # schedulers' way to say Ctrl-C: clean up, then end
    try:
        return options.command(options) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: expected a path that can be used, found: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # else it reports the cell that nobody waits for
        print("interrupted; the same command goes on from here (run and fit: with --resume)", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nerveceg_lib",
        description="Two-stage ultrasound nerve segmentation: run the notebooks, and what goes around them.",
        epilog="Installed, it is called `nerveceg` too. COMMAND --help explains a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"nerveceg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_runs(commands)
    _add_many(commands)
    _add_data(commands)
    doctor = _command(
        commands, "doctor", _doctor, "say what this machine and installation are like, and what is missing",
        "doctor", "doctor ~/data/ultrasound-nerve-segmentation",
    )  # fmt: skip
    doctor.add_argument("data", nargs="?", default="auto", help="a competition folder (default: Kaggle's mount)")
    return parser


def _command(commands, name: str, does: Callable, text: str, *examples: str, parents=(), more: str = ""):
    """A sub-command: `text` is its line in the list of all; `more` and the examples stand in its own help."""
    parser = commands.add_parser(
        name,
        parents=list(parents),
        help=text,
        description=f"{text[0].upper()}{text[1:]}. {more}".strip(),
        epilog="\n".join(["examples:", *(f"  python -m nerveceg_lib {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=does)
    return parser


def _add_runs(commands) -> None:
    parameters = argparse.ArgumentParser(add_help=False)
    parameters.add_argument("--profile", default="demo", help="a file in params/, or a YAML file (default: demo)")
    parameters.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="overrides",
        help="set a parameter of the notebooks; may be given again",
    )  # fmt: skip
    parameters.add_argument("--resume", action="store_true", help="skip finished stages, go on from checkpoints")

    run = _command(
        commands, "run", _run, "run the notebooks in order with papermill",
        "run", "run --profile kaggle -p data_dir ~/data/nerve -p run mine --resume",
        "run --only 04,06 -p gate_kind fused",
        parents=[parameters],
    )  # fmt: skip
    run.add_argument("--only", default="", metavar="03,04", help="run only these notebooks")
    loudness = run.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_const", dest="loudness", const=-1, help="a line a notebook")
    spoken = "also what notebooks write to stderr: progress within long cells, and libraries' warnings"
    loudness.add_argument("-v", "--verbose", action="store_const", dest="loudness", const=1, help=spoken)
    run.set_defaults(loudness=0)

    fit = _command(
        commands, "fit", _fit, "train one network of a run without its notebook, on many devices",
        "fit segmenter --profile paper",
        parents=[parameters],
        more="Notebook 1 must have run. It is what torchrun and SLURM start:\n"
        "torchrun --nproc-per-node 2 -m nerveceg_lib fit segmenter -p devices 2",
    )  # fmt: skip
    fit.add_argument("stage", choices=("classifier", "segmenter"))

    report = _command(
        commands, "report", _report, "write a run as one static site, to be opened in a browser", "report demo",
        more="Score, pictures, notebooks, and a table of every held-out frame to sort and filter.",
    )  # fmt: skip
    report.add_argument("run", help="name of a run, such as demo")


def _add_many(commands) -> None:
    cluster = argparse.ArgumentParser(add_help=False)
    cluster.add_argument("--scheduler", default="", help="address of a Dask cluster with the same file system")

    sweep = _command(
        commands, "sweep", _sweep, "run a grid of parameters on Dask workers",
        "sweep params/sweeps/losses.yaml --workers 2", "sweep grid.yaml --scheduler tcp://10.0.0.1:8786",
        parents=[cluster],
    )  # fmt: skip
    sweep.add_argument("grid", type=Path, help="YAML file, such as params/sweeps/losses.yaml")
    sweep.add_argument("--workers", type=int, default=cores(), help="local Dask workers (default: one a core)")
    sweep.add_argument("--metric", default="", help="figure to draw, e.g. 03.dice_positives (default: the score)")

    table = _command(
        commands, "bias-table", _bias_table, "join the results of notebook 7 over the runs of a sweep",
        "bias-table params/sweeps/bias_grid.yaml notebooks/tables/bias_grid",
        more="Writes what notebook 7 draws: OUT.csv (arms, intervals) and, of one setting, OUT-reliability.csv.",
    )  # fmt: skip
    table.add_argument("grid", type=Path, help="YAML file of a finished sweep, such as params/sweeps/bias_grid.yaml")
    table.add_argument("out", type=Path, help="such as notebooks/tables/bias_grid")

    predict = _command(
        commands, "predict", _predict, "segment any folder of frames with the networks of a run",
        "predict ~/frames ~/masks --run demo", "predict ~/frames ~/masks --workers 2 --flip",
        parents=[cluster],
    )  # fmt: skip
    predict.add_argument("frames", type=Path, help="folder of 8-bit grey TIFF or PNG files, 580x420")
    predict.add_argument("out", type=Path, help="folder for masks/ and predictions.csv; the same command goes on there")
    predict.add_argument("--run", default="demo", help="run whose networks and gate are used (default: demo)")
    predict.add_argument("--gate-from", default="classifier", help="classifier or segmenter (default: classifier)")
    predict.add_argument("--precision", default="auto", help="fp32, bf16 or auto (default: auto)")
    predict.add_argument("--flip", action="store_true", help="average with the mirrored frame")
    predict.add_argument("--workers", type=int, default=0, help="local Dask workers (default: this process alone)")


def _add_data(commands) -> None:
    phantom = _command(
        commands, "phantom", _phantom, "write a synthetic data set in competition layout",
        "phantom ~/data/phantom", "phantom small --subjects 8 --frames-per-subject 6 --test-frames 10",
        more="As large as the competition's, unless told otherwise.",
    )  # fmt: skip
    phantom.add_argument("out", type=Path, help="a new or empty folder")
    phantom.add_argument("--subjects", type=int, default=47, help="patients (default: 47)")
    phantom.add_argument("--frames-per-subject", type=int, default=120, help="training frames of each (default: 120)")
    phantom.add_argument("--test-frames", type=int, default=5508, help="of other patients (default: 5508)")
    phantom.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    phantom.add_argument("--difficulty", default="medium", help="easy, medium or hard (default: medium)")
    phantom.add_argument("--contradictory", type=float, default=0.03, help="share of wrong labels (default: 0.03)")
    phantom.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")

    frames = _command(
        commands, "import-frames", _import_frames, "copy your own frames and masks into the competition layout",
        "import-frames scans labels ~/data/mine",
        "import-frames scans labels ~/data/mine --subject 'case(\\d+)'",
        more="A mask is found by its frame's name, with or without _mask behind it.",
    )  # fmt: skip
    frames.add_argument("images", type=Path, help="folder of frames (PNG, TIFF, JPEG, BMP), also in folders below")
    frames.add_argument("masks", type=Path, help="folder of masks laid out like the frames; may be the same folder")
    frames.add_argument("out", type=Path, help="a new or empty folder, for `run -p data_dir`")
    number = "regular expression whose group is the patient's number in a frame's path (default: the first number)"
    frames.add_argument("--subject", default=r"(\d+)", help=number)

    usgra = _command(
        commands, "import-usgra", _import_usgra, "cut USGRA-seg into the competition layout",
        "import-usgra download ~/data/usgra", "import-usgra ~/Downloads/USGRA-seg ~/data/usgra",
    )  # fmt: skip
    usgra.add_argument("source", help="folder with images/ and masks/, or `download`")
    usgra.add_argument("destination", type=Path, help="a new or empty folder")
    usgra.add_argument("--seed", type=int, default=0, help="of the windows cut (default: 0)")


def _run(options: argparse.Namespace) -> int:
    from nerveceg_lib.paths import STAGES, STUDIES, show
    from nerveceg_lib.runner import StageFailed, run

    only = [number for number in options.only.split(",") if number]
    try:
        folder = run(options.profile, dict(options.overrides), only, options.resume, options.loudness)
    except StageFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return failure.exit_code
    _print_summary(folder, [show(folder / f"{stage}.ipynb") for stage in (*STAGES, *STUDIES)])
    return 0


def _fit(options: argparse.Namespace) -> None:
    from nerveceg_lib.jobs import fit
    from nerveceg_lib.runner import resolve_parameters

    chosen, _ = resolve_parameters(options.profile, dict(options.overrides))
    fit(options.stage, chosen, options.resume)


def _sweep(options: argparse.Namespace) -> int:
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


def _bias_table(options: argparse.Namespace) -> None:
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


def _predict(options: argparse.Namespace) -> None:
    from nerveceg_lib.cluster import connect
    from nerveceg_lib.predict import predict

    how = (options.run, options.gate_from, options.precision, options.flip)
    with connect(options.scheduler, options.workers) as client:
        print(f"wrote {predict(options.frames, options.out, *how, client=client)}")


def _print_summary(folder: Path, notebooks: list[str]) -> None:
    from nerveceg_lib.files import read_json

    metrics = read_json(folder / "metrics.json")
    print(f"\nrun folder: {folder}")
    print("notebooks:  " + ", ".join(path for path in notebooks if (folder.parent / path).exists()))
    for stage, figures in metrics.items():
        print(f"{stage}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    if (submission := folder / "06_submission_rle" / "submission.csv").exists():
        print(f"submission: {submission}")


def _report(options: argparse.Namespace) -> None:
    from nerveceg_lib.report import write_report

    print(f"wrote {write_report(options.run)}")


def _doctor(options: argparse.Namespace) -> int:
    from nerveceg_lib.doctor import examine

    lines, faults = examine(options.data)
    print("\n".join(lines))
    print("\n".join(f"missing: {fault}" for fault in faults) or "nothing is missing")
    return 2 if faults else 0


def _import_frames(options: argparse.Namespace) -> None:
    from nerveceg_lib.data.own import import_frames

    print(import_frames(options.images, options.masks, options.out, options.subject))


def _phantom(options: argparse.Namespace) -> None:
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


def _import_usgra(options: argparse.Namespace) -> None:
    from nerveceg_lib.data.usgra import import_usgra

    print(import_usgra(options.source, options.destination, seed=options.seed))


if __name__ == "__main__":
    sys.exit(main())
