"""The objective of grey-box models: the ELBO and regularisers that keep the physics in charge of what it can explain.

    loss = -ELBO + a R_predictive + b R_cleansing + c R_sleep + d R_whole_sleep

    R_predictive    (|PA - P|^2 + |PB - P|^2 + |PAB - PA|^2 + |PAB - PB|^2) / (4 s^2): what the learnt parts add, in
                    units of the noise variance; the posterior predictive check of the paper
    R_cleansing     |h(x, z_A) - stopgrad x_P|^2 / s^2: cleansed data look like the physics
    R_sleep         -log q(z* | x*), x* = physics(z*) + noise, z* ~ prior: the physics guide learns location and width
                    from simulations of the physics alone
    R_whole_sleep   -log q(z* | x*) with z* and x* from the whole model

Squared distances are sums over the data of one data set (so R_predictive and R_cleansing count like the squared errors in
the ELBO), and all terms are means over data sets: weights are pure numbers, and 0 leaves a term out.

Source: Takeishi & Kalousis, arXiv:2102.13156, sections 3.2 and 3.3, whose R_DA2 is |z* - mean of q|^2; here it is the log
density, which trains the width as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.require import flag, real, whole
from ...core.traces import nodes, site_log_probs, total
from ..density.rejected import average
from ..density.shares import accepted_pairs
from .standard import MOST, Batch, drawn_traces


@dataclass(frozen=True)
class GreyBoxELBO:
    """Negative ELBO plus regularisers, of a ``GreyBox`` model and a ``CleansingGuide``.

    Args:
        particles: draws a data set and step.
        predictive, cleansing, sleep, whole_sleep: weights, pure numbers; 0 switches a term off.
        sleepers: simulated data sets a step for the sleep terms; as many as the batch has by default.
        dream_codes: whether R_whole_sleep scores the codes too, or the physics given the codes alone. A guide of codes that
            learns from the dreams of a model which does not yet use its codes may learn to ignore the data.

    Raises:
        ValueError: a negative weight.
        TypeError: the model or the guide lacks what a term needs.
    """

    particles: int = 1
    predictive: float = 0.0
    cleansing: float = 0.0
    sleep: float = 0.0
    whole_sleep: float = 0.0
    sleepers: int | None = None
    dream_codes: bool = True

    def __post_init__(self) -> None:
        whole("particles", self.particles, 1, MOST)
        if self.sleepers is not None:
            whole("sleepers", self.sleepers, 1, MOST)
        for name in ("predictive", "cleansing", "sleep", "whole_sleep"):
            real(name, getattr(self, name), -math.ulp(0.0), math.inf, "a weight of at least 0")
        flag("dream_codes", self.dream_codes)

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the loss, a mean over data sets."""
        return sum(self.terms(model, guide, batch).values(), start=0.0)  # type: ignore[return-value]

    def terms(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms by name."""
        module, family = (getattr(part, "__self__", part) for part in (model, guide))
        for name, part, needed in (("model", module, "physics_alone"), ("guide", family, "cleansed")):
            if not hasattr(part, needed):
                raise TypeError(f"{name}: got {type(part).__name__} without '{needed}', expected a grey-box {name}")
        model_trace, guide_trace, kept = drawn_traces(model, guide, batch, self.particles)
        log_p = total(site_log_probs(model_trace, batch.nesting))
        log_q = total(site_log_probs(guide_trace, batch.nesting))
        terms = {"elbo": average(log_q - log_p, kept)}
        if kept is not None:
            terms["elbo"] = terms["elbo"] - kept.over_sets(kept.log_share)
        decoded = nodes(model_trace)["_RETURN"]["value"]
        variance, dims = module.sd.square(), tuple(range(-module.event_dim, 0))

        def misfit(a: Tensor, b: Tensor) -> Tensor:
            return average((a - b).square().sum(dims), kept) / variance

        if self.predictive:
            pairs = (
                (decoded.without_correction, decoded.physics),
                (decoded.without_dynamics, decoded.physics),
                (decoded.full, decoded.without_correction),
                (decoded.full, decoded.without_dynamics),
            )
            apart = [misfit(a, b) for a, b in pairs if a is not b]
            if apart:
                terms["predictive"] = 0.25 * self.predictive * sum(apart[1:], start=apart[0])
        if self.cleansing:
            cleansed = nodes(guide_trace)["_RETURN"]["value"]["cleansed"]
            terms["cleansing"] = self.cleansing * misfit(cleansed, decoded.physics.detach())
        count = self.sleepers or batch.datasets or 1
        if self.sleep:
            drawn, _ = accepted_pairs(module.physics_alone, count, nesting=0)
            terms["sleep"] = -self.sleep * family.physics.log_prob(drawn, {"x": drawn["x"]}).mean()
        if self.whole_sleep:
            drawn, _ = accepted_pairs(module, count, nesting=0)
            data = {"x": drawn["x"]}
            if batch.data.get("mask") is not None:
                masks = batch.data["mask"].expand(batch.data["x"].shape)
                masks = masks if batch.datasets is not None else masks.unsqueeze(0)
                data["mask"] = masks[torch.arange(count) % len(masks)]
            if self.dream_codes:
                score = family.log_prob(drawn, data)
            else:
                score = family.physics.log_prob(drawn, {"x": family.cleansed(drawn, data)})
            terms["whole_sleep"] = -self.whole_sleep * score.mean()
        return terms


@dataclass(frozen=True)
class DrawnCodesKL:
    """Forward KL of a grey-box guide whose physics are scored beside codes that the guide drew, not the true ones.

        -log q(z_A* | x*) - log q(z_P* | h(x*, z_A)),    (z*, x*) ~ p,  z_A ~ q(z_A | x*)

    At use the guide knows its own codes alone. Where q(z_A | x) is not quite p(z_A | x), as with hundreds of codes, a guide
    of the physics that was trained beside true codes is too narrow; this one approaches p(z_P | x), whatever the codes.
    What it gives up is the dependence of z_P on z_A given x: keep ``ForwardKL`` where q(z_A | x) is good.

    Raises:
        ValueError: the batch holds no unknowns.
        TypeError: the guide is not one of a grey-box model, or has no codes.
    """

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the loss, a mean over data sets."""
        family: Any = getattr(guide, "__self__", guide)
        if not hasattr(family, "cleansed"):
            raise TypeError(f"guide: got {type(family).__name__} without 'cleansed', expected a grey-box guide")
        if getattr(family, "codes", None) is None:
            raise TypeError(
                f"guide: got {type(family).__name__} without codes, expected one of a model with learnt parts"
            )
        if not batch.latents:
            raise ValueError("data: got data without their unknowns, expected a Simulator for the forward KL")
        drawn = {name: value.squeeze(0) for name, value in family.codes.sample(batch.data, 1).items()}
        inner = family.physics.log_prob(batch.latents, {"x": family.cleansed(drawn, batch.data)})
        return -(family.codes.log_prob(batch.latents, batch.data) + inner).mean()
