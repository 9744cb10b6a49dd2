"""How many draws the physics rejects: counted as models run, judged over the steps of a fit, drawn again in simulations."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...core.arguments import Data
from ...core.global_state import seeded
from ...core.plates import plate_nesting
from ...core.prototype import prototype
from ...core.simulate import simulate
from .rejected import ADVICE, RejectedError, outermost, rejection

MUCH = 0.5  # a share above which the fit ends
WORTH_TELLING = 0.05
WINDOW = 200  # steps over which the share is judged


class RejectedWarning(UserWarning):
    """The physics rejected a share of the draws, which were left out."""


@dataclass(frozen=True)
class Loss:
    """How many of some draws a site rejected."""

    site: str = ""
    gone: int = 0
    draws: int = 1

    @property
    def share(self) -> float:
        return self.gone / self.draws


class Watch(Messenger):
    """Counts draws and rejected draws, site by site, of the models and guides that run inside it.

    Args:
        nesting: depth of the model's own plates.
    """

    def __init__(self, nesting: int) -> None:
        super().__init__()
        self.nesting = nesting
        self.draws: dict[str, int] = {}
        self.gone: dict[str, int] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if poutine.util.site_is_subsample(msg):
            return
        name, shape = msg["name"], msg["fn"].batch_shape
        if type(msg["fn"]).__name__ != "Unit":
            self.draws[name] = self.draws.get(name, 0) + shape[: max(len(shape) - self.nesting, 0)].numel()
        hit = rejection(name, msg)
        if hit is not None:
            gone = outermost(hit[1], self.nesting)
            self.gone[hit[0]] = self.gone.get(hit[0], 0) + int(gone.sum())
            self.draws.setdefault(hit[0], gone.numel())

    def worst(self) -> Loss:
        """Return how many draws the site rejected that rejected the largest share."""
        shares = {name: gone / max(self.draws[name], gone) for name, gone in self.gone.items() if gone}
        if not shares:
            return Loss(draws=max(self.draws.values(), default=1))
        site = max(shares, key=lambda name: shares[name])
        return Loss(site, self.gone[site], max(self.draws[site], self.gone[site]))


@dataclass
class Share:
    """The share of rejected draws over the last steps of a fit: told once where it matters, the end of the fit above a half.

    A share is judged by two of its standard errors, so that a fit of one draw a step is not ended by a run of bad luck.
    """

    def __post_init__(self) -> None:
        self.steps: deque[tuple[Loss, bool]] = deque(maxlen=WINDOW)
        self.gone = 0  # of all draws in ``steps``
        self.told = False

    def count(self, loss: Loss, used: bool = True) -> None:
        """Add a step: how many of its draws a site rejected, and whether any was left to learn from."""
        self.gone += loss.gone - (self.steps[0][0].gone if len(self.steps) == WINDOW else 0)
        self.steps.append((loss, used))

    def check(self, done: bool = False) -> None:
        """Judge the steps so far, if they are enough or the fit is ``done``.

        Raises:
            RejectedError: more than a half of the draws were rejected, or no step was of use.
        """
        none_of_use = not any(used for _, used in self.steps)
        if not self.gone or not (done or none_of_use or len(self.steps) == WINDOW):
            return
        draws = sum(loss.draws for loss, _ in self.steps)
        share, site = self.gone / draws, max((loss for loss, _ in self.steps), key=lambda loss: loss.gone).site
        enough = done or len(self.steps) >= WINDOW // 10
        if share > MUCH + draws**-0.5 or (none_of_use and enough):
            steps = f"the last {len(self.steps)} steps" if len(self.steps) > 1 else "the only step"
            raise RejectedError(
                f"site '{site}': got {share:.0%} of the draws of {steps} rejected, expected at most half; {ADVICE}"
            )
        if share > WORTH_TELLING and not self.told:
            self.told = True
            warnings.warn(
                f"site '{site}': {share:.0%} of the draws were rejected and left out", RejectedWarning, stacklevel=4
            )


@contextmanager
def told_once() -> Iterator[None]:
    """Keep the warnings of single rejections to ourselves; the share is told instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="site '.*': samples without a solution")
        warnings.filterwarnings(
            "ignore", message="Encountered (NaN|[+]?inf)"
        )  # Pyro's, of what is told by a site's name
        yield


class _Marks(Watch):
    """Which of the data sets of one batched run are rejected."""

    mask: Tensor | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if poutine.util.site_is_subsample(msg):
            return
        super()._pyro_post_sample(msg)
        hit = rejection(msg["name"], msg)
        if hit is not None:
            gone = outermost(hit[1], self.nesting)
            self.mask = gone if self.mask is None else self.mask | gone


def accepted_pairs(
    model: Callable[..., Any],
    count: int,
    given: Data | None = None,
    seed: int | None = None,
    nesting: int | None = None,
) -> tuple[dict[str, Tensor], Loss]:
    """Return ``simulate``'s pairs without those that are rejected or not finite, others drawn in their place; and the share.

    Raises:
        RejectedError: hardly any is accepted.
    """
    nesting = plate_nesting(prototype(model, given)) if nesting is None else nesting
    parts, have, total, lost, site = [], 0, 0, 0, ""
    with seeded(seed):
        while have < count:
            if total >= 16 * count + 256:
                got = f"{lost} of {total} simulations rejected or not finite"
                raise RejectedError(f"site '{site}': got {got}, expected at most half; {ADVICE}")
            pairs, gone, which = _marked(model, count, given, nesting)
            total += count
            if gone is None:
                good = pairs
            else:
                site, lost = which, lost + int(gone.sum())
                good = {name: value[~gone.to(value.device)] for name, value in pairs.items()}
            if not good:
                raise ValueError("model: got no site in it, expected unknowns and data, each a pyro.sample")
            parts.append(good)
            have += len(next(iter(good.values())))
    if len(parts) == 1:
        return parts[0], Loss(site, lost, total)
    joined = {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}
    return joined, Loss(site, lost, total)


def _marked(
    model: Callable[..., Any], count: int, given: Data | None, nesting: int
) -> tuple[dict[str, Tensor], Tensor | None, str]:
    """Draw pairs; say which are rejected or not finite, and at which site."""
    marks = _Marks(nesting)

    def watched(**arguments: Any) -> Any:
        with marks:
            return model(**arguments)

    watched.__name__ = getattr(model, "__name__", type(model).__name__)
    pairs = simulate(watched, count, given, nesting=nesting)
    site, gone = marks.worst().site, marks.mask
    gone = None if gone is None else gone.expand(count)
    for name, value in pairs.items():
        wrong = ~torch.isfinite(value).reshape(count, -1).all(-1)
        if bool(wrong.any()):
            site = site or name
            gone = wrong if gone is None else gone.to(wrong.device) | wrong
    return pairs, gone, site
