"""Choose windows of the competition's shape in larger ultrasound frames, with and without a nerve.

Only clear windows are taken: they hold either a whole nerve, well inside the competition's range of sizes, or none at
all. Windows beside a nerve are smaller and lie deeper than windows around it, so blur and depth alone would give its
presence away; `thin` evens out both.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from nerveceg_lib.rle import FRAME_SHAPE

MAX_UPSCALING = 2.5  # windows are at least 232 source pixels wide: what a 224 px network can still use
AREA_LIMITS = (2684, 17439)  # smallest and largest real competition mask, pixels
AREA_MEDIAN, AREA_LOG_SD = 6976, 0.24  # of the competition's masks; 0.24 puts p5..p95 at 4.7k..10.4k
RIM = 5  # px around a drawn nerve that may still be nerve, since outlines are no more exact than that
DARK, LIT_SHARE = 6, 0.6  # grey level of borders and deep shadow; least share of a window above it
INSET_SIDE, INSET_TOP = 4, 8  # px: soft edges of the field; the white line of the probe's face
CANDIDATES = 4000  # boxes tried per frame
MAX_OVERLAP = 0.8  # intersection over union of two windows of one frame, both with or both without a nerve
SCALE_STEP, DEPTH_STEPS = 1.12, (0.15, 0.4, 0.7, 1.0, 1.5)  # strata within which presence is evened out


@dataclass(frozen=True)
class Frame:
    """A source frame of H x W pixels, its nerves, and which parts of it are not the scan."""

    name: str
    grey: np.ndarray  # (H, W) uint8
    pieces: np.ndarray  # (H, W) int32: 0 = no nerve, 1, 2, ... = the nerve's connected pieces
    coloured: np.ndarray  # (H, W) bool: screen text and markers
    field: tuple[int, int, int, int]  # x0, y0, x1, y1 of the scan, exclusive of x1 and y1


def find_field(grey: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box x0, y0, x1, y1 of the scan in a (H, W) uint8 frame with dark borders; all 0 if there is none.

    The box surrounds the large bright areas; text and scale marks are too thin and too small to count.
    """
    bright = (cv2.GaussianBlur(grey, (0, 0), 2) > DARK).astype(np.uint8)
    lit = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(lit)
    boxes = stats[1:][stats[1:, cv2.CC_STAT_AREA] > 0.005 * grey.size, :4].astype(int)
    if not len(boxes):
        return 0, 0, 0, 0
    x0, y0 = boxes[:, :2].min(axis=0)
    x1, y1 = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    return int(x0 + INSET_SIDE), int(y0 + INSET_TOP), int(x1 - INSET_SIDE), int(y1 - INSET_SIDE)


def choose(frame: Frame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw up to `count` windows with and up to `count` windows without a nerve from one frame.

    A window with a nerve holds all of one piece of nerve and its 5-px rim, no part of another piece, and AREA_LIMITS
    pixels of nerve after rescaling. A nerve that is cut off would be ambiguous: a sliver is no clear nerve, and no
    competition mask ends in a straight edge. A window without a nerve holds neither nerve nor rim. Windows that are
    mostly black or hold coloured pixels are never taken.

    Returns columns x, y, w, h (the box in source pixels), depth (below the field's top, in window heights), piece (the
    nerve's number; 0 = none) and source (frame name).
    """
    boxes = _boxes(frame.field, rng).assign(piece=0, area=0.0, source=frame.name)
    box = [boxes[name].to_numpy() for name in "xywh"]
    usable = _count_inside(frame.grey > DARK, *box) >= LIT_SHARE * box[2] * box[3]
    usable &= _count_inside(frame.coloured, *box) == 0
    touched = np.zeros(len(boxes), int)
    for piece in np.unique(frame.pieces[frame.pieces > 0]):
        nerve = (frame.pieces == piece).astype(np.uint8)
        rim = cv2.dilate(nerve, np.ones((2 * RIM + 1,) * 2, np.uint8))
        inside = _count_inside(rim, *box)
        touched += inside > 0
        whole = inside == rim.sum()
        boxes.loc[whole, "piece"] = piece
        boxes.loc[whole, "area"] = nerve.sum() * (FRAME_SHAPE[1] / box[2][whole]) ** 2
    positives = boxes[usable & (touched == 1) & (boxes["piece"] > 0) & boxes["area"].between(*AREA_LIMITS)]
    negatives = boxes[usable & (touched == 0)]
    # log-normal weights turn the uniform log-areas of the candidates into the competition's mask areas
    log_weights = -0.5 * ((np.log(positives["area"]) - np.log(AREA_MEDIAN)) / AREA_LOG_SD) ** 2
    samples = _sample(positives, log_weights, count, rng), _sample(negatives, 0, count, rng)
    return pd.concat(samples).drop(columns="area")


def thin(windows: pd.DataFrame, presence: float, rng: np.random.Generator) -> pd.DataFrame:
    """Drop windows at random until the share with a nerve is `presence` (0..1) at every step of scale and depth.

    Takes rows as `choose` returns them, from any number of frames, with a unique index.
    """
    scale = (np.log(windows["w"]) // np.log(SCALE_STEP)).astype(int)
    kept = [windows.index[:0]]
    for _, stratum in windows.groupby([scale, np.digitize(windows["depth"], DEPTH_STEPS)]):
        positive = rng.permutation(stratum.index[stratum["piece"] > 0])
        negative = rng.permutation(stratum.index[stratum["piece"] == 0])
        total = min(len(positive) / presence, len(negative) / (1 - presence))
        kept += [positive[: round(total * presence)], negative[: round(total * (1 - presence))]]
    return windows.loc[np.sort(np.concatenate(kept))]


def cut(frame: Frame, x: int, y: int, w: int, h: int, piece: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a window's (420, 580) uint8 image and uint8 mask (0/1); the mask is one component without holes."""
    size = FRAME_SHAPE[::-1]
    image, pieces = (pixels[y : y + h, x : x + w] for pixels in (frame.grey, frame.pieces))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if w > size[0] else cv2.INTER_LINEAR)
    mask = np.zeros(FRAME_SHAPE, np.uint8)
    if piece:
        # resized linearly and thresholded, since nearest would leave stair-steps along the outline
        smooth = cv2.resize((pieces == piece).astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
        outlines, _ = cv2.findContours((smooth > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(mask, [max(outlines, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return image, mask


def _boxes(field: tuple[int, int, int, int], rng: np.random.Generator) -> pd.DataFrame:
    """Random boxes of the competition's proportions in the field, log-uniform in scale, uniform in position."""
    rows, columns = FRAME_SHAPE
    room_x, room_y = field[2] - field[0], field[3] - field[1]
    smallest, largest = columns / MAX_UPSCALING, min(room_x, room_y * columns / rows)
    size = CANDIDATES if largest >= smallest else 0
    w = np.exp(rng.uniform(np.log(smallest), np.log(max(largest, smallest)), size)).astype(int)
    h = np.round(w * rows / columns).astype(int)
    x = field[0] + rng.integers(0, room_x - w + 1)
    y = field[1] + rng.integers(0, room_y - h + 1)
    return pd.DataFrame({"x": x, "y": y, "w": w, "h": h, "depth": (y - field[1]) / h})


def _count_inside(pixels: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Count the non-zero `pixels` (0/1) in each box."""
    sums = cv2.integral(pixels.astype(np.uint8))
    return sums[y + h, x + w] - sums[y, x + w] - sums[y + h, x] + sums[y, x]


def _sample(boxes: pd.DataFrame, log_weights: pd.Series | float, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw up to `count` boxes without replacement by weight, leaving out those that are much like an earlier one."""
    corners = boxes[["x", "y"]].to_numpy()
    sizes = boxes[["w", "h"]].to_numpy()
    drawn: list[int] = []
    for row in np.argsort(-np.asarray(log_weights + rng.gumbel(size=len(boxes)))):  # Gumbel noise: sampling by sorting
        low = np.maximum(corners[row], corners[drawn])
        high = np.minimum(corners[row] + sizes[row], corners[drawn] + sizes[drawn])
        common = np.clip(high - low, 0, None).prod(axis=1)
        if (common <= MAX_OVERLAP * (sizes[row].prod() + sizes[drawn].prod(axis=1) - common)).all():
            drawn.append(row)
        if len(drawn) == count:
            break
    return boxes.iloc[drawn]
