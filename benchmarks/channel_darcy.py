"""B10: an inverse problem under a learnt prior: channels in an aquifer, 8 codes, 25 wells, 2 % noise.

    python benchmarks/channel_darcy.py [--seed 92101] [--quick]

Five data sets of the model have references: tempered sequential Monte Carlo, eight independent runs of 500 particles each,
or of 2,000 where the runs disagree (R-hat above 1.01). Beside them stand 20 chains of HMC around the largest mode, which need
not find the others, and the ends of eight descents to the point estimate of Lopez-Alvis et al. Against the references, by
C2ST in w:

    alone               the recipe: a flow for each data set, from the Laplace approximations at its modes, by wake-sleep
    amortised           one guide, refined by Gauss-Newton steps through the flow problem, as it was best on held-out pairs
    weighted            100,000 draws of it, resampled with Pareto-smoothed importance weights through the model
    diagonal, full      its base relaxed at each data set and fitted by the reverse KL (row 3 of the primer, second stage)

The amortised guide is calibrated on 512 data sets of the model; sd x 0.8 is the negative control, there and for the flows
alone.

The gap under the true prior: two more references, and 512 more data sets, are of maps of the generator from which the
decoder learnt, and not of its own. Cells and means of 4 x 4 cells are covered if the central 95 % interval holds them; for
a cell it is widened by .05 of the contrast, because the decoder reaches neither 0 nor 1.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from _judge import narrowed
from _recipe import alone, amortised
from _store import store
from relaxed_base import BASES, FEW, STEPS, relaxed
from torch import Tensor

from physzoo.core.global_state import seeded
from physzoo.core.model_spec import Whitening
from physzoo.core.simulate import simulate
from physzoo.guides import AmortizedGuide
from physzoo.inference.calibration import calibrate
from physzoo.inference.compare import c2st
from physzoo.inference.density.densities import draw
from physzoo.inference.importance import k_hat, smoothed
from physzoo.inference.modes import laplace, laplace_mixture, point_estimate
from physzoo.inference.references import Reference, hmc, smc
from physzoo.models import get
from physzoo.models.channel_darcy import CONTRAST, ChannelDarcy
from physzoo.models.datasets.channels import CELLS, generate
from physzoo.models.recipe import Recipe

SETS, DATASETS, DRAWS = {"model": 5, "generator": 2}, 512, 2000
AMORTISED = Recipe(
    encoder="mlp",
    objective="forward_kl",
    steps=5000,
    batch_size=512,
    simulations=160_000,
    learning_rate=2e-3,
    options={"transforms": 3, "refine": 3},
)
HELD_OUT, WEIGHTED, PART = 2000, 100_000, 20_000
PARTICLES, CONVERGED = (500, 2000), 1.01  # of a run of the reference; the more where R-hat is above
PATCH = 4  # cells on a side of the patches whose mean is looked at
SLACK = 0.05  # of the contrast: the decoder reaches neither ground nor channel exactly

Row = dict[str, Any]


def chains(model: ChannelDarcy, data: dict[str, Any], start: Whitening, seed: int, quick: bool) -> Reference:
    """Return HMC around the largest mode of a data set."""
    draws = 25 if quick else 500
    options: dict[str, Any] = {"chains": 20, "draws": draws, "warmup": 200, "seed": seed, "progress": False}
    return hmc(model, data, loc=start.loc, tril=start.tril, **options)


def field_error(field: Tensor, truth: Tensor) -> float:
    """Root mean square over the cells, in units of the contrast."""
    return float((field / CONTRAST - truth).square().mean().sqrt())


def row(model: ChannelDarcy, guide: AmortizedGuide, y: Tensor, truth: Tensor, exact: Tensor, seed: int) -> Row:
    """Return what is known of one data set from the amortised guide and the reference, (R, 8)."""
    started = time.process_time()
    parts = [draw(model, guide, {"y": y}, PART, seed=1000 * seed + part) for part in range(WEIGHTED // PART)]
    w = torch.cat([part.values["w"] for part in parts]).double()
    log_p, log_q = (torch.cat([getattr(part, name) for part in parts]).double().numpy() for name in ("log_p", "log_q"))
    log_weights, shape = smoothed(log_p, log_q)
    seconds = time.process_time() - started
    weights = np.exp(log_weights)
    chosen = np.random.default_rng(seed).choice(len(w), DRAWS, p=weights / weights.sum())
    ratio = w.std(0) / exact.std(0)
    return {
        "c2st_amortised": c2st(w[:DRAWS].numpy(), exact.numpy(), limit=DRAWS),
        "c2st_weighted": c2st(w[chosen].numpy(), exact.numpy(), limit=DRAWS),
        "k_hat": float(shape),
        "effective_of_weighted": float(1 / np.square(weights).sum()),
        "cpu_seconds_weighted": seconds,
        "worst_mean_error_sd": float(((w.mean(0) - exact.mean(0)) / exact.std(0)).abs().max()),
        "smallest_sd_ratio": float(ratio.min()),
        "largest_sd_ratio": float(ratio.max()),
        "field_error_of_mean": field_error(model.field(exact).mean(0), truth),
        "field_error_of_mean_amortised": field_error(model.field(w[:DRAWS]).mean(0), truth),
    }


def more(model: ChannelDarcy, y: Tensor, truth: Tensor, exact: Tensor, seed: int, quick: bool) -> Row:
    """Return what is done for one data set alone: the flow and the point estimate."""
    data = {"y": y}
    started = time.process_time()
    start = laplace_mixture(model, data, seed=seed + 1000)
    own = alone(model, get("channel_darcy").recipe, data, start, seed, 20 if quick else 1)
    drawn = draw(model, own, data, DRAWS, seed=seed + 1)
    seconds, point = time.process_time() - started, point_estimate(model, data, seed=seed)
    w = drawn.values["w"].double()
    return {
        "c2st_alone": c2st(w.numpy(), exact.numpy(), limit=DRAWS),
        "c2st_alone_sd_x_0.8": c2st(narrowed(w).numpy(), exact.numpy(), limit=DRAWS),
        "k_hat_alone": float(k_hat(drawn.log_p.numpy(), drawn.log_q.numpy())),
        "cpu_seconds_alone": seconds,
        "point_misfit": point.misfit / len(y),
        "point_ends_within_1": sum(end < point.objective + 1 for end in point.ends),
        "point_field_error": field_error(model.field(point.values["w"]), truth),
    }


@torch.no_grad()
def gap(model: ChannelDarcy, guide: AmortizedGuide, seed: int, y: Tensor, truth: Tensor) -> Row:
    """Return how good the amortised posterior of the maps is, (N, 256) in units of the contrast, over N data sets."""
    found: dict[str, list[Tensor]] = {}
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    for first, (part, own) in enumerate(zip(y.split(64), truth.split(64), strict=True)):
        with seeded(seed + first):
            w = guide.sample({"y": part}, 200)["w"].double()
        z = model.field(w) / CONTRAST
        misfit = (model.problem.observe(model.problem.solve(CONTRAST * z[:10])) - part) / model.noise
        (low, high), (patch_low, patch_high) = z.quantile(ends, 0), patches(z).quantile(ends, 0)
        terms = {
            "field_error": (z.mean(0) - own).square().mean(-1),
            "field_sd": z.var(0).mean(-1),
            "cells_on_the_wrong_side": ((z.mean(0) > 0.5) != (own > 0.5)).double().mean(-1),
            "cells_covered_95": ((own > low - SLACK) & (own < high + SLACK)).double().mean(-1),
            "patches_covered_95": ((patches(own) > patch_low) & (patches(own) < patch_high)).double().mean(-1),
            "misfit": misfit.square().mean((0, -1)),
        }
        for name, term in terms.items():
            found.setdefault(name, []).append(term)
    joined = {name: torch.cat(terms) for name, terms in found.items()}
    rooted = {name: float(joined.pop(name).mean().sqrt()) for name in ("field_error", "field_sd")}
    return (
        rooted
        | {"median_misfit": float(joined.pop("misfit").median())}
        | {n: float(t.mean()) for n, t in joined.items()}
    )


def patches(z: Tensor) -> Tensor:
    """Return the means over patches of 4 x 4 cells, (..., 16)."""
    size = CELLS // PATCH
    return z.unflatten(-1, (size, PATCH, size, PATCH)).mean((-3, -1)).flatten(-2)


def of_generator(model: ChannelDarcy, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return data (count, 25) of maps of the generator, and these maps, (count, 256)."""
    test: Any = generate(seed, (1, 1, count)).test
    maps = test.x.flatten(1).double()
    noise = torch.randn(count, 25, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return model.problem.observe(model.problem.solve(CONTRAST * maps)) + model.noise * noise, maps


def of_model(model: ChannelDarcy, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return data (count, 25) of the model, and its maps in units of the contrast, (count, 256)."""
    drawn = simulate(model, count, seed=seed)
    return drawn["y"], model.field(drawn["w"]) / CONTRAST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=92101)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work: to see that it runs")
    given = parser.parse_args()
    seed, quick = given.seed, given.quick
    torch.set_num_threads(1)
    less = 20 if quick else 1
    animal, started = get("channel_darcy"), time.process_time()
    model: Any = animal.model()
    guide = amortised(model, AMORTISED, animal.data(), seed, less, HELD_OUT)
    training = time.process_time() - started
    limits = {name: 1 if quick else count for name, count in SETS.items()}
    origins = {"model": of_model, "generator": of_generator}
    sets = [
        (name, *pair)
        for name, make in origins.items()
        for pair in zip(*make(model, limits[name], seed + 1), strict=True)
    ]
    rows: list[Row] = []
    exact: list[Tensor] = []
    for index, (name, y, truth) in enumerate(sets):
        started, data = time.process_time(), {"y": y}
        for particles in (50,) if quick else PARTICLES:
            reference = smc(model, data, particles=particles, seed=seed + 1000 + index, progress=False)
            if reference.r_hat <= CONVERGED:
                break
        exact.append(torch.from_numpy(reference.draws["w"]).flatten(0, 1))
        seconds = time.process_time() - started
        mode = laplace(model, data, seed=seed + 1000 + index)  # not the seed of the truths
        around = chains(model, data, mode, seed + 1000 + index, quick)
        rows.append({"map_of": name, "r_hat": reference.r_hat, "ess": reference.ess, "reference_cpu_seconds": seconds})
        rows[-1] |= row(model, guide, y, truth, exact[-1], seed + index)
        rows[-1] |= {"c2st_hmc": c2st(np.concatenate(around.draws["w"]), exact[-1].numpy(), limit=DRAWS)}
        rows[-1] |= {"hmc_r_hat": around.r_hat}
        if name == "model":
            rows[-1] |= more(model, y, truth, exact[-1], seed + index, quick)
        print(rows[-1], flush=True)
    own = [line for line in rows if line["map_of"] == "model"]
    y = torch.stack([y for name, y, _ in sets if name == "model"])
    bases = {base: base.replace(" ", "_") for base, full in BASES.items() if full is not None}
    for base, column in bases.items():
        second, _ = relaxed(model, guide, y, bool(BASES[base]), seed, STEPS // less, FEW)
        values = draw(model, second, {"y": y}, DRAWS, datasets=True, seed=seed).values["w"].double()
        for index, line in enumerate(own):
            line[f"c2st_{column}"] = c2st(values[:, index].numpy(), exact[index].numpy(), limit=DRAWS)
    count = DATASETS // 8 if quick else DATASETS
    found = calibrate(model, guide, datasets=count, draws=200, seed=seed + 3, progress=False)
    control = calibrate(model, guide, datasets=count, draws=200, seed=seed + 3, widen=0.8, progress=False)
    kinds = ("alone", "amortised", "weighted", *bases.values())
    facts = {
        "seed": seed,
        "pass_levels": "C2ST <= 0.6 in w, of the median data set; Holm p > 0.01 at 512 data sets, sd x 0.8 rejected",
        "median_c2st": {kind: float(np.median([line[f"c2st_{kind}"] for line in own])) for kind in kinds},
        "smallest_holm_p": min(found.adjusted.values()),
        "verdict": found.verdict,
        "coverage": found.coverage,
        "median_k_hat": float(np.median(found.k_hat)),
        "sd_x_0_8_rejected": bool(control.rejected),
        "gap": {name: gap(model, guide, seed + 5000, *make(model, count, seed + 4)) for name, make in origins.items()},
        "training_cpu_seconds": training,
        "cpu_seconds": time.process_time(),
    }
    print(facts, flush=True)
    store("channel_darcy_quick" if quick else "channel_darcy", rows, **facts)


if __name__ == "__main__":
    main()
