"""What the rules of the contract look at: a model with its data, guide and physics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pyro import poutine
from torch import Tensor

from ..core.prototype import prototype
from ..core.sites import observed_sites
from ..core.traces import nodes
from ..guides import amortize

SOLVERS = ("solve", "residual", "branches", "incomplete")  # what a model may ask its problem for


VANISHES = 1e-8  # a residual at the solution, of its size at states that are no solution


NEAR = 1e-2  # of a state that is no solution, from one that is: further off, an equation may have no flow


DRAWS = 8  # of the prior


STEP = 1e-5  # of a directional derivative, of the unknown's own size


class NotChecked(Exception):
    """A rule cannot be looked at because another is broken."""


class Subject:
    """A model with one data set and a guide; what is found on the way is kept for the next rule."""

    def __init__(self, model: Callable[..., Any], data: Mapping[str, Any], guide: Callable[..., Any] | None) -> None:
        self.model, self.data, self._guide = model, data, guide
        self._failed: set[str] = set()

    @property
    def trace(self) -> poutine.Trace:
        """A run of the model under its prior."""
        return self._once("the model does not run", lambda: self._trace)

    @property
    def guide(self) -> Callable[..., Any]:
        """The guide that was given, or one that is built."""
        return self._once("no guide could be built", lambda: self._built)

    @cached_property
    def _trace(self) -> poutine.Trace:
        return prototype(self.model, self.data)

    @cached_property
    def _built(self) -> Callable[..., Any]:
        if self._guide is not None:
            return self._guide
        _ = self.trace
        return amortize(self.model, None, "full", example=self.data)

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that are not the value of an observed site: covariates, times, masks."""
        sites = nodes(self.trace)
        return {n: v for n, v in self.data.items() if n not in sites or not sites[n].get("is_observed")}

    @property
    def observed(self) -> dict[str, Tensor]:
        """The data that are the value of an observed site."""
        sites = observed_sites(self.trace)
        return {name: value for name, value in self.data.items() if name in sites and isinstance(value, Tensor)}

    @property
    def problem(self) -> Any:
        """The model's equation, where it has one."""
        return getattr(self.model, "problem", None)

    def _once(self, reason: str, make: Callable[[], Any]) -> Any:
        """Return what is made, or raise what went wrong: the first time as it is, later as the reason."""
        if reason in self._failed:
            raise NotChecked(reason)
        try:
            return make()
        except NotChecked:
            raise
        except (Exception, SystemExit):
            self._failed.add(reason)
            raise
