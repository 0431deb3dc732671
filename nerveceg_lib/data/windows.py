"""Choose windows of the competition's shape in larger ultrasound frames, with and without a nerve.

A window is clear or it is not taken: a whole nerve well inside the competition's range of sizes, or
none at all. Windows beside a nerve are smaller and lie deeper than windows around it, so that blur and
depth alone would give presence away; `thin` evens both out.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from nerveceg_lib.rle import FRAME_SHAPE

MAX_UPSCALING = 2.5  # windows are 232 source pixels wide or more: what a 224 px network can still use
AREA_LIMITS = (2684, 17439)  # smallest and largest real competition mask, pixels
_AREA_MEDIAN, _AREA_LOG_SD = 6976, 0.24  # of the competition's masks; 0.24 puts p5..p95 at 4.7k..10.4k
_RIM = 5  # px around a drawn nerve that may still be nerve: outlines are no more exact
_DARK, _LIT_SHARE = 6, 0.6  # grey level of borders and deep shadow; least share of a window above it
_INSET = {"side": 4, "top": 8}  # px: soft edges of the field; the white line of the probe's face
_CANDIDATES = 4000  # boxes tried per frame
_MAX_OVERLAP = 0.8  # intersection over union of two windows of one frame and kind
_SCALE_STEP, _DEPTH_STEPS = 1.12, (0.15, 0.4, 0.7, 1.0, 1.5)  # strata within which presence is evened out


@dataclass(frozen=True)
class Frame:
    """A source frame of H x W pixels, its nerves and what is no scan."""

    name: str
    grey: np.ndarray  # (H, W) uint8
    pieces: np.ndarray  # (H, W) int32: 0 = no nerve, 1.. = the nerve's connected pieces
    coloured: np.ndarray  # (H, W) bool: screen text and markers
    field: tuple[int, int, int, int]  # x0, y0, x1, y1 of the scan, exclusive of x1 and y1


def find_field(grey: np.ndarray) -> tuple[int, int, int, int]:
    """The box x0, y0, x1, y1 of the scan in a (H, W) uint8 frame with dark borders; x0 = x1 where there is none.

    It is drawn around the large lit areas; text and scale marks are too thin and small to count.
    """
    bright = (cv2.GaussianBlur(grey, (0, 0), 2) > _DARK).astype(np.uint8)
    lit = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(lit)
    boxes = stats[1:][stats[1:, cv2.CC_STAT_AREA] > 0.005 * grey.size, :4].astype(int)
    if not len(boxes):
        return 0, 0, 0, 0
    x0, y0 = boxes[:, :2].min(axis=0)
    x1, y1 = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    return (
        int(x0 + _INSET["side"]),
        int(y0 + _INSET["top"]),
        int(x1 - _INSET["side"]),
        int(y1 - _INSET["side"]),
    )


def choose(frame: Frame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw up to `count` windows with and `count` without a nerve from one frame.

    With: exactly one piece of nerve, all of it and its 5-px rim, AREA_LIMITS pixels large after
    rescaling, and no part of another piece. A cut piece is ambiguous: a sliver is no clear nerve, and no
    competition mask ends in a straight edge. Without: neither nerve nor rim. All others are left out, and
    so are windows that are mostly black or hold coloured pixels. Columns: x, y, w, h (the box in source
    pixels), depth (below the field's top, in window heights), piece (the nerve's number; 0 = none),
    source (frame name).
    """
    boxes = _boxes(frame.field, rng).assign(piece=0, area=0.0, source=frame.name)
    box = [boxes[name].to_numpy() for name in "xywh"]
    usable = _inside(frame.grey > _DARK, *box) >= _LIT_SHARE * box[2] * box[3]
    usable &= _inside(frame.coloured, *box) == 0
    touched = np.zeros(len(boxes), int)
    for piece in np.unique(frame.pieces[frame.pieces > 0]):
        nerve = (frame.pieces == piece).astype(np.uint8)
        rim = cv2.dilate(nerve, np.ones((2 * _RIM + 1,) * 2, np.uint8))
        within = _inside(rim, *box)
        touched += within > 0
        whole = within == rim.sum()
        boxes.loc[whole, "piece"] = piece
        boxes.loc[whole, "area"] = nerve.sum() * (FRAME_SHAPE[1] / box[2][whole]) ** 2
    positives = boxes[usable & (touched == 1) & (boxes["piece"] > 0) & boxes["area"].between(*AREA_LIMITS)]
    negatives = boxes[usable & (touched == 0)]
    # log-normal weights turn the uniform log-areas of the candidates into the competition's mask areas
    wish = -0.5 * ((np.log(positives["area"]) - np.log(_AREA_MEDIAN)) / _AREA_LOG_SD) ** 2
    chosen = pd.concat([_pick(positives, wish, count, rng), _pick(negatives, 0, count, rng)])
    return chosen.drop(columns="area")


def thin(windows: pd.DataFrame, presence: float, rng: np.random.Generator) -> pd.DataFrame:
    """Drop windows at random until the share with a nerve is `presence` (0..1) at every step of scale and depth.

    Takes rows as `choose` returns them, from any number of frames, under a unique index.
    """
    scale = (np.log(windows["w"]) // np.log(_SCALE_STEP)).astype(int)
    kept = [windows.index[:0]]
    for _, stratum in windows.groupby([scale, np.digitize(windows["depth"], _DEPTH_STEPS)]):
        positive = rng.permutation(stratum.index[stratum["piece"] > 0])
        negative = rng.permutation(stratum.index[stratum["piece"] == 0])
        total = min(len(positive) / presence, len(negative) / (1 - presence))
        kept += [positive[: round(total * presence)], negative[: round(total * (1 - presence))]]
    return windows.loc[np.sort(np.concatenate(kept))]


def cut(frame: Frame, x: int, y: int, w: int, h: int, piece: int) -> tuple[np.ndarray, np.ndarray]:
    """A window's (420, 580) uint8 image and uint8 mask (0/1); the mask is one component without holes."""
    size = FRAME_SHAPE[::-1]
    image, nerve = (pixels[y : y + h, x : x + w] for pixels in (frame.grey, frame.pieces))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if w > size[0] else cv2.INTER_LINEAR)
    mask = np.zeros(FRAME_SHAPE, np.uint8)
    if piece:
        # linear and halved, not nearest: no stair-steps along the outline
        smooth = cv2.resize((nerve == piece).astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
        outlines, _ = cv2.findContours((smooth > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(mask, [max(outlines, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return image, mask


def _boxes(field: tuple[int, int, int, int], rng: np.random.Generator) -> pd.DataFrame:
    """Random boxes of the competition's aspect ratio in the field, log-uniform in scale, uniform in place."""
    rows, columns = FRAME_SHAPE
    room_x, room_y = field[2] - field[0], field[3] - field[1]
    smallest, largest = columns / MAX_UPSCALING, min(room_x, room_y * columns / rows)
    size = _CANDIDATES if largest >= smallest else 0
    w = np.exp(rng.uniform(np.log(smallest), np.log(max(largest, smallest)), size)).astype(int)
    h = np.round(w * rows / columns).astype(int)
    x = field[0] + rng.integers(0, room_x - w + 1)
    y = field[1] + rng.integers(0, room_y - h + 1)
    return pd.DataFrame({"x": x, "y": y, "w": w, "h": h, "depth": (y - field[1]) / h})


def _inside(pixels: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray, h: np.ndarray) -> np.ndarray:
    """How many non-zero `pixels` (0/1) lie in each box."""
    sums = cv2.integral(pixels.astype(np.uint8))
    return sums[y + h, x + w] - sums[y, x + w] - sums[y + h, x] + sums[y, x]


def _pick(boxes: pd.DataFrame, wish: pd.Series | float, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw up to `count` boxes without replacement by log-weight `wish`, none much like one already drawn."""
    corners = boxes[["x", "y"]].to_numpy()
    sizes = boxes[["w", "h"]].to_numpy()
    chosen: list[int] = []
    for row in np.argsort(-np.asarray(wish + rng.gumbel(size=len(boxes)))):  # Gumbel noise: sampling by sorting
        low = np.maximum(corners[row], corners[chosen])
        high = np.minimum(corners[row] + sizes[row], corners[chosen] + sizes[chosen])
        common = np.clip(high - low, 0, None).prod(axis=1)
        if (common <= _MAX_OVERLAP * (sizes[row].prod() + sizes[chosen].prod(axis=1) - common)).all():
            chosen.append(row)
        if len(chosen) == count:
            break
    return boxes.iloc[chosen]
