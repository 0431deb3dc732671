"""How close do phantom frames come to real ones? Grey levels, speckle grain, spectrum, and a picture.

    python benchmarks/phantom_realism.py REAL_FRAMES_FOLDER OUT.png [--difficulty medium] [--patients 40]

Real frames may have screen borders. Each is therefore cut to its echoes and to the phantom's proportions and scaled to
420 x 580, so that both show the same field of view.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_tools.phantom import Patient, cohort
from nerveceg_tools.phantom.anatomy import DIFFICULTIES

HEIGHT, WIDTH = FRAME_SHAPE
PATCH = 40


def content(frame: np.ndarray) -> np.ndarray:
    """Cut a grey screenshot (H, W) to its echoes, leave out what lies too deep, and scale it to (420, 580) uint8."""
    lit = frame > 4
    top = np.flatnonzero(lit.mean(axis=1) > 0.25)[0]
    columns = np.flatnonzero(lit[top : top + 150].mean(axis=0) > 0.3)
    left, right = columns[0], columns[-1] + 1
    bottom = np.flatnonzero(lit[:, left:right].mean(axis=1) > 0.03)[-1] + 1
    box = frame[top:bottom, left:right]
    height = min(box.shape[0], int(box.shape[1] * HEIGHT / WIDTH))
    width = min(box.shape[1], int(height * WIDTH / HEIGHT))
    start = (box.shape[1] - width) // 2
    method = cv2.INTER_AREA if width >= WIDTH else cv2.INTER_CUBIC
    return cv2.resize(box[:height, start : start + width], (WIDTH, HEIGHT), interpolation=method)


def half_width(correlation: np.ndarray) -> float:
    """Return the lag in pixels at which a correlation curve that starts at 1 falls to one half."""
    below = int(np.argmax(correlation < 0.5))
    above, under = correlation[below - 1], correlation[below]
    return below - 1 + (above - 0.5) / (above - under)


def quiet_patches(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Yield detrended patches of plain speckle: mid grey, without bright interfaces."""
    for frame in frames.astype(np.float32):
        flat = frame - cv2.GaussianBlur(frame, (0, 0), 6)
        for top in range(60, HEIGHT - PATCH, PATCH):
            for left in range(20, WIDTH - PATCH, PATCH):
                window = np.s_[top : top + PATCH, left : left + PATCH]
                grey = frame[window]
                if 25 < grey.mean() < 90 and np.abs(flat[window]).max() < 6 * flat[window].std() < 90:
                    yield flat[window]


def grain(frames: np.ndarray) -> tuple[float, float, float]:
    """Return the axial and lateral correlation half width in pixels, and the grey sd of plain speckle."""
    total, power = np.zeros((PATCH, PATCH)), []
    for patch in quiet_patches(frames):
        spectrum = np.abs(np.fft.fft2(patch - patch.mean())) ** 2
        total += spectrum / spectrum.sum()
        power.append(patch.std())
    correlation = np.fft.ifft2(total).real
    correlation /= correlation[0, 0]
    return half_width(correlation[:12, 0]), half_width(correlation[0, :12]), float(np.median(power))


def spectrum_slope(frames: np.ndarray) -> float:
    """Return the exponent of the radial power spectrum from 0.02 to 0.25 cycles/pixel."""
    side, window = 400, np.outer(np.hanning(400), np.hanning(400))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    bands = np.geomspace(0.01, 0.4, 20)
    index = np.digitize(radius, bands)
    power = np.zeros(len(bands) + 1)
    for frame in frames:
        cut = frame[10 : 10 + side, 90 : 90 + side].astype(float)
        spectrum = np.abs(np.fft.fft2((cut - cut.mean()) * window)) ** 2
        power += np.bincount(index.ravel(), spectrum.ravel(), len(power)) / np.bincount(index.ravel())
    curve = 10 * np.log10(power[1:-1] / len(frames))
    middle = np.sqrt(bands[1:] * bands[:-1])
    fit = (middle > 0.02) & (middle < 0.25)
    return float(np.polyfit(np.log10(middle[fit]), curve[fit] / 10, 1)[0])


def measure(frames: np.ndarray) -> dict[str, float]:
    """Return all figures of a uint8 stack (n, 420, 580)."""
    axial, lateral, contrast = grain(frames)
    share = np.percentile(frames, [5, 25, 50, 75, 95, 99])
    figures = {"mean": float(frames.mean()), "frame mean sd": float(frames.mean(axis=(1, 2)).std())}
    figures |= {f"p{p}": float(value) for p, value in zip([5, 25, 50, 75, 95, 99], share, strict=True)}
    rows = frames.mean(axis=(0, 2))
    figures |= {f"row {r}": float(rows[r : r + 20].mean()) for r in (0, 20, 60, 130, 200, 300, 390)}
    figures |= {"axial px": axial, "lateral px": lateral, "speckle sd": contrast}
    figures["slope"] = spectrum_slope(frames)
    return figures


def histogram_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Wasserstein-1 distance between grey-level histograms, in grey levels."""
    cumulative = [np.cumsum(np.bincount(frames.ravel(), minlength=256)) / frames.size for frames in (one, other)]
    return float(np.abs(cumulative[0] - cumulative[1]).sum())


def side_by_side(real: np.ndarray, phantom: np.ndarray, rows: int = 5, columns: int = 3) -> np.ndarray:
    """Return thumbnails, real ones on the left and phantom ones on the right, each uint8 (210, 290)."""
    generator = np.random.default_rng(3)
    blocks = []
    for frames in (real, phantom):
        sample = generator.permutation(len(frames))[: rows * columns]
        small = [cv2.resize(frames[i], (290, 210), interpolation=cv2.INTER_AREA) for i in sample]
        blocks.append(np.vstack([np.hstack(small[r * columns : (r + 1) * columns]) for r in range(rows)]))
    return np.hstack([blocks[0], np.full((210 * rows, 12), 255, np.uint8), blocks[1]])


def phantom_frames(patients: int, per_patient: int, seed: int, difficulty: str) -> np.ndarray:
    plans = cohort([per_patient] * patients, np.random.SeedSequence(seed))
    drawn = (Patient(plan, difficulty) for plan in plans)
    return np.array([patient.render(i)[0] for patient in drawn for i in range(per_patient)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("real", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--per-patient", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", default="medium", choices=DIFFICULTIES)
    options = parser.parse_args()
    paths = sorted(path for path in options.real.iterdir() if path.suffix in {".png", ".tif", ".jpg"})
    real = np.array([content(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths])
    phantom = phantom_frames(options.patients, options.per_patient, options.seed, options.difficulty)
    figures = [measure(real), measure(phantom)]
    print(f"{'':14}{'real':>9}{'phantom':>9}{'ratio':>8}")
    for name, value in figures[0].items():
        print(f"{name:14}{value:9.2f}{figures[1][name]:9.2f}{figures[1][name] / value:8.2f}")
    print(f"Wasserstein distance of the histograms: {histogram_distance(real, phantom):.2f} grey levels")
    cv2.imwrite(str(options.out), side_by_side(real, phantom))


if __name__ == "__main__":
    main()
