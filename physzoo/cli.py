"""The command line: physzoo list, show, run, fit, check, compare, data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import endings
from .command.certificates import certificate, certificates
from .command.data import data
from .command.paths import is_folder
from .folder import BadInput

if TYPE_CHECKING:
    from .task import RunOptions

app = typer.Typer(
    help="A zoo of physics-informed generative models in Pyro, each with a certificate of calibration.",
    add_completion=False,
    epilog=endings.STATUSES,
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew in a folder that holds a run: that one goes.")]
Confirm = Annotated[
    bool,
    typer.Option(
        "--confirm", help="Hold the reference against a second one, by stock NUTS: a minute more, or much more."
    ),
]


def main() -> None:
    """Run the command line and end with one of the exit statuses that ``--help`` tells of."""
    words = sys.argv[1:]
    sys.exit(endings.run(lambda: _command(words), words))


def _command(words: list[str]) -> Any:
    """Do what the words say; unlike ``app()`` this leaves every exception, KeyboardInterrupt too, to the endings."""
    command = typer.main.get_command(app)
    if not words:
        print(command.get_help(command.make_context("physzoo", ["list"])))
        return endings.BAD
    with command.make_context("physzoo", words) as context:
        return command.invoke(context)


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
def list_animals(
    long: Annotated[bool, typer.Option("--long", help="Also physics, likelihoods, guide and certificate.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON, for programs.")] = False,
) -> None:
    """Every animal: name, title, what was measured."""
    from .command.listing import animals, print_long, print_table

    if as_json:
        print(json.dumps(animals(), indent=2, ensure_ascii=False))
    elif long:
        print_long(animals())
    else:
        print_table(animals())


@app.command()
def show(name: Name) -> None:
    """Its story: equations, unknowns, priors, recipe, source."""
    from .report.labels import quantity
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
        overwrite: Overwrite = False,
        confirm: Confirm = False,
    ) -> None:
        from .task import RunOptions

        # bars are for people; a log gets one line a step
        progress = sys.stderr is not None and sys.stderr.isatty()
        action(name, out, RunOptions(guide, steps, seed, device, quick, resume, progress, overwrite, confirm))

    command.__name__, command.__doc__ = action.__name__, action.__doc__
    return command


@app.command(epilog=endings.STATUSES)
@_with_options
def run(name: str, out: Path, options: RunOptions) -> None:
    """Data, fit, posterior, reference, calibration, report."""
    from .run import run as whole_run

    whole_run(name, out, options)


@app.command(epilog=endings.STATUSES)
@_with_options
def fit(name: str, out: Path, options: RunOptions) -> None:
    """The fit alone: checkpoint and posterior.nc, no checks."""
    from .run import fit_only

    fit_only(name, out, options)
    print(f"not checked yet: physzoo check {out}")


@app.command(short_help="Calibration of a folder, or the contract of an animal.", epilog=endings.STATUSES)
def check(
    target: Annotated[str, typer.Argument(metavar="DIR|NAME", help="A fitted folder, or an animal.")],
    quick: Quick = False,
) -> int:
    """Is it right? DIR: calibration. NAME: the contract that every animal keeps.

    The calibration is that of an amortised guide itself; for one data set, that of refits of its family near it, by the
    ELBO, and by wake-sleep after it where the recipe is by wake-sleep.
    """
    from .models.registry import names

    if not is_folder(Path(target)) and target in names():
        return _check_contract(target)
    if not is_folder(Path(target)):
        raise BadInput(
            f"DIR|NAME: got '{target}', expected a folder written by physzoo run or fit, or one of {', '.join(names())}"
        )
    from .folder import CALIBRATION, CALIBRATION_FIGURE, Folder
    from .run import check_calibration
    from .task import Budget, restore

    with Folder.open(target, "DIR").locked("DIR"):
        folder, task = restore(target, progress=sys.stderr is not None and sys.stderr.isatty())
        found = check_calibration(task, Budget.of(quick))
        folder.write_json(CALIBRATION, found.to_dict())
        found.plot(folder.file(CALIBRATION_FIGURE))
    print(found.verdict)
    # a quick check has too few data sets for a pass: it fails by what it finds alone
    return endings.FAILED if found.failed or not (quick or found.passed) else endings.GOOD


def _check_contract(name: str) -> int:
    from .models.contract import check_model
    from .task import RunOptions, animal_named, build_task

    animal = animal_named(name)
    task = build_task(animal, RunOptions(), None, 64)
    found = check_model(task.model, task.data, task.guide, raises=False)
    for rule in found:
        answer = "yes" if rule.passed else "NO" if rule.level == "must" else rule.level
        print(f"{answer:<7}{rule.rule}{': ' if rule.found else ''}{rule.found}")
    return endings.GOOD if all(rule.passed for rule in found) else endings.FAILED


@app.command(epilog=endings.STATUSES)
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A report folder, or a posterior (.nc) or reference (.npz).")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same; what A is held against.")],
) -> None:
    """Two posteriors against each other, in units of B's sd."""
    from .command.draws_file import read_draws
    from .inference.compare import compare as hold

    left, right = read_draws(a, "A"), read_draws(b, "B")
    try:
        found = hold(left, right)
    except Exception as error:  # the files are the user's, and what they hold can be anything
        reason = str(error).split("\n", 1)[0][:200]
        raise BadInput(f"A, B: '{a}' and '{b}' cannot be compared: {reason}") from None
    width = max(len(name) for name in found.mean_error_sd)
    print(f"{'unknown':<{width}}  mean error [sd]  sd ratio  W1 [sd]")
    for name, error in found.mean_error_sd.items():
        print(f"{name:<{width}}  {error:+15.3f}  {found.sd_ratio[name]:8.3f}  {found.w1_sd[name]:7.3f}")
    print(found.summary)


app.command(epilog=endings.STATUSES)(data)


if __name__ == "__main__":
    main()
