"""BUS-UCLM: 683 breast ultrasound frames of 38 patients, 61% of them without a lesion, as a user downloads it.

Vallez et al., "BUS-UCLM: Breast ultrasound lesion segmentation dataset", Scientific Data 12:242 (2025),
doi 10.1038/s41597-025-04562-3. Masks are red (malignant) or green (benign) on black.
"""

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import write_csv
from nerveceg_tools.importers import download, read_table
from nerveceg_tools.importers.folder import Layout, import_frames
from nerveceg_tools.importers.masks import ANY

ARCHIVE_URL = "https://data.mendeley.com/public-files/datasets/7fvgj4jsp7/zip"
INFO_SHA256 = "40900cdd8d48e03eb086cd1fe3780874d0477b427854fbd65513aa9f31205a9f"
ATTRIBUTION = """\
The frames and masks in this folder come from BUS-UCLM: N. Vallez, G. Bueno, O. Deniz, M. A. Rienda, C. Pastor,
"BUS-UCLM: Breast ultrasound lesion segmentation dataset", Scientific Data 12:242 (2025),
https://doi.org/10.1038/s41597-025-04562-3; data: https://doi.org/10.17632/7fvgj4jsp7
Licence: the authors' README says CC BY 4.0, their licence file CC BY-NC 4.0. Use it with attribution and not
commercially.

Changes made: frames were turned to grey and scaled to fit into 420 x 580 pixels, and their masks with them; benign and
malignant lesions were joined. Left out are the 13 frames of the patient HESN, whose masks have other proportions than
the frames, and the 4 frames of CHCO, which are copies of frames of CHVI. names.csv names the source of every frame; its
column `clean` is 1 for frames without calipers, other marks, a Doppler box or a second picture, and `calipers` is 1 for
frames with marks only, 0 for clean frames and empty for the others.
"""
LEFT_OUT = ("HESN", "CHCO")  # patients; ATTRIBUTION says why
SHORTCUTS = ("Doppler", "Marks", "Combined")  # what gives a lesion away


def import_bus_uclm(source: str | Path, destination: Path) -> str:
    """Copy BUS-UCLM to the new or empty folder `destination`, and return what was understood, as text.

    source: the published folder with images/, masks/ and INFO.csv, or "download". Raises InputError as `import_frames`
    does, and for an INFO.csv of another version.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = download(ARCHIVE_URL, Path(scratch)) if source == "download" else Path(source)
        info_file = next(iter(sorted(folder.rglob("INFO.csv"))), folder / "INFO.csv")
        info = read_table(info_file, ";")
        if hashlib.sha256(info_file.read_bytes()).hexdigest() != INFO_SHA256:
            raise InputError(f"{info_file}: expected the published version of 2025 (683 frames), found another one")
        info["keep"] = (~info["Image"].str[:4].isin(LEFT_OUT)).astype(int)
        info["clean"] = (info[list(SHORTCUTS)] == "No").all(axis=1).astype(int)
        only_marks = (info["Marks"] == "Yes") & (info[["Doppler", "Combined"]] == "No").all(axis=1)
        info["calipers"] = np.select([only_marks, info["clean"] == 1], ["1", "0"], "")
        write_csv(Path(scratch) / "frames.csv", info)
        layout = Layout("^([A-Z]{4})_", [ANY], Path(scratch) / "frames.csv", "keep", target="lesion")
        summary = import_frames(info_file.parent / "images", info_file.parent / "masks", destination, layout)
    (destination / "ATTRIBUTION.txt").write_text(ATTRIBUTION)
    return summary
