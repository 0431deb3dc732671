"""The import commands of the command line."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path


def import_frames(options: Namespace) -> None:
    """Copy your own frames and masks into the competition layout.

    A mask has its frame's name, with or without _mask behind it.

    examples:
      nerveceg import-frames scans labels ~/data/mine
      nerveceg import-frames scans labels ~/data/mine --subject '^([A-Z]+)_' --mask-values '#00ff00' --target lesion
    """
    from nerveceg_tools.importers.folder import Layout, import_frames

    names = ("subject", "mask_values", "table", "keep", "on_bad", "target")
    layout = Layout(**{name: getattr(options, name) for name in names})
    print(import_frames(options.images, options.masks, options.out, layout))


def import_masks(options: Namespace) -> None:
    """Turn the masks of another system into a table, to compare them with the kit's own.

    examples:
      nerveceg import-masks ultrasam-masks ~/data/bus-uclm ultrasam.csv
      nerveceg run --only 07 -p bias.other_masks ultrasam.csv
    """
    from nerveceg_tools.importers.masks import import_masks

    print(import_masks(options.masks, options.data, options.out, options.mask_values))


def import_bus_uclm(options: Namespace) -> None:
    """Copy BUS-UCLM (breast ultrasound) into the competition layout.

    examples:
      nerveceg import-bus-uclm download ~/data/bus-uclm
      nerveceg import-bus-uclm ~/Downloads/BUS-UCLM ~/data/bus-uclm
    """
    from nerveceg_tools.importers.bus_uclm import import_bus_uclm

    print(import_bus_uclm(options.source, options.out))


def import_usgra(options: Namespace) -> None:
    """Cut USGRA-seg into the competition layout.

    examples:
      nerveceg import-usgra download ~/data/usgra
      nerveceg import-usgra ~/Downloads/USGRA-seg ~/data/usgra
    """
    from nerveceg_tools.importers.usgra import import_usgra

    print(import_usgra(options.source, options.out, seed=options.seed))


def add_to(commands, add_command: Callable) -> None:
    """Add the import commands and their arguments to a parser's `commands`."""
    add = add_command(commands, import_frames)
    add("images", type=Path, help="folder of frames (PNG, TIFF, JPEG, BMP), also in subfolders")
    add("masks", type=Path, help="folder of masks, laid out like the frames; may be the same folder")
    add("out", type=Path, help="a new or empty folder, for `run -p data_dir`")
    text = "regular expression whose group is the patient in a frame's path (default: the number of its folder, "
    add("--subject", default="", help=f"{text}or for a frame in no folder the first of two numbers in its name)")
    text = "mask values that are sought: 1 2, '#00ff00', or `any` (default: of two values the one that is not 0)"
    values = {"nargs": "+", "default": [], "metavar": "VALUE", "help": text}
    add("--mask-values", **values)
    text = "CSV file whose first column names the frames to copy; its other columns are kept in names.csv"
    add("--frames", type=Path, dest="table", metavar="TABLE", help=text)
    add("--keep", default="", metavar="COLUMN", help="a column of TABLE: frames with 0, no or false there are left out")
    add("--on-bad", default="stop", help="stop at faulty files, or skip them (default: stop)")
    add("--target", default="nerve", help="what the masks outline, for titles and tables (default: nerve)")
    add = add_command(commands, import_masks)
    add("masks", type=Path, help="folder with a mask for each labelled frame, named like it")
    add("data", type=Path, help="folder in competition layout")
    add("out", type=Path, help="the table to write")
    add("--mask-values", **values)
    for preset in (import_bus_uclm, import_usgra):
        add = add_command(commands, preset)
        add("source", help="folder of the data set as it is published, or `download`")
        add("out", type=Path, help="a new or empty folder")
    add("--seed", type=int, default=0, help="seed for choosing the windows (default: 0)")
