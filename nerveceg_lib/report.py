"""A run as one static site: `python -m nerveceg_lib report RUN`. It needs no server and no network.

<run>/report/index.html       score, its parts and pictures, every held-out frame in a table to sort and filter
<run>/report/<notebook>.html  each executed notebook
<run>/report/frames/          held-out frames, JPEG
"""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from nerveceg_lib import metrics, rle
from nerveceg_lib.data.source import data_name, load_prepared
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import read_json, whole_folder
from nerveceg_lib.paths import STAGES, STUDIES, run_dir

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = {  # of which the overview shows those that the run has
    "pipeline.png": (STAGES[4], "A found frame through the pipeline: gate with Grad-CAM, mask, truth"),
    "score.png": (STAGES[3], "Where the held-out score is won and lost"),
    "cases.png": (STAGES[3], "Held-out cases"),
    "submission.png": (STAGES[5], "Test frames, masks as decoded from submission.csv"),
}
SHOWN = (290, 210)  # columns and rows of a frame's picture, half its size
OUTCOMES = {(1, 1): "drawn", (1, 0): "missed", (0, 1): "false mask", (0, 0): "left blank"}  # of (presence, drawn)


def write_report(run: str) -> Path:
    """Write the site of `run` anew; returns its index.html. Raises InputError for a run without executed notebooks."""
    folder = run_dir(run)
    notebooks = [path for stage in (*STAGES, *STUDIES) if (path := folder / f"{stage}.ipynb").exists()]
    if not notebooks:
        raise InputError(f"run: expected one with executed notebooks, found none in {folder}; `run` executes them")
    exporter = _exporter()
    pages = [(f"{path.stem}.html", path.stem.replace("_", " ").capitalize()) for path in notebooks]
    with whole_folder(folder / "report") as out:
        shutil.copy(TEMPLATES / "report" / "report.css", out)
        for path, (file, title) in zip(notebooks, pages, strict=True):
            facts = {"title": title, "run": run, "pages": pages, "here": file, "section": title}
            body, _ = exporter.from_filename(path, resources={"report": facts})
            (out / file).write_text(body, encoding="utf-8")
        overview = exporter.environment.get_template("overview.html.j2")
        (out / "index.html").write_text(overview.render(run=run, pages=pages, **_facts(run, out)), encoding="utf-8")
    return folder / "report" / "index.html"


def _exporter():
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import Preprocessor

    class Reading(Preprocessor):
        """Formulas become MathML, which browsers draw themselves; links to notebooks become links to their pages.

        Pictures are called as the section they stand in.
        """

        def preprocess_cell(self, cell, resources, index):
            facts = resources["report"]
            if cell.cell_type == "markdown":
                if headings := re.findall(r"^#+ (.+)", cell.source, re.MULTILINE):
                    facts["section"] = headings[-1]
                cell.source = _links(_formulas(cell.source), {file for file, _ in facts["pages"]})
            for output in cell.get("outputs", []):
                for kind in ("image/png", "image/jpeg"):
                    if kind in output.get("data", {}):
                        output.metadata[kind] = output.metadata.get(kind, {}) | {"alt": facts["section"]}
            return cell, resources

    return HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        preprocessors=[Reading],
    )


def _formulas(text: str) -> str:
    from latex2mathml.converter import convert

    text = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1].strip(), display="block"), text, flags=re.DOTALL)
    return re.sub(r"(?<![\\$])\$([^$\n]+)\$", lambda m: convert(m[1]), text)


def _links(text: str, files: set[str]) -> str:
    """Links to notebooks that the run has lead to their pages, others to none."""

    def page(match: re.Match) -> str:
        file = f"{match[2]}.html"
        return f"[{match[1]}]({file})" if file in files else match[1]

    return re.sub(r"\[([^\]]+)\]\(([\w-]+)\.ipynb\)", page, text)


def _facts(run: str, out: Path) -> dict:
    """What the overview says: score, pictures and table where notebook 4 has run."""
    folder = run_dir(run)
    records = sorted((folder / "records").glob("*.json"))
    facts = {"record": read_json(records[-1]) if records else {}, "data": data_name(run), "pictures": []}
    for name, (stage, caption) in PICTURES.items():
        if (folder / stage / name).exists():
            shutil.copy(folder / stage / name, out)
            facts["pictures"].append((name, caption))
    facts["figures"] = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/metrics.json"))}
    if (found := folder / STAGES[3] / "heldout.csv").exists():
        frames = pd.read_csv(found, keep_default_na=False)
        presence, drawn = frames["presence"].to_numpy(), frames["drawn"].to_numpy(bool)
        parts = metrics.score_parts(presence, frames["mask_dice"].to_numpy(), drawn)
        low, high = metrics.patient_interval(frames["score"].to_numpy(), frames["subject"].to_numpy())
        facts |= {"score": parts | {"low": low, "high": high}, "frames": frames, "table": _table(run, frames, out)}
    return facts


def _table(run: str, frames: pd.DataFrame, out: Path) -> str:
    """Every held-out frame, worst first, as a DataTable that carries its own script; its pictures go to `out`."""
    from itables import to_html_datatable
    from itables.javascript import generate_init_offline_itables_html
    from itables.options import dt_bundle

    cache = load_prepared(run)
    (out / "frames").mkdir()
    shots = []
    for frame in frames.itertuples():
        file = f"frames/{frame.row}.jpg"
        small = cv2.resize(cache.frames[frame.row], SHOWN, interpolation=cv2.INTER_AREA)
        (out / file).write_bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
        mask = rle.decode(frame.pixels) if frame.drawn else np.zeros(rle.FRAME_SHAPE, np.uint8)
        shots.append(_shots(file, cache.masks[frame.row], mask))
    outcome = [OUTCOMES[p, int(d)] for p, d in zip(frames["presence"], frames["drawn"], strict=True)]
    table = pd.DataFrame(
        {
            "frame, truth, prediction": shots,
            "patient": frames["subject"],
            "image": frames["image"],
            "outcome": outcome,
            "P(nerve)": frames["probability"].astype(float).round(3),
            "Dice": frames["score"].astype(float).round(3),
        }
    ).sort_values("Dice", kind="stable")
    control = [{"target": 0, "content": ["order"]}, {"target": 1, "content": ["search"]}]
    no_control: list[dict[str, object]] = [{"target": row, "content": []} for row in (0, 1)]
    return generate_init_offline_itables_html(dt_bundle) + to_html_datatable(
        table, connected=False, allow_html=True, showIndex=False, maxBytes=0, columnControl=control, pageLength=10,
        columnDefs=[{"targets": [0], "orderable": False, "columnControl": no_control}],
        layout={"topStart": "info", "topEnd": "pageLength"},
        ordering={"indicators": False, "handler": True}, text_in_header_can_be_selected=False,
        classes="display compact", style="width:100%",
    )  # fmt: skip


def _shots(file: str, truth: np.ndarray, prediction: np.ndarray) -> str:
    """The frame three times: plain, under the true outline, under the predicted one."""
    outlines = ("", _outline(truth, "truth"), _outline(prediction, "prediction"))
    shot = '<div class="shot"><img src="{}" alt="" loading="lazy">{}</div>'
    return '<div class="shots">' + "".join(shot.format(file, outline) for outline in outlines) + "</div>"


def _outline(mask: np.ndarray, kind: str) -> str:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    paths = ["M" + "L".join(f"{x} {y}" for x, y in cv2.approxPolyDP(line, 1.0, True)[:, 0]) + "Z" for line in contours]
    height, width = mask.shape
    return f'<svg viewBox="0 0 {width} {height}" class="{kind}"><path d="{"".join(paths)}"/></svg>' if paths else ""
