"""A run, or the repeats of a sweep, as one static site: `nerveceg report RUN`. It needs no server and no network.

<run>/report/index.html       the score, its parts and pictures, and tables of the held-out patients and frames
<run>/report/<notebook>.html  each executed notebook
<run>/report/frames/          the held-out frames as JPEG
"""

import re
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pandas as pd

from nerveceg_lib import metrics, rle
from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.data.io import read_other_masks
from nerveceg_lib.data.prepared import describe_dataset, load_frames
from nerveceg_lib.plots import PREDICTION, TRUTH
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES, run_folder
from nerveceg_lib.runtime.io import read_json, whole_folder
from nerveceg_tools.compare import (
    CHANGED,
    changed_frames,
    common_frames,
    heldout_frames,
    patient_table,
    runs_of,
    score_table,
)
from nerveceg_tools.run import current_metrics

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = {  # the overview shows those that the run has
    "pipeline.png": (NOTEBOOKS[4], "One frame through the pipeline: first stage with LayerCAM, mask, truth"),
    "score.png": (NOTEBOOKS[3], "Where the held-out score is won and lost"),
    "cases.png": (NOTEBOOKS[3], "Held-out cases"),
    "submission.png": (NOTEBOOKS[5], "Test frames, with the masks decoded from submission.csv"),
}
HTML: dict = {"index": False, "border": 0, "classes": "wide", "float_format": "%.3f"}
OUTCOMES = {(1, 1): "found", (1, 0): "missed", (0, 1): "false mask", (0, 0): "left blank"}  # (has_nerve, keep)


def write_report(run: str, others: Sequence[Path] = (), against: str = "") -> Path:
    """Write the site of `run`, a run or a sweep, and return its index.html.

    others: tables of masks that `import-masks` wrote; they are scored on the same held-out frames.
    against: another run to compare with, frame by frame.

    Raises InputError for a run without executed notebooks, for tables that lack a held-out frame, and as
    `heldout_frames` and `common_frames` do.
    """
    from nbconvert import HTMLExporter  # a second to import

    folder = run_folder(run)
    notebooks = [path for name in (*NOTEBOOKS, *STUDIES) if (path := folder / f"{name}.ipynb").exists()]
    runs = runs_of(run)
    if not notebooks and runs == [run]:
        raise InputError(f"run: expected one with executed notebooks, found none in {folder}; `run` executes them")
    pages = [(f"{path.stem}.html", path.stem.replace("_", " ").capitalize()) for path in notebooks]
    both = common_frames(run, against) if against else None
    exporter = HTMLExporter(template_name="report", extra_template_basedirs=[str(TEMPLATES)])
    with whole_folder(folder / "report") as out:
        shutil.copy(TEMPLATES / "report" / "report.css", out)
        overview = exporter.environment.get_template("overview.html.j2")
        content = _overview(run, out, others)
        if both is not None:
            content |= _comparison(both, run, against, out)
        (out / "index.html").write_text(overview.render(run=run, pages=pages, **content), encoding="utf-8")
        for path, (file, title) in zip(notebooks, pages, strict=True):
            page = {"title": title, "run": run, "pages": pages, "here": file}
            notebook = _for_reading(nbformat.read(path, as_version=4), title, {file for file, _ in pages})
            body, _ = exporter.from_notebook_node(notebook, resources={"report": page})
            (out / file).write_text(body, encoding="utf-8")
    return folder / "report" / "index.html"


def _for_reading(notebook: nbformat.NotebookNode, title: str, files: set[str]) -> nbformat.NotebookNode:
    """Turn formulas into MathML, which browsers draw themselves, and links to notebooks into links to pages.

    The alternative text of a picture is the heading above it, or `title`.
    """
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            title = [title, *re.findall(r"^#+ (.+)", cell.source, re.MULTILINE)][-1]
            cell.source = _links(_formulas(cell.source), files)
        for output in cell.get("outputs", []):
            for mimetype in {"image/png", "image/jpeg"} & set(output.get("data", {})):
                output.metadata[mimetype] = {**output.metadata.get(mimetype, {}), "alt": title}
    return notebook


def _formulas(text: str) -> str:
    from latex2mathml.converter import convert

    text = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1].strip(), display="block"), text, flags=re.DOTALL)
    return re.sub(r"(?<![\\$])\$([^$\n]+)\$", lambda m: convert(m[1]), text)


def _links(text: str, files: set[str]) -> str:
    """Link to the pages of notebooks that the run has, and turn links to the others into plain text."""
    page = lambda m: f"[{m[1]}]({m[2]}.html)" if f"{m[2]}.html" in files else m[1]  # noqa: E731
    return re.sub(r"\[([^\]]+)\]\(([\w-]+)\.ipynb\)", page, text)


def _overview(run: str, out: Path, others: Sequence[Path]) -> dict:
    """Return what the overview shows: the data, the pictures, and after notebook 4 the score and the table."""
    folder, runs = run_folder(run), runs_of(run)
    records = [read_json(path) for path in sorted((folder / "records").glob("*.json"))]
    data = ", ".join(filter(None, describe_dataset(runs[0]).values()))
    content = {"record": records[-1] if records else {}, "data": data, "pictures": [], "runs": len(runs)}
    content["commands"] = [*dict.fromkeys(record["command"] for record in records)]
    for name, (notebook, caption) in PICTURES.items():
        if (folder / notebook / name).exists():
            shutil.copy(folder / notebook / name, out)
            content["pictures"].append((name, caption))
    content["metrics"] = current_metrics(folder)
    if (run_folder(runs[0]) / NOTEBOOKS[3] / "heldout.csv").exists():
        frames, cache = heldout_frames(run), load_frames(runs[0])
        has_nerve, keep = frames["has_nerve"].to_numpy(), frames["keep"].to_numpy(bool)
        frames["outcome"] = [OUTCOMES[n, int(k)] for n, k in zip(has_nerve, keep, strict=True)]
        score = metrics.score_parts(has_nerve, frames["mask_dice"].to_numpy(), keep)
        for ending, values in {"": frames["score"], "_gain": frames["score"] - 1 + has_nerve}.items():
            interval = metrics.patient_interval(values.to_numpy(), frames["subject"].to_numpy(), frames["training"])
            score |= dict(zip((f"low{ending}", f"high{ending}"), interval, strict=True))
        patients = patient_table(_escaped(frames), cache.target)
        content |= {"score": score, "frames": frames, "target": cache.target, "table": _table(cache, frames, out)}
        content["patients"] = patients.to_html(**HTML, escape=False, na_rep="–")
        content["others"] = _scores_of_others(others, cache, frames)
    return content


def _comparison(both: pd.DataFrame, run: str, other: str, out: Path) -> dict:
    """Return what the overview shows of two runs: a table of scores and one of changed frames, with their pictures."""
    scores, changed, cache = score_table(both, run, other), changed_frames(both), load_frames(runs_of(run)[0])
    table = _escaped(changed)[["patient", "source", "score", "score_other", "gain"]]
    table.columns = ["patient", "source", f"Dice, {run}", f"Dice, {other}", "difference"]
    table.insert(0, f"frame, truth, {run}, {other}", _pictures(cache, changed, out / "changed", "", "_other"))
    stacked = HTML | {"classes": "figures"}  # on a phone, below its picture
    shown = {"scores": scores.to_html(**HTML), "changed": table.to_html(escape=False, **stacked)}
    return {"against": shown | {"run": other, "frames": len(both), "number": len(changed), "least": CHANGED}}


def _scores_of_others(paths: Sequence[Path], cache: FrameCache, frames: pd.DataFrame) -> str:
    """Return an HTML table of the scores of other systems' masks: as drawn, behind this run's gate and an oracle."""
    rows, has_nerve = [], frames["has_nerve"].to_numpy()
    for path in paths:
        masks = [rle.decode(text) for text in read_other_masks(path, frames)]
        dice = np.array([metrics.dice(mask, cache.masks[row]) for mask, row in zip(masks, frames["row"], strict=True)])
        drawn = np.array([mask.any() for mask in masks])
        gates = {"as drawn": drawn, "behind this run's gate": drawn & frames["keep"], "oracle gate": has_nerve == 1}
        for gate, keep in gates.items():
            scores = metrics.gated_scores(has_nerve, dice, keep)
            low, high = metrics.patient_interval(scores, frames["subject"].to_numpy())
            rows.append({"masks": path.stem, "gate": gate, "score": f"{scores.mean():.3f} ({low:.3f} to {high:.3f})"})
    return pd.DataFrame(rows).to_html(**HTML) if rows else ""


def _table(cache: FrameCache, frames: pd.DataFrame, out: Path) -> str:
    """Return all held-out frames, worst first, as a DataTable with its own script; their pictures go to `out`."""
    from itables import to_html_datatable
    from itables.javascript import generate_init_offline_itables_html
    from itables.options import dt_bundle

    table = pd.DataFrame(
        {
            "frame, truth, prediction": _pictures(cache, frames.assign(keep=True), out / "frames", ""),
            **_escaped(frames)[["patient", "source", "outcome"]],
            f"P({cache.target})": frames["probability"].astype(float).round(3),
            "Dice": frames["mask_dice"].astype(float).round(3),
            "score": frames["score"].astype(float).round(3),
        }
    ).sort_values("score", kind="stable")
    control = [{"target": 0, "content": ["order"]}, {"target": 1, "content": ["search"]}]
    no_control: list[dict[str, object]] = [{"target": row, "content": []} for row in (0, 1)]
    return generate_init_offline_itables_html(dt_bundle) + to_html_datatable(
        table, connected=False, allow_html=True, showIndex=False, maxBytes=0, columnControl=control, pageLength=10,
        columnDefs=[{"targets": [0], "orderable": False, "columnControl": no_control}],
        layout={"topStart": "info", "topEnd": "pageLength"},
        ordering={"indicators": False, "handler": True}, text_in_header_can_be_selected=False,
        classes="display compact", style="width:100%",
    )  # fmt: skip


def _escaped(frames: pd.DataFrame) -> pd.DataFrame:
    """Return a table of frames whose names, which are the user's, are safe to put into a page."""
    return frames.assign(**{name: frames[name].astype(str).map(escape) for name in ("patient", "source")})


def _pictures(cache: FrameCache, frames: pd.DataFrame, folder: Path, *endings: str) -> list[str]:
    """Write a picture per frame to `folder` and return their HTML. Each ending is that of a prediction's columns."""
    folder.mkdir()
    pictures = []
    for number, frame in enumerate(frames.to_dict("records")):
        masks = [rle.decode(frame[f"pixels{ending}"] if frame[f"keep{ending}"] else "") for ending in endings]
        picture = folder / f"{number}.jpg"
        picture.write_bytes(_strip(cache.images[frame["row"]], cache.masks[frame["row"]], *masks))
        pictures.append(f'<img src="{folder.name}/{picture.name}" alt="" loading="lazy">')
    return pictures


def _strip(image: np.ndarray, truth: np.ndarray, *predictions: np.ndarray) -> bytes:
    """Return a JPEG that shows the image several times: plain, with the true outline, with each predicted one."""
    panels = [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) for _ in range(2 + len(predictions))]
    colours = [TRUTH] + [PREDICTION] * len(predictions)
    for panel, mask, colour in zip(panels[1:], (truth, *predictions), colours, strict=True):
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(panel, outlines, -1, tuple(bytes.fromhex(colour[1:])[::-1]), thickness=6)
    strip = cv2.resize(np.hstack(panels), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
