"""Which gate loses least if few patients tune it? Gates are judged on stored predictions of many networks, in minutes.

    python -m benchmarks.gates collect DATASET/SYSTEM/SPLIT=FILES ...
    python -m benchmarks.gates

The first command adds what networks predicted to the bank: `predictions.csv` of notebook 7, or `heldout.csv` of
notebook 4 with the `out_of_fold.csv` beside it. FILES is a pattern. Its files are runs that hold out different patients
of one split, so that the held-out patients of one run can tune the gate of another. The second command prints the prior
of the whole bank and writes `notebooks/results/gates.csv`.

Nothing here is trained, and no data set is judged with a prior that it has contributed to.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from glob import glob
from pathlib import Path

import numpy as np
import pandas as pd

from nerveceg_lib.inference.gate import EVIDENCE, GATES, PRIOR, AnyGate, fit_bayesian_gate, posterior
from nerveceg_lib.metrics import calibration_error, gated_scores, resampled_interval

BANK = Path(__file__).parent / "gate_bank.csv.gz"
RESULTS = Path(__file__).parent.parent / "notebooks" / "results" / "gates.csv"
RUN = ["dataset", "system", "split", "run"]
TRUTH = ["has_nerve", "mask_dice"]
FRAME = ["set", "subject", *TRUTH, *EVIDENCE["fused"], "soft_dice"]
Draw = tuple[dict, pd.DataFrame, pd.DataFrame]  # where it comes from, frames to tune a gate on, frames to judge it on
PATIENTS = (3, 5, 9, 18, 1000)  # that tune a gate; the last one stands for all
SHUFFLES = 5  # of the labels
WEAK = 2.0  # standard deviation of the weights in the fits that a prior is made of


def read_predictions(path: Path) -> pd.DataFrame:
    """Return what the networks of one run predicted for `validation` and `heldout` patients, as FRAME."""
    table = pd.read_csv(path)
    if path.name == "heldout.csv":
        tables = {"validation": pd.read_csv(path.with_name("out_of_fold.csv")), "heldout": table}
        table = pd.concat(tables, names=["set"]).reset_index("set")
    return table[FRAME]


def collect(sources: list[str]) -> None:
    """Add the runs of `sources` to the bank; a split that is there already is replaced."""
    parts = []
    for source in sources:
        name, _, pattern = source.partition("=")
        paths = sorted(glob(pattern))
        if name.count("/") != 2 or not paths:
            raise SystemExit(f"{source}: expected DATASET/SYSTEM/SPLIT=FILES, found {len(paths)} files")
        dataset, system, split = name.split("/")
        for run, path in enumerate(paths):
            table = read_predictions(Path(path)).assign(dataset=dataset, system=system, split=split, run=run)
            if dataset == "phantom":  # each has patients of its own
                table["subject"] = f"{split}-" + table["subject"].astype(str)
            parts.append(table)
    bank = pd.concat(parts, ignore_index=True)
    if BANK.exists():
        before = read_bank()
        replaced = pd.MultiIndex.from_frame(before[RUN[:3]]).isin(pd.MultiIndex.from_frame(bank[RUN[:3]]))
        bank = pd.concat([before[~replaced], bank])
    bank = bank[[*RUN, *FRAME]].sort_values(RUN, kind="stable")
    bank.to_csv(BANK, index=False, float_format="%.4g", compression={"method": "gzip", "mtime": 0})
    print(bank.groupby(RUN[:2]).agg({"run": "size", "has_nerve": "mean"}).rename(columns={"run": "frames"}).round(2))


def read_bank() -> pd.DataFrame:
    """Return the bank: one row per frame that a network has predicted, RUN and FRAME."""
    return pd.read_csv(BANK, dtype={"split": str, "subject": str})


def prior_of(bank: pd.DataFrame) -> np.ndarray:
    """Return the mean weights (3,) of the regressions that are fitted to each run of the bank alone."""
    return np.mean([posterior(run, np.zeros(3), WEAK)[0] for _, run in bank.groupby(RUN)], axis=0)


def shuffled(bank: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return the bank with the truth of each run's frames shuffled, so that no evidence says anything about it."""
    bank = bank.copy()
    for _, rows in bank.groupby([*RUN, "set"]):
        bank.loc[rows.index, TRUTH] = rng.permutation(rows[TRUTH].to_numpy())
    return bank


def draws(bank: pd.DataFrame, repeats: int, rng: np.random.Generator) -> Iterator[Draw]:
    """Yield draws of the patients that tune a gate, for each run and number of patients."""
    for key, runs in bank.groupby(RUN[:3]):
        for number, run in runs.groupby("run"):
            heldout = run[run["set"] == "heldout"]
            others = runs[(runs["run"] != number) & (runs["set"] == "heldout") & ~runs["subject"].isin(run["subject"])]
            pool = pd.concat([run[run["set"] == "validation"], others])
            subjects = pool["subject"].unique()
            for patients in PATIENTS:
                if len(subjects) < patients < 1000:
                    continue
                for draw in range(repeats if patients < 1000 else 1):
                    chosen = rng.choice(subjects, min(patients, len(subjects)), replace=False)
                    where = dict(zip(RUN, (*key, number), strict=True), patients=patients, draw=draw)
                    yield where, pool[pool["subject"].isin(chosen)], heldout


def scores(bank: pd.DataFrame, gates: dict[str, Callable[..., AnyGate]], repeats: int, seed: int) -> pd.DataFrame:
    """Return one row per draw: the mean score of each gate, and of drawing nothing, on the held-out patients."""
    rows = []
    for where, tuning, heldout in draws(bank, repeats, np.random.default_rng(seed)):
        has_nerve, mask_dice = heldout["has_nerve"].to_numpy(), heldout["mask_dice"].to_numpy()
        row = where | {"blank": 1 - has_nerve.mean()}
        for name, fit in gates.items():
            keep = fit(tuning, where["dataset"]).keep(heldout)
            row[name] = gated_scores(has_nerve, mask_dice, keep).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def compare(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return for each number of patients and gate what it loses against hindsight; every system weighs the same."""
    best_of_draw = table[names].max(axis=1)
    best_of_run = table.groupby([*RUN, "patients"])[names].transform("mean").max(axis=1)
    best_of_system = table.groupby([*RUN[:2], "patients"])[names].transform("mean").max(axis=1)
    weight = 1 / table.groupby([*RUN[:2], "patients"])["draw"].transform("size")
    rows = []
    for patients, drawn in table.groupby("patients"):
        mean = partial(np.average, weights=weight[drawn.index])
        for name in names:
            regret = {"system": best_of_system, "run": best_of_run, "draw": best_of_draw}
            row = {f"regret_{level}": mean((best - table[name])[drawn.index]) for level, best in regret.items()}
            lost = np.sort((best_of_run - table[name])[drawn.index])
            row["worst_tenth"] = lost[int(0.9 * len(lost)) :].mean()
            row["over_blank"] = mean(drawn[name] - drawn["blank"])
            rows.append({"patients": patients, "gate": name, "score": mean(drawn[name])} | row)
    return pd.DataFrame(rows)


def calibration(bank: pd.DataFrame, gate: Callable[..., AnyGate], patients: int) -> pd.DataFrame:
    """Return the expected calibration error of each system's held-out patients, with its interval over patients."""
    rows = []
    for where, tuning, heldout in draws(bank, 3, np.random.default_rng(0)):
        if where["patients"] == patients:
            probability = gate(tuning, where["dataset"]).probability(heldout)
            rows.append(heldout.assign(probability=probability, **where))
    stated = pd.concat(rows)
    table = {}
    for key, rows_of_system in stated.groupby(RUN[:2]):
        truth, probability = rows_of_system["has_nerve"].to_numpy(), rows_of_system["probability"].to_numpy()
        interval = resampled_interval(
            lambda rows, truth=truth, probability=probability: calibration_error(truth[rows], probability[rows]),
            rows_of_system["subject"].to_numpy(),
        )
        table[key] = [calibration_error(truth, probability), *interval]
    return pd.DataFrame(table, index=["ECE", "low", "high"]).T


def report(repeats: int) -> None:
    """Judge all gates on the bank, print everything and write the table of regrets."""
    bank = read_bank()
    priors = {name: prior_of(bank[bank["dataset"] != name]) for name in bank["dataset"].unique()}
    print(f"prior of the whole bank {prior_of(bank).round(2)}, in the library {PRIOR}")
    print("".join(f"prior without {name} {prior.round(2)}\n" for name, prior in priors.items()))
    gates = {name: lambda tuning, dataset, fit=fit: fit(tuning) for name, fit in GATES.items()}
    gates["bayesian"] = lambda tuning, dataset: fit_bayesian_gate(tuning, priors[dataset])
    true = scores(bank, gates, repeats, seed=0)
    results = compare(true, list(gates))
    mostly_empty = bank.groupby(RUN[:2])["has_nerve"].transform("mean") < 0.5
    banks = (shuffled(bank[mostly_empty], np.random.default_rng(seed)) for seed in range(SHUFFLES))
    nothing = pd.concat([scores(other, gates, max(1, repeats // SHUFFLES), seed) for seed, other in enumerate(banks)])
    results["over_blank_shuffled"] = compare(nothing.reset_index(drop=True), list(gates))["over_blank"]
    results.to_csv(RESULTS, index=False, float_format="%.4f")
    pd.options.display.width = 200
    print(results.round(4).to_string(index=False))
    by_system = true[true["patients"] == 18].groupby(RUN[:2])[["blank", *gates]].mean()
    print(f"score with 18 patients\n{by_system.round(3).to_string()}")
    means = true.groupby([*RUN[:2], "patients"])[["blank", *gates]].mean()
    lowest = means[list(gates)].sub(means["blank"], axis=0).min()
    print(f"lowest score over blank of any system and number of patients\n{lowest.round(3).to_string()}")
    print(f"calibration of the bayesian gate with 18 patients\n{calibration(bank, gates['bayesian'], 18).round(3)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    adding = commands.add_parser("collect", help="add predictions to the bank")
    adding.add_argument("sources", nargs="+", metavar="DATASET/SYSTEM/SPLIT=FILES")
    parser.add_argument("--repeats", type=int, default=10, help="draws of patients per run (default: 10)")
    options = parser.parse_args()
    if options.command == "collect":
        collect(options.sources)
    else:
        report(options.repeats)


if __name__ == "__main__":
    main()
