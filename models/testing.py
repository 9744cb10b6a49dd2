"""The contract as a pytest parametrisation, for the tests of other people's packages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from .contract import RULES, Level, check_model


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
    found = []
    for index, subject in enumerate(models):
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
        >>> from physzoo.models.testing import parametrize_with_checks  # doctest: +SKIP
        >>> @parametrize_with_checks([(Cooling(), {"y": torch.zeros(6)})])  # doctest: +SKIP
        ... def test_contract(check):
        ...     check()
    """
    import pytest

    named = checks(models, raises=raises, skip=skip)
    return pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in named])
