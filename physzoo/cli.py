"""The command line: physzoo list, show, run, fit, check, compare, data."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .data_command import data
from .folder import BadInput

if TYPE_CHECKING:
    from .task import RunOptions

app = typer.Typer(
    help="A zoo of physics-informed generative models in Pyro, each with a certificate of calibration.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="An animal, as in physzoo list.")]
Out = Annotated[Path, typer.Option(help="Folder of the report.")]
Guide = Annotated[
    str | None,
    typer.Option(
        help="Guide family: diagonal, low_rank, full, planar, coupling, iaf, spline; for animals without one of their own."
    ),
]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps; the recipe's by default.")]
Seed = Annotated[int, typer.Option(help="Seed of initial weights, fit and checks; the data stay the same.")]
Device = Annotated[str | None, typer.Option(help="Where the fit runs: cpu, cuda, ...")]
Quick = Annotated[bool, typer.Option("--quick", help="A tenth of the steps and few draws; not to be judged by.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in the folder.")]


def main() -> None:
    """Run the command line: exit status 1 if a check failed, 2 for a user's mistake, told in one sentence."""
    # the class of all mistakes in arguments, wherever this version of typer keeps it
    usage_error: Any = typer.BadParameter.__bases__[0]
    with warnings.catch_warnings():
        # a rejected draw (SolverWarning) is part of sampling, and a hopeless guide has infinite weights: the verdict tells
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            status = app(standalone_mode=False)
        except BadInput as error:
            status = _complain(str(error), 2)
        except usage_error as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
                print(error.format_message())
                status = 2
            else:
                status = _complain(error.format_message(), 2)
        except (KeyboardInterrupt, typer.Abort):
            status = _complain("interrupted; the same command with --resume goes on", 130)
        except Exception as error:
            status = _of_a_fit(error)
    sys.exit(status if isinstance(status, int) else 0)


def _of_a_fit(error: Exception) -> int:
    """Tell of what a fit can stop at, and raise all else; torch is imported here, where an action has done so before."""
    from .inference.checkpoint import CheckpointError
    from .inference.guard import NonFiniteError

    if isinstance(error, CheckpointError):
        return _complain(str(error), 2)
    if isinstance(error, NonFiniteError):
        return _complain(f"the fit stopped at {error}", 1)
    raise error


def _complain(sentence: str, status: int) -> int:
    print(f"physzoo: {' '.join(sentence.split())}", file=sys.stderr)
    return status


def _version(wanted: bool) -> None:
    if wanted:
        print(version("physzoo"))
        raise typer.Exit


@app.callback()
def _common(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_animals() -> None:
    """Every animal: physics, likelihoods, guide, certificate."""
    from .models.registry import get, names

    found = certificates()
    rows = [("name", "title", "physics", "likelihoods", "guide", "certificate")]
    for name in names():
        animal = get(name)
        words = certificate(found.get(name))
        rows.append((name, animal.title, animal.physics, ", ".join(animal.likelihoods), animal.guide, words))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def show(name: Name) -> None:
    """Its story: equations, unknowns, priors, recipe, source."""
    from .labels import quantity
    from .task import animal_named

    animal = animal_named(name)
    print(f"{animal.name}: {animal.title}\n\n{animal.story}\n")
    print("unknowns")
    for site, prior in animal.priors.items():
        meaning = quantity(animal, site)
        dims = f" ({', '.join(meaning.dims)})" if meaning.dims else ""
        print(f"  {site}{dims}: {meaning.label} [{meaning.unit}], prior {prior}")
    print("data")
    for site, value in animal.data().items():
        meaning, shape = quantity(animal, site), tuple(getattr(value, "shape", ()))
        print(f"  {site}: {meaning.label} [{meaning.unit}], shape {shape}")
    recipe = animal.recipe
    training, many = animal.training, recipe.encoder is not None
    source = "training data" if training is not None else "simulations" if many else "its one data set"
    first, last = (None, None) if training is None else (training.start, training.finish)
    stages = [
        "" if first is None else f"{first['steps']} steps of the guide alone on simulations of the physics, then "
    ]
    stages.append(f"{recipe.steps} steps on {source}")
    stages.append(
        "" if last is None else f", then {last['steps']} of the guide alone on simulations of the trained model"
    )
    print(f"recipe\n  guide {animal.guide}, objective {animal.objective}, {''.join(stages)}")
    print(f"likelihoods\n  {', '.join(animal.likelihoods)}")
    print(f"certificate\n  {certificate(certificates().get(name))}")
    print(f"source\n  {animal.source}")


def _with_options(action: Callable[[str, Path, RunOptions], None]) -> Callable[..., None]:
    """The command of an action on an animal, a folder and the options that run and fit share."""

    def command(
        name: Name,
        out: Out,
        guide: Guide = None,
        steps: Steps = None,
        seed: Seed = 0,
        device: Device = None,
        quick: Quick = False,
        resume: Resume = False,
    ) -> None:
        from .task import RunOptions

        # bars are for people; a log gets one line a step
        action(name, out, RunOptions(guide, steps, seed, device, quick, resume, progress=sys.stderr.isatty()))

    command.__name__, command.__doc__ = action.__name__, action.__doc__
    return command


@app.command()
@_with_options
def run(name: str, out: Path, options: RunOptions) -> None:
    """Data, fit, posterior, check against the reference, calibration, report."""
    from .run import run as whole_run

    whole_run(name, out, options)


@app.command()
@_with_options
def fit(name: str, out: Path, options: RunOptions) -> None:
    """The fit alone: checkpoint and posterior.nc, no checks."""
    from .run import fit_only

    fit_only(name, out, options)
    print(f"not checked yet: physzoo check {out}")


@app.command()
def check(
    target: Annotated[str, typer.Argument(metavar="DIR|NAME", help="A fitted folder, or an animal.")],
    quick: Quick = False,
) -> int:
    """Is it right? DIR: calibration. NAME: the contract that every animal keeps.

    The calibration is that of an amortised guide itself; for one data set, that of refits of its family near it, by the
    ELBO, and by wake-sleep after it where the recipe is by wake-sleep.
    """
    from .models.registry import names

    if not Path(target).is_dir() and target in names():
        return _check_contract(target)
    if not Path(target).is_dir():
        raise BadInput(
            f"DIR|NAME: got '{target}', expected a folder written by physzoo run or fit, or one of {', '.join(names())}"
        )
    from .folder import CALIBRATION, CALIBRATION_FIGURE
    from .run import check_calibration
    from .task import Budget, restore

    folder, task = restore(target, progress=sys.stderr.isatty())
    found = check_calibration(task, Budget.of(quick))
    folder.write_json(CALIBRATION, found.to_dict())
    found.plot(folder.file(CALIBRATION_FIGURE))
    print(found.verdict)
    # a quick check has too few data sets for a pass: it fails by what it finds alone
    return 1 if found.failed or not (quick or found.passed) else 0


def _check_contract(name: str) -> int:
    from .models.contract import check_model
    from .task import RunOptions, animal_named, build_task

    animal = animal_named(name)
    task = build_task(animal, RunOptions(), None, 64)
    found = check_model(task.model, task.data, task.guide, raises=False)
    for rule in found:
        print(f"{'yes' if rule.passed else 'NO ':<4}{rule.rule}{': ' if rule.found else ''}{rule.found}")
    return 0 if all(rule.passed for rule in found) else 1


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A report folder, or a posterior (.nc) or reference (.npz).")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same; what A is held against.")],
) -> None:
    """Two posteriors against each other, in units of B's sd."""
    from .inference.compare import compare as hold

    left, right = _draws(a, "A"), _draws(b, "B")
    try:
        found = hold(left, right)
    except (ValueError, TypeError) as error:
        raise BadInput(f"A, B: '{a}' and '{b}' cannot be compared: {error}") from None
    width = max(len(name) for name in found.mean_error_sd)
    print(f"{'unknown':<{width}}  mean error [sd]  sd ratio  W1 [sd]")
    for name, error in found.mean_error_sd.items():
        print(f"{name:<{width}}  {error:+15.3f}  {found.sd_ratio[name]:8.3f}  {found.w1_sd[name]:7.3f}")
    print(found.summary)


def _draws(path: Path, argument: str) -> Any:
    """Read draws from a report folder, a posterior or a reference."""
    from .folder import POSTERIOR
    from .inference.reference import Reference

    file = path / POSTERIOR if path.is_dir() else path
    wrong = BadInput(f"{argument}: got '{path}', expected a report folder, a posterior (.nc) or a reference (.npz)")
    if not file.is_file():
        raise wrong
    try:
        if file.suffix == ".npz":
            return Reference.load(file)
        from xarray import load_datatree

        tree = load_datatree(file, engine="h5netcdf")
    except (ValueError, OSError, KeyError):
        raise wrong from None
    if "posterior" not in tree.children:
        raise wrong
    return tree


app.command()(data)


def certificates() -> dict[str, dict[str, Any]]:
    """Return the certificates that come with the package, animal -> certificate, empty if there are none."""
    packaged = files("physzoo.models").joinpath("data/certificates.json")
    if not packaged.is_file():
        return {}
    found = json.loads(packaged.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def certificate(found: dict[str, Any] | None) -> str:
    """Return a certificate in a few words, "-" where there is none."""
    if not found:
        return "-"
    parts = [f"C2ST {found['c2st']:.3f}"] if isinstance(found.get("c2st"), float) else []
    parts += [str(found[key]) for key in ("calibration", "date", "command") if found.get(key)]
    return ", ".join(parts) or "-"


if __name__ == "__main__":
    main()
