"""`python -m benchmarks.fuzz_coverage rle|image SECONDS`: search for bytes that break a parser, guided by coverage.

An input that raises anything but InputError, or takes over 10 s or 2 GB, ends the search with an exit code other than 0
and is kept in the working folder. The search begins with well-formed input: a run-length string, a TIFF and a PNG.
"""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nerveceg_lib.rle", "nerveceg_lib.data.io", "PIL"]):
    import numpy as np
    from PIL import Image, PngImagePlugin, TiffImagePlugin  # noqa: F401 (the readers, to be instrumented)

    from nerveceg_lib import rle
    from nerveceg_lib.data.io import read_frame
    from nerveceg_lib.runtime.errors import InputError

SHAPE = (6, 7)
LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]


def run_lengths(data: bytes) -> None:
    """Check that whatever is decoded is a mask that encodes and decodes to itself."""
    for text in (atheris.FuzzedDataProvider(data).ConsumeUnicode(4096), data.decode("latin-1")):
        try:
            mask = rle.decode(text, SHAPE)
        except InputError:
            continue
        assert mask.shape == SHAPE and np.array_equal(rle.decode(rle.encode(mask), SHAPE), mask)


def image(data: bytes) -> None:
    """Check that whatever is read is a frame of the competition's size."""
    FILE.write_bytes(data)
    try:
        assert read_frame(FILE).shape == rle.FRAME_SHAPE
    except InputError as error:
        assert str(error).startswith(str(FILE))


def seeds(parser: str) -> list[bytes]:
    if parser == "rle":
        return [b"1 3 10 2 40 3", b""]
    streams = []
    for options in ({"format": "TIFF", "compression": "packbits"}, {"format": "PNG"}):
        stream = BytesIO()
        Image.fromarray(np.zeros(rle.FRAME_SHAPE, np.uint8)).save(stream, **options)
        streams.append(stream.getvalue())
    return streams


if __name__ == "__main__":
    parser, seconds = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        FILE, corpus = Path(folder) / "1_1.tif", Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds(parser)):
            (corpus / str(number)).write_bytes(seed)
        options = [*LIMITS, f"-max_total_time={seconds}", "-max_len=8192", str(corpus)]
        atheris.Setup([sys.argv[0], *options], {"rle": run_lengths, "image": image}[parser])
        atheris.Fuzz()
