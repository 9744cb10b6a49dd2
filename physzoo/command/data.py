"""physzoo data: the data of a system in one file, simulated or read from the original ones."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..folder import BadInput, disk_is_full
from .paths import is_file, is_folder

if TYPE_CHECKING:
    from ..models.datasets import Splits


def data(
    name: Annotated[str, typer.Argument(help="pendulum, advection_diffusion, galaxy or locomotion.")],
    out: Annotated[Path, typer.Option(help="The .npz to be written.")],
    source: Annotated[
        Path | None, typer.Option(help="Original file or folder; without it, data are simulated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulation, or of the partition.")] = 0,
    hold_out: Annotated[
        str | None, typer.Option(help="Covariate whose lowest and highest 15 % are the test (locomotion, --source).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing .npz of physzoo data.")] = False,
) -> None:
    """A system's data in one .npz.

    The file holds training, validation and test data, with their truths where they are known.
    """
    from ..models.datasets import SYSTEMS

    # everything that can be refused is refused before the work
    if name not in SYSTEMS:
        raise BadInput(f"name: got '{name}', expected one of {', '.join(SYSTEMS)}")
    if not 0 <= seed < 2**31:
        raise BadInput(f"--seed: got {seed}, expected a number from 0 to {2**31 - 1}")
    chosen = SYSTEMS[name]
    if hold_out is not None and (chosen.hold_out is None or source is None):
        raise BadInput(f"--hold-out: got '{hold_out}' for {name}, expected it with locomotion and --source alone")
    if source is not None and not is_file(source) and not is_folder(source):
        raise BadInput(f"--source: got '{source}', which is not there or no file, expected {chosen.original}")
    _check_target(out, force)
    try:
        if source is None:
            splits = chosen.generate(seed)
        elif hold_out is not None and chosen.hold_out is not None:
            splits = chosen.hold_out(source, seed, hold_out)
        else:
            splits = chosen.read(source, seed)
    except Exception as error:
        if source is None:
            raise  # no fault of the user's
        # a hostile file makes readers raise anything
        first = str(error).split("\n", 1)[0][:320]
        told = (
            first if isinstance(error, ValueError | OSError) else f"{type(error).__name__} while it was read: {first}"
        )
        raise BadInput(f"--{told}" if told.startswith("source: ") else f"--source: {told}") from None
    splits.save(out)
    _tell(splits, chosen.title)
    print(f"written to {out}")


def _check_target(out: Path, force: bool) -> None:
    """Refuse a target that is another thing, that would be written over, or where nothing can be written."""
    from ..core.files import replacing
    from ..models.datasets import Splits

    if out.suffix != ".npz" or is_folder(out):
        raise BadInput(f"--out: got '{out}', expected a file name that ends in .npz")
    there = _there(out)
    if there and not force:
        raise BadInput(f"--out: got '{out}', which is there already, expected a new file, or --force to write over it")
    try:
        if there and not is_file(out):  # a pipe would be waited for
            raise ValueError
        if there:
            Splits.load(out)
    except Exception:
        raise BadInput(
            f"--out: got '{out}', not written by physzoo data, expected a new file: --force spares others"
        ) from None
    missing = [folder for folder in out.parents if not _there(folder)]
    try:
        with replacing(out) as beside:
            beside.touch()
            raise _Writable
    except _Writable:
        pass
    except (OSError, ValueError) as error:
        if disk_is_full(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"--out: got '{out}', expected a file that can be written ({reason})") from None
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


class _Writable(Exception):
    """Ends a trial before anything is renamed."""


def _there(path: Path) -> bool:
    try:
        return os.path.lexists(path)  # a link to nothing is something
    except (OSError, ValueError):
        return False


def _tell(splits: Splits, title: str) -> None:
    print(f"{splits.system}: {title}")
    for part, split in splits.items():
        print(f"  {part:<5} x {tuple(split.x.shape)}")
    if splits.test is None:
        print("  test  none: the source holds no test split")
    train = splits.train
    if train.times is not None:
        print(f"  times {len(train.times)}, from {float(train.times[0]):g} to {float(train.times[-1]):g}")
    for label, group in (("truths", train.truths), ("covariates", train.covariates)):
        if group:
            print(f"  {label} {', '.join(f'{name}{list(value.shape[1:]) or str()}' for name, value in group.items())}")
    print(f"source   {splits.source}\nlicence  {splits.licence}")
