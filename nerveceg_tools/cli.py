"""The command line: `nerveceg COMMAND` or `python -m nerveceg_tools COMMAND`.

Each command is a function below, whose docstring is its help. It imports what it needs by itself, so that `--help` is
quick and `doctor` works where packages are missing.
"""

import argparse
import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from nerveceg_lib import __version__
from nerveceg_lib.runtime.errors import InputError, StorageError, at_least
from nerveceg_lib.runtime.process import cores
from nerveceg_tools import import_commands


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 (failed notebook, full disk), 2 (bad input) or 130 (stopped)."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # schedulers end a job so: treat it like Ctrl-C
    try:
        return options.command(options) or 0
    except (InputError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except ModuleNotFoundError as error:
        fix = "`make setup` installs it into .venv; use .venv/bin/nerveceg"
        print(f"error: {error.name} is not installed for {sys.executable}; {fix}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: expected a path that can be used, found: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # else it reports the cell that nobody waits for
        print("interrupted; run the same command again to continue (run and fit: with --resume)", file=sys.stderr)
        return 130


def run(options: Namespace) -> int:
    """Run the notebooks in order with papermill.

    examples:
      nerveceg run
      nerveceg run --profile kaggle -p data_dir ~/data/nerve -p segmenter.epochs 40 --resume
      nerveceg run --only 04,06 -p inference.gate fused
    """
    from nerveceg_lib.runtime.io import read_json
    from nerveceg_tools.run import NotebookFailed, run

    try:
        folder = run(options.profile, dict(options.overrides), options.only, options.resume, options.verbosity)
    except NotebookFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    print(f"\nrun folder: {folder}")
    metrics = read_json(folder / "metrics.json")
    score = metrics.get("04_two_stage_inference", {})
    if "score_low" in score:
        print("score:      {score:.3f} ({score_low:.3f} to {score_high:.3f}) on held-out patients".format(**score))
        print("in comparison: all masks empty {all_empty:.3f}, behind an oracle gate {oracle_gate:.3f}".format(**score))
        if "clean_score" in score:
            clean = "clean frames: {clean_score:.3f} ({clean_score_low:.3f} to {clean_score_high:.3f})"
            print(f"{clean}, all masks empty {{clean_all_empty:.3f}}".format(**score))
        if score["tpr"] == score["fpr"] == 0:
            print("the gate kept no mask, so the score is that of all masks empty")
        if (patients := score.get("patients", 6)) < 6:  # older releases did not count them
            print(f"only {patients} patients are held out, which says little: see docs/recipes.md for all of them")
        print(f"look at it: {os.path.relpath(sys.executable)} -m nerveceg_tools report {folder.name}")
    if metrics.get("06_submission_rle", {}).get("rows"):  # data sets without test frames have nothing to submit
        print(f"submission: {folder / '06_submission_rle' / 'submission.csv'}")
    return 0


def fit(options: Namespace) -> None:
    """Train one network of a run without papermill, on many devices.

    It runs the notebook's own cells up to the training. Notebook 1 must have run before.

    examples:
      nerveceg fit segmenter --profile paper
      torchrun --nproc-per-node 2 -m nerveceg_tools fit segmenter -p devices 2
    """
    from nerveceg_tools.run import fit

    fit(options.network, options.profile, dict(options.overrides), options.resume)


def report(options: Namespace) -> None:
    """Write a run as one static site, to be opened in a browser.

    It shows the score, pictures, the notebooks, and tables of the held-out patients and frames. The runs of a sweep
    over seeds or held-out parts are pooled.

    examples:
      nerveceg report demo
      nerveceg report real --masks ultrasam.csv
      nerveceg report best --against demo
      nerveceg report mine-all
    """
    from nerveceg_tools.report import write_report

    print(f"wrote {write_report(options.run, options.masks, options.against)}")


def jupyter(options: Namespace) -> int:
    """Open the notebooks of a run in JupyterLab, with the run's parameters.

    examples:
      nerveceg jupyter real
      nerveceg jupyter real --no-browser --port 9999
    """
    from nerveceg_tools.explore import open_run

    return open_run(options.run, options.jupyterlab)


def predict(options: Namespace) -> None:
    """Segment a folder of frames with the networks of a run.

    examples:
      nerveceg predict ~/frames ~/masks --run demo
      nerveceg predict ~/frames ~/masks --workers 2
    """
    from nerveceg_tools.cluster import connect
    from nerveceg_tools.predict import predict

    with connect(options.scheduler, options.workers) as client:
        print(f"wrote {predict(options.frames, options.out, options.run, options.precision, client)}")


def explain(options: Namespace) -> None:
    """Show what the networks of a run look at in one frame.

    The picture shows the frame with what both stages and the gate say, the predicted outline, and one map per method.

    examples:
      nerveceg explain frame.png --run demo
      nerveceg explain frame.png --run demo --method grad-cam,score-cam,lrp --out maps.png
    """
    from nerveceg_tools.explain import explain_frame

    out = options.out or Path(f"{options.frame.stem}-explained.png")
    print(explain_frame(options.frame, out, options.run, options.method.split(",")))
    print(f"wrote {out}")


def sweep(options: Namespace) -> int:
    """Run a grid of parameters on Dask workers.

    examples:
      nerveceg sweep params/sweeps/losses.yaml --workers 2
      nerveceg sweep grid.yaml --scheduler tcp://10.0.0.1:8786
    """
    from nerveceg_lib.runtime.folders import artefact_root
    from nerveceg_tools.cluster import connect
    from nerveceg_tools.sweep import read_sweep, run_sweep

    at_least(1, **{"--workers": options.workers})
    sweep = read_sweep(options.grid)
    print(f"{len(sweep.points)} runs", flush=True)
    with connect(options.scheduler, options.workers) as client:
        table = run_sweep(sweep, client)
    print(f"wrote {artefact_root() / sweep.name / 'results.csv'}")
    return int((table["status"] == "failed").any())


def phantom(options: Namespace) -> None:
    """Write a synthetic data set in competition layout, by default as large as the competition's.

    examples:
      nerveceg phantom ~/data/phantom
      nerveceg phantom small --patients 8 --frames-per-patient 6 --test-frames 10
      nerveceg phantom shortcut --caliper-share 0.55 0.02
    """
    from nerveceg_lib.runtime.io import storing
    from nerveceg_tools.phantom import write_phantom

    with storing(options.out):
        write_phantom(**{name: value for name, value in vars(options).items() if name != "command"})
    print(f"wrote {options.out}")


def kaggle(options: Namespace) -> None:
    """Write folders for `kaggle kernels push`: the package and each notebook.

    Building the package takes the network or a cache of pip's. The command prints what to push, in order.

    examples:
      nerveceg kaggle yourname kernels --profile kaggle
    """
    from nerveceg_tools.kaggle import write_kernels

    print("\n".join(write_kernels(options.user, options.out, options.profile, dict(options.overrides))))


def doctor(options: Namespace) -> int:
    """Describe this machine, installation and data, and say what is missing.

    examples:
      nerveceg doctor
      nerveceg doctor ~/data/nerve
    """
    from nerveceg_tools.doctor import examine

    lines, faults = examine(options.data)
    print("\n".join(lines + [f"missing: {fault}" for fault in faults] if faults else [*lines, "nothing is missing"]))
    return 2 if faults else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    main_parser = argparse.ArgumentParser(
        prog="nerveceg",
        description="Two-stage ultrasound nerve segmentation: run the notebooks, and everything around them.",
        epilog="`nerveceg COMMAND --help` explains a command with examples. `python -m nerveceg_tools` is the same.",
    )
    main_parser.add_argument("--version", action="version", version=f"nerveceg {__version__}")
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")
    _add_runs(commands)
    _add_clusters(commands)
    _add_data(commands)
    return main_parser


def _command(commands, function: Callable, parents=()) -> Callable:
    """Add a command with the function's docstring as its help, and return the method that adds its arguments."""
    summary, _, details = (function.__doc__ or "").partition("\n\n")
    sub_parser = commands.add_parser(
        function.__name__.replace("_", "-"),
        parents=parents,
        help=f"{summary[0].lower()}{summary[1:-1]}",
        description=summary,
        epilog="\n".join(line.removeprefix("    ") for line in details.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub_parser.set_defaults(command=function)
    return sub_parser.add_argument


def _add_runs(commands) -> None:
    parameters = argparse.ArgumentParser(add_help=False)
    add = parameters.add_argument
    add("--profile", default="demo", help="a file in params/ or another YAML file (default: demo, the notebooks' own)")
    text = "set a parameter, such as `-p segmenter.epochs 4` or `-p seed 1`; may be repeated"
    add("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="overrides", help=text)
    resume = argparse.ArgumentParser(add_help=False)
    resume.add_argument("--resume", action="store_true", help="skip finished notebooks, continue interrupted training")

    add = _command(commands, run, parents=[parameters, resume])
    add("--only", default="", metavar="03,04", help="run only these notebooks")
    add("-q", "--quiet", action="store_const", dest="verbosity", const=-1, default=0, help="one line per notebook")
    add("-v", "--verbose", action="store_const", dest="verbosity", const=1, help="also all warnings of libraries")
    add = _command(commands, fit, parents=[parameters, resume])
    add("network", choices=("classifier", "segmenter"))
    add = _command(commands, report)
    add("run", help="name of a run or a sweep, such as demo")
    add("--masks", type=Path, nargs="+", default=[], help="tables of other systems' masks; see `import-masks`")
    add("--against", default="", metavar="RUN", help="another run on the same data, to compare with frame by frame")
    add = _command(commands, jupyter)
    add("run", help="name of a run, such as demo")
    add("jupyterlab", nargs=argparse.REMAINDER, metavar="...", help="options of JupyterLab")
    add = _command(commands, explain)
    add("frame", type=Path, help="a frame (PNG, TIFF, JPEG, BMP) of any size")
    add("--run", default="demo", help="run whose networks are explained (default: demo)")
    methods = "grad-cam,score-cam,layer-cam,guided-backpropagation,integrated-gradients,lrp"
    add("--method", default=methods, help=f"comma-separated methods of notebook 5 (default: {methods})")
    add("--out", type=Path, help="the PNG to write (default: FRAME's name with -explained.png, in this folder)")
    add = _command(commands, kaggle, parents=[parameters])
    add("user", help="your name in Kaggle's addresses")
    add("out", type=Path, help="a new or empty folder")


def _add_clusters(commands) -> None:
    cluster = argparse.ArgumentParser(add_help=False)
    cluster.add_argument("--scheduler", default="", help="address of a Dask cluster with the same file system")

    add = _command(commands, sweep, parents=[cluster])
    add("grid", type=Path, help="YAML file, such as params/sweeps/losses.yaml")
    add("--workers", type=int, default=cores(), help="local Dask workers (default: one per core)")
    add = _command(commands, predict, parents=[cluster])
    add("frames", type=Path, help="folder of frames (PNG, TIFF, JPEG, BMP) of any size")
    add("out", type=Path, help="folder for masks/ and predictions.csv; run the same command again to continue there")
    add("--run", default="demo", help="run whose networks and gate are used (default: demo)")
    add("--precision", default="auto", help="fp32, bf16 or auto (default: auto)")
    add("--workers", type=int, default=0, help="local Dask workers (default: this process only)")


def _add_data(commands) -> None:
    add = _command(commands, phantom)
    add("out", type=Path, help="a new or empty folder")
    add("--patients", type=int, default=47, help="patients of the training set (default: 47)")
    add("--frames-per-patient", type=int, default=120, help="training frames per patient (default: 120)")
    add("--test-frames", type=int, default=5508, help="test frames, of other patients (default: 5508)")
    add("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    add("--difficulty", default="medium", help="easy, medium or hard (default: medium)")
    add("--contradictory", type=float, default=0.03, help="share of wrong labels (default: 0.03)")
    text = "shares of the frames with and without a nerve that show an examiner's calipers (default: 0 0)"
    add("--caliper-share", type=float, nargs=2, default=(0.0, 0.0), metavar=("NERVE", "NONE"), help=text)
    import_commands.add_to(commands, _command)
    add = _command(commands, doctor)
    add("data", nargs="?", default="auto", help="a folder in competition layout (default: Kaggle's mount)")
