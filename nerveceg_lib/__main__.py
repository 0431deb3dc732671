"""Command line: `python -m nerveceg_lib COMMAND`: what can be said, and how mistakes are answered."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from nerveceg_lib import __version__, commands
from nerveceg_lib.errors import InputError, StorageError
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
    group = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_runs(group)
    _add_many(group)
    _add_data(group)
    doctor = _command(
        group, "doctor", "say what this machine and installation are like, and what is missing",
        "doctor", "doctor ~/data/ultrasound-nerve-segmentation",
    )  # fmt: skip
    doctor.add_argument("data", nargs="?", default="auto", help="a competition folder (default: Kaggle's mount)")
    return parser


def _command(group, name: str, text: str, *examples: str, parents=(), more: str = "") -> argparse.ArgumentParser:
    """A sub-command: `text` is its line in the list of all; `more` and the examples stand in its own help."""
    parser = group.add_parser(
        name,
        parents=list(parents),
        help=text,
        description=f"{text[0].upper()}{text[1:]}. {more}".strip(),
        epilog="\n".join(["examples:", *(f"  python -m nerveceg_lib {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=getattr(commands, name.replace("-", "_")))
    return parser


def _add_runs(group) -> None:
    parameters = argparse.ArgumentParser(add_help=False)
    parameters.add_argument("--profile", default="demo", help="a file in params/, or a YAML file (default: demo)")
    parameters.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="overrides",
        help="set a parameter of the notebooks; may be given again",
    )  # fmt: skip
    resuming = argparse.ArgumentParser(add_help=False)
    resuming.add_argument("--resume", action="store_true", help="skip finished stages, go on from checkpoints")

    run = _command(
        group, "run", "run the notebooks in order with papermill",
        "run", "run --profile kaggle -p data_dir ~/data/nerve -p run mine --resume",
        "run --only 04,06 -p gate_kind fused",
        parents=[parameters, resuming],
    )  # fmt: skip
    run.add_argument("--only", default="", metavar="03,04", help="run only these notebooks")
    loudness = run.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_const", dest="loudness", const=-1, help="a line a notebook")
    spoken = "also every warning of libraries"
    loudness.add_argument("-v", "--verbose", action="store_const", dest="loudness", const=1, help=spoken)
    run.set_defaults(loudness=0)

    fit = _command(
        group, "fit", "train one network of a run without its notebook, on many devices",
        "fit segmenter --profile paper",
        parents=[parameters, resuming],
        more="Notebook 1 must have run. It is what torchrun and SLURM start:\n"
        "torchrun --nproc-per-node 2 -m nerveceg_lib fit segmenter -p devices 2",
    )  # fmt: skip
    fit.add_argument("stage", choices=("classifier", "segmenter"))

    report = _command(
        group, "report", "write a run as one static site, to be opened in a browser", "report demo",
        more="Score, pictures, notebooks, and a table of every held-out frame to sort and filter.",
    )  # fmt: skip
    report.add_argument("run", help="name of a run, such as demo")

    kaggle = _command(
        group, "kaggle", "write folders for `kaggle kernels push`: the package and every notebook",
        "kaggle yourname kernels --profile kaggle",
        parents=[parameters],
        more="Needs the network or a cache of pip's, to build the package. Prints what to push, in order.",
    )  # fmt: skip
    kaggle.add_argument("user", help="your name in Kaggle's addresses")
    kaggle.add_argument("out", type=Path, help="a new or empty folder")


def _add_many(group) -> None:
    cluster = argparse.ArgumentParser(add_help=False)
    cluster.add_argument("--scheduler", default="", help="address of a Dask cluster with the same file system")

    sweep = _command(
        group, "sweep", "run a grid of parameters on Dask workers",
        "sweep params/sweeps/losses.yaml --workers 2", "sweep grid.yaml --scheduler tcp://10.0.0.1:8786",
        parents=[cluster],
    )  # fmt: skip
    sweep.add_argument("grid", type=Path, help="YAML file, such as params/sweeps/losses.yaml")
    sweep.add_argument("--workers", type=int, default=cores(), help="local Dask workers (default: one a core)")
    sweep.add_argument("--metric", default="", help="figure to draw, e.g. 03.dice_positives (default: the score)")

    table = _command(
        group, "bias-table", "join the results of notebook 7 over the runs of a sweep",
        "bias-table params/sweeps/bias_grid.yaml nerveceg_lib/tables/bias_grid",
        more="Writes what notebook 7 draws: OUT.csv (arms, intervals) and, of one setting, OUT-reliability.csv.",
    )  # fmt: skip
    table.add_argument("grid", type=Path, help="YAML file of a finished sweep, such as params/sweeps/bias_grid.yaml")
    table.add_argument("out", type=Path, help="such as nerveceg_lib/tables/bias_grid")

    predict = _command(
        group, "predict", "segment any folder of frames with the networks of a run",
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


def _add_data(group) -> None:
    phantom = _command(
        group, "phantom", "write a synthetic data set in competition layout",
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
        group, "import-frames", "copy your own frames and masks into the competition layout",
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
        group, "import-usgra", "cut USGRA-seg into the competition layout",
        "import-usgra download ~/data/usgra", "import-usgra ~/Downloads/USGRA-seg ~/data/usgra",
    )  # fmt: skip
    usgra.add_argument("source", help="folder with images/ and masks/, or `download`")
    usgra.add_argument("destination", type=Path, help="a new or empty folder")
    usgra.add_argument("--seed", type=int, default=0, help="of the windows cut (default: 0)")


if __name__ == "__main__":
    sys.exit(main())
