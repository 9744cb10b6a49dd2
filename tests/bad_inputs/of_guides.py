"""Guides, families and encoders, each with cheap arguments that it takes."""

from __future__ import annotations

from typing import Any

import torch

from physzoo import guides
from physzoo.guides.families import FAMILIES

from .pieces import DOUBLE, Y, alone_in_pyro, amortised, bar, flow, line, prior_of_bar, whitening
from .target import DATA, SITE, Target, given


def of_guides() -> list[Target]:
    data, example = {"y": Y}, {"y": Y, "mask": torch.ones(3, dtype=torch.bool)}
    encoders = {
        "MLP": guides.MLP, "Convolution": guides.Convolution, "Attention": guides.Attention,
        "MaskedSet": guides.MaskedSet, "Table": guides.Table,
    }  # fmt: skip
    of_family: dict[str, dict[str, Any]] = {
        "full": {}, "diagonal": {}, "low_rank": {"rank": 1}, "planar": {"layers": 2}, "coupling": {"transforms": 1, "hidden": (4,)},
        "spline": {"transforms": 1, "bins": 4, "hidden": (4,), "tail": None}, "iaf": {"transforms": 1, "hidden": (4,)},
    }  # fmt: skip
    targets = [
        Target(
            "amortize",
            guides.amortize,
            given(model=line(), encoder="mlp", family="full", example=data, simulations=8),
            says=DATA,
        ),
        *(
            Target(
                f"amortize({family})",
                lambda family=family, **options: guides.amortize(
                    line(), None, family, example=data, simulations=0, **options
                ),
                given(**options),
                tuple(options),
            )
            for family, options in of_family.items()
            if options
        ),
        *(Target(f"FAMILIES['{name}']", build, given(features=2, context=0)) for name, build in FAMILIES.items()),
        *(Target(name, encoder, given(example=example), says=DATA) for name, encoder in encoders.items()),
        *(
            Target(
                f"{name}.forward",
                lambda y, mask, encoder=encoder: encoder(example)(y=y, mask=mask),
                given(**example),
                ("y", "mask"),
            )
            for name, encoder in encoders.items()
        ),
        Target(
            "Encoder.standardise",
            lambda draws: guides.MLP(data).standardise(draws),
            given(draws={"y": torch.randn(5, 3, dtype=DOUBLE)}),
            says={"draws": SITE},
        ),
        Target("AmortizedGuide.sample", amortised().sample, given(data=data, draws=2), says=DATA),
        Target(
            "AmortizedGuide.log_prob",
            amortised().log_prob,
            given(values={"z": torch.zeros(2, dtype=DOUBLE)}, data=data),
            ("values", "data"),
            says=DATA | {"values": SITE},
        ),
        Target(
            "AmortizedGuide.whiten",
            lambda whitening: guides.amortize(line(), None, "full", example=data, simulations=0).whiten(whitening),
            lambda: {"whitening": whitening()},
        ),
        Target("AmortizedGuide.whitening", amortised().whitening, given(data=data, draws=20), says=DATA),
        Target(
            "AmortizedGuide()",
            lambda y, mask=None: alone_in_pyro(lambda: amortised()(y=y, mask=mask)),
            given(y=Y),
            ("y", "mask"),
        ),
        Target(
            "Whitening+amortize",
            lambda loc, tril: guides.amortize(
                line(), None, "full", example=data, simulations=0, whitening=guides.Whitening(loc, tril)
            ),
            given(loc=torch.zeros(2, dtype=DOUBLE), tril=torch.eye(2, dtype=DOUBLE)),
            says={"loc": ("whitening",), "tril": ("whitening",)},
        ),
        Target("UnconstrainedSites", guides.UnconstrainedSites, given(model=line(), example=data), says=DATA),
        Target(
            "UnconstrainedSites.constrain",
            guides.UnconstrainedSites(line(), data).constrain,
            given(flat=torch.zeros(2, dtype=DOUBLE)),
        ),
        Target(
            "UnconstrainedSites.flatten",
            guides.UnconstrainedSites(line(), data).flatten,
            given(values={"z": torch.zeros(2, dtype=DOUBLE)}),
            says={"values": SITE},
        ),
        Target("RelaxedBase", guides.RelaxedBase, lambda: {"guide": flow(), "data": data}, says=DATA),
        Target(
            "ResidualGuide",
            guides.ResidualGuide,
            given(guide_z=prior_of_bar, problem=bar(), residual_shape=(3,), scale=0.1),
        ),
        Target(
            "PreconditionedGuide",
            guides.PreconditionedGuide,
            given(
                guide_z=prior_of_bar,
                problem=bar(),
                size=3,
                reference=torch.zeros(4, dtype=DOUBLE),
                scale=0.1,
                modes=2,
                steps=1,
                hidden=(4,),
            ),
            says={"reference": ("log_conductivity", "u:", "z:"), "field": ("z:",)},
        ),
    ]
    return targets
