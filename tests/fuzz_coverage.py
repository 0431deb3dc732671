"""`python -m tests.fuzz_coverage rle|image SECONDS`: atheris looks for bytes that a parser neither takes nor refuses.

An input that raises anything but InputError, or takes over 10 s or 2 GB, ends it with an exit code other than 0 and is
kept in the working folder. Seeds are well-formed: a run-length string, a TIFF and a PNG.
"""

import io
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nerveceg_lib.rle", "nerveceg_lib.data.frames", "PIL"]):
    import numpy as np
    from PIL import Image, PngImagePlugin, TiffImagePlugin  # noqa: F401 (the readers, to be instrumented)

    from nerveceg_lib import rle
    from nerveceg_lib.data import frames
    from nerveceg_lib.errors import InputError

SHAPE = (6, 7)
LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]


def run_lengths(data: bytes) -> None:
    """Whatever is decoded is a mask that encodes and decodes to itself."""
    text = atheris.FuzzedDataProvider(data).ConsumeUnicode(4096)
    for given in (text, data.decode("latin-1")):
        try:
            mask = rle.decode(given, SHAPE)
        except InputError:
            continue
        assert mask.shape == SHAPE and np.array_equal(rle.decode(rle.encode(mask), SHAPE), mask)


def image(data: bytes) -> None:
    """Whatever is read is a frame of the competition's size."""
    FILE.write_bytes(data)
    try:
        assert frames.read_frame(FILE).shape == rle.FRAME_SHAPE
    except InputError as error:
        assert str(error).startswith(str(FILE))


def seeds(kind: str) -> list[bytes]:
    if kind == "rle":
        return [b"1 3 10 2 40 3", b""]
    pixels = Image.fromarray(np.zeros(rle.FRAME_SHAPE, np.uint8))
    streams = []
    for options in ({"format": "TIFF", "compression": "packbits"}, {"format": "PNG"}):
        stream = io.BytesIO()
        pixels.save(stream, **options)
        streams.append(stream.getvalue())
    return streams


if __name__ == "__main__":
    kind, seconds = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        FILE, corpus = Path(folder) / "1_1.tif", Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds(kind)):
            (corpus / str(number)).write_bytes(seed)
        options = [*LIMITS, f"-max_total_time={seconds}", "-max_len=8192", str(corpus)]
        atheris.Setup([sys.argv[0], *options], {"rle": run_lengths, "image": image}[kind])
        atheris.Fuzz()
