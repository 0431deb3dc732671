"""The README's pictures, from what the demo's notebooks drew: `python docs/images.py`, after `make notebooks`."""

import shutil
from pathlib import Path

from PIL import Image, ImageOps

from nerveceg_lib.paths import STAGES, STUDIES, require, run_dir

IMAGES = Path(__file__).parent / "images"
FIGURES = ("frames", "heldout", "cases", "score", "cams", "submission", "bias", "frames")  # of notebook 1, 2, ...
THUMBNAIL = (360, 220)  # px, twice the size it is shown at


def main() -> None:
    for stage, name in zip((*STAGES, *STUDIES), FIGURES, strict=True):
        with Image.open(require(run_dir("demo") / stage / f"{name}.png", stage)) as figure:
            small = ImageOps.fit(figure.convert("RGB"), THUMBNAIL, centering=(0, 0))
            small.save(IMAGES / f"{stage[:2]}.png", optimize=True)
    shutil.copy(run_dir("demo") / STAGES[4] / "pipeline.png", IMAGES)


if __name__ == "__main__":
    main()
