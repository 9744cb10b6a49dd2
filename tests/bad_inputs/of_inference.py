"""Fits, posteriors, references and checks, each with cheap arguments that it takes."""

from __future__ import annotations

import inspect
from copy import deepcopy

import numpy as np
import torch

import physzoo
from physzoo import physics
from physzoo.inference.calibration import calibrate_draws, data_checks, sbc, tarp
from physzoo.inference.compare import c2st
from physzoo.inference.fit import simulated_once
from physzoo.inference.importance import k_hat, smoothed, weights_of
from physzoo.inference.modes import laplace_mixture, point_estimate
from physzoo.inference.objectives import GreyBoxELBO, Reweighted
from physzoo.inference.objectives import draws as distil
from physzoo.inference.posterior import sample
from physzoo.inference.references import quadrature as reference_grid
from physzoo.inference.references import result as reference

from .pieces import (
    DOUBLE,
    Y,
    amortised,
    bar,
    basis,
    draws,
    folder,
    line,
    of_reference,
    of_sets,
    reference_file,
    single,
    tree,
    unknowns,
)
from .target import BATCH, DATA, QUIET, SITE, Target, given


def of_inference() -> list[Target]:
    data = {"y": Y}
    model = {"model": line(), "data": data}
    both = {"model": line(), "guide": amortised(), "data": data}
    rng = np.random.default_rng(0)
    truths, drawn = {"z": rng.normal(size=(6, 2))}, {"z": rng.normal(size=(5, 6, 2))}
    logs = (rng.normal(size=6), rng.normal(size=(5, 6)))
    options = {name: one.default for name, one in inspect.signature(physzoo.FitOptions).parameters.items()}
    options.pop("facts")
    return [
        Target(
            "fit",
            physzoo.fit,
            given(**both, objective=physzoo.ELBO(), options=physzoo.FitOptions(steps=1, **QUIET)),
            ("model", "guide", "data", "objective", "options"),
            says=DATA,
            slow=(("options", "None"),),
        ),
        Target(
            "fit(**options)",
            lambda **options: physzoo.fit(**both | {"guide": deepcopy(amortised())}, **options),
            given(**options | {"steps": 1} | QUIET, facts={}),
            says={"held_out": (*SITE, "data")},
        ),
        Target("FitOptions", physzoo.FitOptions, given()),
        Target("DataSets", physzoo.DataSets, given(data={"y": torch.zeros(4, 3, dtype=DOUBLE)}), says=DATA),
        Target("Simulator", physzoo.Simulator, given(), says={"given": SITE, "seen": SITE}),
        Target(
            "fit(DataSets)",
            lambda data, batch_size=2, latents=None: physzoo.fit(
                line(), amortised(), physzoo.DataSets(data, batch_size, latents), steps=1, **QUIET
            ),
            given(data={"y": torch.zeros(4, 3, dtype=DOUBLE)}),
            says=DATA,
        ),
        Target(
            "fit(Simulator)",
            lambda batch_size=4, given=None, corrupt=None, seen=None: physzoo.fit(
                line(),
                amortised(),
                physzoo.Simulator(batch_size, given, corrupt, seen),
                physzoo.ForwardKL(),
                steps=1,
                **QUIET,
            ),
            given(),
            says={"given": (*SITE, "data"), "seen": SITE},
        ),
        Target(
            "simulated_once",
            simulated_once,
            given(model=line(), guide=amortised(), simulations=8),
            says=DATA | {"given": (*SITE, "data")},
        ),
        Target("ELBO", physzoo.ELBO, given()),
        Target(
            "ForwardKL",
            physzoo.fit,
            given(**{**both, "data": physzoo.Simulator(4)}, objective=physzoo.ForwardKL(), steps=1, **QUIET),
            ("data", "objective", "steps"),
            says=DATA,
        ),
        Target("Reweighted", Reweighted, given()),
        Target("Mixture", physzoo.Mixture, given(terms=((1.0, physzoo.ELBO()),))),
        Target("GreyBoxELBO", GreyBoxELBO, given()),
        Target("Renyi", physzoo.Renyi, given()),
        Target("AlphaJS", physzoo.AlphaJS, given()),
        Target("MMD", physzoo.MMD, given()),
        Target("SlicedWasserstein", physzoo.SlicedWasserstein, given()),
        Target("DrawsKL", distil.DrawsKL, given(draws={"z": torch.zeros(4, 2, dtype=DOUBLE)}), says={"draws": SITE}),
        Target("posterior", physzoo.posterior, given(**both, draws=3), says=DATA | {"dims": ("z",)}),
        Target("sample", sample, given(guide=amortised(), data=data, draws=3), says=DATA),
        Target("laplace", physzoo.laplace, given(**model, starts=1, climbers=2, candidates=4), says=DATA),
        Target("laplace_mixture", laplace_mixture, given(**model, starts=2, candidates=4), says=DATA),
        Target("point_estimate", point_estimate, given(**model, starts=1, climbers=2, candidates=4), says=DATA),
        Target(
            "hmc",
            physzoo.hmc,
            given(
                **model,
                loc=torch.zeros(2, dtype=DOUBLE),
                tril=torch.eye(2, dtype=DOUBLE),
                chains=2,
                draws=4,
                warmup=20,
                **QUIET,
            ),
            says=BATCH,
        ),
        Target(
            "nuts",
            physzoo.nuts,
            given(**model, chains=1, draws=4, warmup=2, **QUIET),
            says=DATA | {"initial": ("z",)},
            slow=(("workers", "3"),),
        ),
        Target("pcn", physzoo.pcn, given(**model, chains=2, draws=2, warmup=8, thin=1, **QUIET), says=BATCH),
        Target("smc", physzoo.smc, given(**model, runs=2, particles=12, moves=1, final=1, **QUIET), says=DATA),
        Target("grid", reference_grid.grid, given(**model, points=5), says=DATA),
        Target("total_variation", reference_grid.total_variation, given(p=np.full(4, 0.25), q=np.full(4, 0.25))),
        Target(
            "compare",
            physzoo.compare,
            given(draws={"z": draws()["z"][0]}, reference={"z": draws()["z"][1]}),
            says={"draws": ("z",), "reference": ("z",)},
        ),
        Target("c2st", c2st, given(draws=draws()["z"][0], reference=draws()["z"][1])),
        Target(
            "calibrate",
            physzoo.calibrate,
            given(model=line(), guide=amortised(), datasets=4, draws=4, **QUIET),
            says=DATA | {"given": (*SITE, "mask"), "pairs": (*SITE, "model"), "simulator": ("pairs",)},
        ),
        Target(
            "calibrate_draws",
            calibrate_draws,
            given(truths=truths, draws=drawn, log_likelihood=logs, log_joint=logs, log_q=logs),
            says={"truths": ("z",), "draws": ("z",)},
        ),
        Target(
            "posterior_sbc",
            physzoo.posterior_sbc,
            given(**{**both, "guide": single()}, datasets=4, draws=4, family="diagonal", steps=1, particles=1, **QUIET),
            says=DATA | {"learning_rate": ("guide",)},
        ),
        Target("data_checks", data_checks, given(**both, draws=60), says=DATA),
        Target("importance_resample", physzoo.importance_resample, lambda: {"tree": tree()}),
        Target("weights_of", weights_of, lambda: {"tree": tree()}),
        Target("smoothed", smoothed, given(log_p=rng.normal(size=30), log_q=rng.normal(size=30))),
        Target("k_hat", k_hat, given(log_p=rng.normal(size=30), log_q=rng.normal(size=30))),
        Target(
            "fit_surrogate",
            lambda **a: physzoo.fit_surrogate(physics.Surrogate(bar(), unknowns(), basis(), (4,)), **a),
            given(z=unknowns(), u=None, weight="energy", batch_size=4, options=None, steps=1, **QUIET),
        ),
        Target(
            "fit_surrogate(surrogate)",
            physzoo.fit_surrogate,
            lambda: {
                "surrogate": physics.Surrogate(bar(), unknowns(), basis(), (4,)),
                "z": unknowns(),
                "steps": 1,
                **QUIET,
            },
            ("surrogate",),
        ),
        Target(
            "Reference",
            physzoo.Reference,
            given(method="nuts", draws=draws(), summary=reference.summarise(draws())),
            says={"draws": ("z",), "summary": ("mean",), "stats": ("stat",)},
        ),
        Target("Reference.trusted", of_reference().trusted, given()),
        Target("Reference.save", of_reference().save, lambda: {"path": folder() / "a.npz"}),
        Target("Reference.load", physzoo.Reference.load, lambda: {"path": reference_file()}),
        Target("Reference.select", of_sets().select, given(index=1)),
        Target("Reference.thinned", of_reference().thinned, given(draws=4)),
        Target(
            "Reference.tree",
            lambda coords=None, dims=None, units=None: of_reference().tree(coords=coords, dims=dims, units=units),
            given(),
        ),
        Target("summarise", reference.summarise, given(draws=draws()), says={"draws": ("z",)}),
        Target(
            "pit",
            sbc.pit,
            given(truth=truths["z"], draws=drawn["z"], rng=np.random.default_rng(0)),
            says={"truth": ("draws",)},
        ),
        Target("uniformity", sbc.uniformity, given(pits=np.linspace(0.05, 0.95, 10))),
        Target("effect", sbc.effect, given(pits=np.linspace(0.05, 0.95, 10))),
        Target("holm", sbc.holm, given(pvalues={"a": 0.2})),
        Target("ecdf_band", sbc.ecdf_band, given(count=10, probability=0.9, simulations=20)),
        Target("ecdf", sbc.ecdf, given(pits=np.linspace(0.05, 0.95, 10), points=np.linspace(0, 1, 5))),
        Target("interval_coverage", sbc.interval_coverage, given(pits=np.linspace(0.05, 0.95, 10), levels=[0.5])),
        Target("tarp", tarp, given(truths=truths["z"], draws=drawn["z"], rng=np.random.default_rng(0))),
    ]
