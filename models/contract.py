"""The contract that every model of the zoo keeps, as checks that anybody can run on a model of their own, also by pytest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyro import get_param_store
from torch import Tensor, nn

from ..core.require import function, named, shown
from . import contract_physics
from . import contract_rules as rules
from .contract_subject import NotChecked, Subject

Level = Literal["must", "should", "advice"]
LEVELS: tuple[Level, ...] = ("must", "should", "advice")

# what a broken rule costs: wrong or no answers (must), some uses of the model (should), a convenience (advice)
RULES: dict[str, tuple[Level, Callable[[Subject], str]]] = {
    "the model runs": ("must", rules.runs),
    "the density is finite under the prior": ("must", rules.finite),
    "guide sites and supports are the model's": ("must", rules.same_sites),
    "any batch shape": ("must", rules.batch_shapes),
    "float32 and float64": ("should", rules.precisions),
    "a gradient for every parameter": ("must", rules.gradients),
    "the same seed gives the same draws": ("must", rules.reproducible),
    "the state survives a round trip": ("must", rules.round_trip),
    "a mask is taken": ("advice", rules.takes_mask),
    "a mask hides data": ("must", rules.mask_hides),
    "operators are differentiable and residuals vanish": ("must", contract_physics.physics),
}


class ContractError(ValueError):
    """A model or guide breaks a rule of the contract; the message lists every broken rule."""


@dataclass(frozen=True)
class Check:
    """One rule: its name, whether it holds, what was found, and how much it matters."""

    rule: str
    passed: bool
    found: str = ""
    level: Level = "must"


def check_model(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    guide: Callable[..., Any] | None = None,
    *,
    raises: bool | Level = True,
    skip: Collection[str] = (),
) -> tuple[Check, ...]:
    """Check the rules of CONTRIBUTING.md that a machine can check, on one model and guide.

    A rule is of one of three levels: "must" (else answers are wrong, or there are none), "should" (else some uses of the
    model are closed) and "advice" (a convenience). Pyro's parameter store and torch's generators are left as they were.

    Args:
        model: a Pyro model of one data set, a module or a function; best in float64.
        data: the arguments of one data set; floating-point tensors in the precision of the model.
        guide: a guide of it; a full-rank Gaussian one is built where none is given.
        raises: the weakest level of which a broken rule raises; ``True`` is "must", ``False`` is none.
        skip: names of rules (``RULES``) that are left out.

    Returns:
        One ``Check`` for each rule, whatever the model does.

    Raises:
        ContractError: a rule is broken of a level that raises; the message names the broken rules of every level.
        TypeError: the model or the guide cannot be called, or the data are no mapping.
        ValueError: an unknown level or rule.

    Example:
        >>> check_model(LynxHare(), hudson_bay())  # doctest: +SKIP
        >>> check_model(model, data, raises="advice", skip=["a mask is taken"])  # doctest: +SKIP
    """
    function("model", model)
    named("data", data)
    if guide is not None:
        function("guide", guide)
    fatal = _levels(raises)
    _check_skip(skip)
    store = get_param_store()
    held: Any = store.get_state()
    # a module that is run enters its parameters there, and would be given those that another has left under the same name
    kept = {name: value for name, value in held["params"].items() if not isinstance(value, nn.Parameter)}
    with store.scope({"params": kept, "constraints": {name: held["constraints"][name] for name in kept}}):
        results = _results(Subject(model, data, guide), skip)
    broken = [check for check in results if not check.passed]
    if any(check.level in fatal for check in broken):
        name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", "the model")
        told = "; ".join(f"{check.rule} ({check.level}): {check.found}" for check in broken)
        raise ContractError(f"model: {name} breaks {len(broken)} rule(s): {told}")
    return results


def _check_skip(skip: Any) -> None:
    names = [] if isinstance(skip, str) or not isinstance(skip, list | tuple | set | frozenset) else skip
    if names is not skip or not all(isinstance(name, str) and name in RULES for name in names):
        raise ValueError(f"skip: got {shown(skip)}, expected names of rules, such as {next(iter(RULES))!r}")


def _levels(raises: Any) -> tuple[str, ...]:
    if isinstance(raises, bool):
        return ("must",) if raises else ()
    if not isinstance(raises, str) or raises not in LEVELS:
        raise ValueError(f"raises: got {shown(raises)}, expected True, False or one of {', '.join(LEVELS)}")
    return LEVELS[: LEVELS.index(raises) + 1]


def _results(subject: Subject, skip: Collection[str]) -> tuple[Check, ...]:
    found = []
    for rule, (level, check) in RULES.items():
        if rule in skip:
            continue
        try:
            words = check(subject)
        except NotChecked as reason:
            words = f"not checked: {reason}"
        except (Exception, SystemExit) as error:  # a model of somebody else's raises what it likes
            words = f"{type(error).__name__}: {_reason(error)}"
        found.append(Check(rule, not words, words, level))
    return tuple(found)


def _reason(error: BaseException) -> str:
    try:
        return (str(error).strip() or "no reason given").split("\n", 1)[0][:200]
    except Exception:
        return "no reason given"


@dataclass(frozen=True)
class RuleOf:
    """One rule of the contract on one model; a call checks it.

    Attributes:
        rule: its name, a key of ``RULES``.
        subject: model, data and, where there is one, guide.
        raises: the weakest level that fails.
    """

    rule: str
    subject: tuple[Any, ...]
    raises: bool | Level = True

    def __call__(self) -> None:
        """Check the rule.

        Raises:
            ContractError: it is broken, and of a level that fails.
        """
        check_model(*self.subject, raises=self.raises, skip=[rule for rule in RULES if rule != self.rule])


def checks(
    models: Iterable[tuple[Any, ...]], *, raises: bool | Level = True, skip: Collection[str] = ()
) -> list[tuple[str, RuleOf]]:
    """Return name and check of every rule on every model; nothing is run yet.

    Args:
        models: (model, data) or (model, data, guide).
        raises: the weakest level that fails: ``True`` for "must", "should" or "advice".
        skip: names of rules that are left out.

    Raises:
        ValueError: an entry that is no such tuple.
    """
    _levels(raises)
    _check_skip(skip)
    if isinstance(models, str | bytes | Mapping | Tensor) or not isinstance(models, Iterable):
        raise TypeError(f"models: got {shown(models)}, expected tuples (model, data) or (model, data, guide)")
    try:
        subjects = list(models)
    except Exception as error:  # somebody else's iterator
        raise TypeError(f"models: got {shown(models)}, expected tuples, not a failure ({error})") from None
    found = []
    for index, subject in enumerate(subjects):
        if not isinstance(subject, tuple | list) or len(subject) not in (2, 3):
            raise ValueError(
                f"models: got {type(subject).__name__}, expected tuples (model, data) or (model, data, guide)"
            )
        model: Callable[..., Any] = subject[0]
        name = getattr(model, "__name__", type(model).__name__)
        for rule in RULES:
            if rule not in skip:
                found.append((f"{name}{index}: {rule}", RuleOf(rule, tuple(subject), raises)))
    return found


def parametrize_with_checks(
    models: Iterable[tuple[Any, ...]], *, raises: bool | Level = True, skip: Collection[str] = ()
) -> Any:
    """Return a decorator that gives a test one check of the contract after the other, as argument ``check``.

    Args:
        models, raises, skip: as in ``checks``.

    Example:
        >>> from physzoo.models import parametrize_with_checks  # doctest: +SKIP
        >>> @parametrize_with_checks([(Cooling(), {"y": torch.zeros(6)})])  # doctest: +SKIP
        ... def test_contract(check):
        ...     check()
    """
    import pytest

    named = checks(models, raises=raises, skip=skip)
    return pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in named])
