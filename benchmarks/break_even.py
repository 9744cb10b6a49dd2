"""B7: from how many posteriors on does a surrogate, or an amortised guide, pay? 1D and 2D elliptic problems.

    python benchmarks/break_even.py [--cells 16 32] [--quick]

    N* = (T_simulate + T_train) / (t_reference - t_replaced)      at equal accuracy

The reference is a warm start by Laplace and Hamiltonian Monte Carlo through the solver: the exact O(n) one in 1D (64
elements, all data sets in one batch, which makes each several times cheaper), finite elements with adjoint gradients in 2D Darcy
flow (the zoo's mesh of 16 x 16 cells, or those of ``--cells``; one data set at a time). Two things can be replaced:

    surrogate    a network for the solver in the same sampler; 1D: trained on the energy, 2D: on 4,096 solves
    guide        an amortised spline flow for the sampler, trained on pairs of the exact model and refined by two
                 Gauss-Newton steps through the solver (1D) or the surrogate (2D), whose training then counts as its own

as they are, and with importance weights through the exact solver; batched where the reference is. Times are CPU seconds of one
thread, t those of 1,000 effective draws for one data set, the median of the data sets (of the mean most is a single data set on
which chains hardly move; it stands beside). Equal accuracy: against a reference of twice the draws, median mean error below 0.1 sd
and median sd ratio in [0.9, 1.1]; with weights also a median k-hat below 0.7. The worst mean error stands beside it. N* is told
with its range, that of the median of the time saved in 95 % of 10,000 resamples of the data sets; where that time may be zero it
is undecided. The recommendation is made of the rows.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _store import store
from torch import Tensor

from physzoo.core.global_state import seeded
from physzoo.core.simulate import simulate
from physzoo.guides import amortize
from physzoo.inference.density import log_joint
from physzoo.inference.density.densities import draw
from physzoo.inference.fit import fit, simulated_once
from physzoo.inference.importance import smoothed
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import ForwardKL
from physzoo.inference.references import hmc
from physzoo.inference.surrogate import fit_surrogate
from physzoo.models.darcy2d import Darcy2D
from physzoo.models.poisson1d import Poisson1D
from physzoo.physics import FixedBasis, Surrogate

SEED = 88500
EFFECTIVE = 1000
JUDGED = 20_000  # draws of an unweighted guide from which its means and sds are taken


@dataclass(frozen=True)
class Size:
    """How much work; where there are two, in 1D (the guide refines through the solver), and in 2D (through the network)."""

    sets: tuple[int, int] = (48, 12)
    draws: tuple[int, int] = (400, 50)
    warmup: tuple[int, int] = (200, 40)
    steps: int = 2500
    solves: int = 4096
    pairs: tuple[int, int] = (8192, 32768)
    guide_steps: tuple[int, int] = (2500, 7500)


@dataclass(frozen=True)
class Found:
    """Draws (S, d) of one data set with normalised weights, their effective number, and CPU seconds."""

    draws: np.ndarray
    weights: np.ndarray
    effective: float
    seconds: float
    k_hat: float = 0.0
    r_hat: float | None = None

    @property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean = self.weights @ self.draws
        return mean, np.sqrt(self.weights @ (self.draws - mean) ** 2)

    @property
    def seconds_each(self) -> float:
        return self.seconds * EFFECTIVE / self.effective


def sampled(model: Any, data: Tensor, draws: int, warmup: int, seed: int, single: bool = False) -> list[Found]:
    """Laplace for each data set, then HMC with twenty chains for all of them at once, if wanted in float32."""
    began = time.process_time()
    starts = [laplace(model, {"y": y}, seed=seed + i) for i, y in enumerate(data)]
    if single:
        model, data = copy.deepcopy(model).float(), data.float()
    loc, tril = (torch.stack([getattr(start, part) for start in starts]).to(data) for part in ("loc", "tril"))
    options: dict[str, Any] = {"chains": 20, "draws": draws, "warmup": warmup, "seed": seed, "progress": False}
    found = hmc(model, {"y": data}, datasets=True, loc=loc, tril=tril, **options)
    seconds = (time.process_time() - began) / len(data)
    kept = []
    for i in range(len(data)):
        one = found.select(i)
        z = one.draws["z"].reshape(-1, one.draws["z"].shape[-1])
        kept.append(Found(z, np.full(len(z), 1 / len(z)), min(one.ess, len(z)), seconds, r_hat=one.r_hat))
    return kept


def weighted(model: Any, proposal: Any, data: Tensor, found: list[Found]) -> list[Found]:
    """The draws of the posteriors under ``proposal``, weighted to those under ``model``."""
    began = time.process_time()
    values = {"z": torch.as_tensor(np.stack([one.draws for one in found], 1)).double()}
    with torch.no_grad():
        exact, own = (log_joint(one, values, {"y": data}, datasets=True).numpy() for one in (model, proposal))
    seconds = (time.process_time() - began) / len(data)
    return [_reweighted(one, exact[:, i], own[:, i], one.seconds + seconds) for i, one in enumerate(found)]


def guided(model: Any, guide: Any, data: Tensor, seed: int) -> tuple[list[Found], list[Found]]:
    """Draws of the amortised guide, without solves or density, and with weights."""
    y = {"y": data.float()}
    began = time.process_time()
    with seeded(seed):
        guide.sample(y, EFFECTIVE)
    alone = (time.process_time() - began) / len(data)
    with seeded(seed + 1):
        many = guide.sample(y, JUDGED)["z"].double().numpy()
    flat = np.full(JUDGED, 1 / JUDGED)
    plain = [Found(many[:, i], flat, EFFECTIVE, alone) for i in range(len(data))]
    began = time.process_time()
    found = draw(model, guide, y, EFFECTIVE, datasets=True, seed=seed + 2)
    seconds = (time.process_time() - began) / len(data)
    z, log_p, log_q = (value.double().numpy() for value in (found.values["z"], found.log_p, found.log_q))
    flat = np.full(EFFECTIVE, 1 / EFFECTIVE)
    pairs = [(Found(z[:, i], flat, EFFECTIVE, 0.0), log_p[:, i], log_q[:, i]) for i in range(len(data))]
    return plain, [_reweighted(*pair, seconds) for pair in pairs]


def _reweighted(found: Found, log_p: np.ndarray, log_q: np.ndarray, seconds: float) -> Found:
    log_weights, shape = smoothed(log_p, log_q)
    weights = np.exp(log_weights)
    share = 1 / (len(weights) * np.square(weights).sum())
    return Found(found.draws, weights, found.effective * share, seconds, float(shape))


def surrogate_of(model: Any, size: Size, energy: bool) -> tuple[Surrogate, float, float]:
    """Return the network with the CPU seconds of simulation and training."""
    z = torch.randn(65536 if energy else size.solves, 8, generator=torch.Generator().manual_seed(SEED)).double()
    problem, unknowns = model.problem, z if energy else model.field(z)
    began = time.process_time()
    u = None if energy else problem.solve(unknowns)
    simulated = time.process_time()
    basis = FixedBasis.of_residual(problem, 0 * z[0], problem.load, 32) if u is None else FixedBasis.of_states(u, 32)
    surrogate = Surrogate(problem, unknowns, basis)
    fit_surrogate(surrogate, unknowns, u, steps=size.steps, progress=False)
    return surrogate, simulated - began, time.process_time() - simulated


def guide_of(model: Any, inner: Any, pairs: int, steps: int) -> tuple[Any, float]:
    """Return the amortised guide of a model, refined through ``inner``, with the CPU seconds of simulations and training."""
    began = time.process_time()
    example = {"y": simulate(model, 1, seed=SEED)["y"][0]}
    guide = amortize(inner, "mlp", "spline", example=example, seed=SEED, refine=2, transforms=3)
    known = simulated_once(model, guide, pairs, 256, seed=SEED + 1)
    options = {"steps": steps, "learning_rate": 2e-3, "warmup": 0.02, "max_skipped": 10, "progress": False}
    fit(model, guide, known, ForwardKL(), **options)
    return guide, time.process_time() - began


def rows_of(name: str, make: Callable[[], Any], size: Size, flat: bool) -> list[dict[str, Any]]:
    """Return the lines of one problem; ``flat`` is the 1D one."""
    model = make()
    data = simulate(model, size.sets[not flat], seed=SEED + 2)["y"]
    surrogate, simulating, training = surrogate_of(model, size, energy=flat)
    replaced = make()
    replaced.problem = surrogate
    # the guide learns and is evaluated in float32; in 2D it refines through the network
    inner, single = copy.deepcopy(model if flat else replaced).float(), copy.deepcopy(model).float()
    guide, guide_training = guide_of(single, inner, size.pairs[not flat], size.guide_steps[not flat])
    of_guide = (0.0, guide_training) if flat else (simulating, training + guide_training)
    methods: dict[str, tuple[tuple[float, float], list[Found]]] = {
        "reference": ((0.0, 0.0), []),
        "surrogate": ((simulating, training), []),
        "surrogate, weighted": ((simulating, training), []),
        "guide": (of_guide, []),
        "guide, weighted": (of_guide, []),
    }
    truths: list[Found] = []
    draws, warmup = size.draws[not flat], size.warmup[not flat]
    for first, y in enumerate([data] if flat else data.split(1)):
        seed = SEED + 1000 * (first + 1)
        truths += sampled(model, y, 2 * draws, warmup, seed + 100, single=flat)  # finite elements are in float64
        network = sampled(replaced, y, draws, warmup, seed + 200, single=flat)
        found = (
            sampled(model, y, draws, warmup, seed + 300, single=flat),
            network,
            weighted(model, replaced, y, network),
            *guided(single, guide, y, seed + 400),
        )
        for (_, kept), some in zip(methods.values(), found, strict=True):
            kept.extend(some)
    rows = [line(name, method, *spent, kept, truths) for method, (spent, kept) in methods.items()]
    rows[0] |= {
        "truth_r_hat": max(one.r_hat or 1.0 for one in truths),
        "truth_ess": min(one.effective for one in truths),
    }
    times = {method: np.array([one.seconds_each for one in kept]) for method, (_, kept) in methods.items()}
    saved = {method: times["reference"] - spent for method, spent in times.items()}
    return [rows[0], *(row | break_even(row, saved[row["method"]]) for row in rows[1:])]


def line(
    name: str, method: str, simulating: float, training: float, kept: list[Found], truths: list[Found]
) -> dict[str, Any]:
    """One method on all data sets: times and accuracy."""
    moments = [truth.moments for truth in truths]
    errors = np.array([np.abs(f.moments[0] - mean) / sd for f, (mean, sd) in zip(kept, moments, strict=True)])
    ratios = np.array([f.moments[1] / sd for f, (_, sd) in zip(kept, moments, strict=True)])
    shape, error, ratio = (float(np.median(v)) for v in ([f.k_hat for f in kept], errors, ratios))
    return {
        "problem": name,
        "method": method,
        "simulate_seconds": simulating,
        "train_seconds": training,
        "seconds_each": float(np.median([f.seconds_each for f in kept])),
        "mean_seconds_each": float(np.mean([f.seconds_each for f in kept])),
        "median_mean_error_sd": error,
        "worst_mean_error_sd": float(errors.max()),
        "median_sd_ratio": ratio,
        "k_hat": shape if method.endswith("weighted") else None,
        "as_accurate": bool(error < 0.1 and 0.9 <= ratio <= 1.1 and shape < 0.7),
    }


def break_even(row: dict[str, Any], saved: np.ndarray) -> dict[str, Any]:
    """N* of a line from the seconds saved on each data set, with its range, and the cause where there is none."""
    again = np.random.default_rng(SEED).choice(saved, (10_000, len(saved)))
    middle, (low, high) = float(np.median(saved)), np.quantile(np.median(again, 1), [0.025, 0.975]).tolist()
    spent = row["simulate_seconds"] + row["train_seconds"]
    found = {"saved_seconds": middle, "saved_least": low, "saved_most": high, "break_even": math.inf}
    if not row["as_accurate"]:
        return {**found, "cause": f"not as accurate as the reference ({row['median_mean_error_sd']:.2f} sd)"}
    if high <= 0:
        return {**found, "cause": "it costs more for each posterior than the reference"}
    if low <= 0:
        return {**found, "cause": f"undecided, it saves {low:.2g} to {high:.2g} s a posterior"}
    return {**found, "break_even": spent / middle, "least": spent / high, "most": spent / low, "cause": ""}


def recommendation(rows: list[dict[str, Any]]) -> list[str]:
    """Say in a sentence for each problem what its rows imply."""
    said = []
    for name in dict.fromkeys(row["problem"] for row in rows):
        others = [row for row in rows if row["problem"] == name and row["method"] != "reference"]
        parts = []
        for kind, owner in (("surrogate", "a surrogate for the solver"), ("guide", "an amortised guide")):
            own = [row for row in others if row["method"].startswith(kind)]
            best = min(own, key=lambda row: row["break_even"])
            if math.isinf(best["break_even"]):
                each = "; ".join(
                    f"{'weighted' if 'weighted' in row['method'] else 'alone'}: {row['cause']}" for row in own
                )
                parts.append(f"{owner} was not seen to pay ({each})")
            else:
                least, most = (math.ceil(best[end]) for end in ("least", "most"))
                parts.append(
                    f"{owner} ({best['method']}) pays from {math.ceil(best['break_even'])} posteriors on ({least} to {most}; "
                    f"worst mean error {best['worst_mean_error_sd']:.2f} sd)"
                )
        said.append(f"{name}: {'; '.join(parts)}.")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little work, 1D and 8 x 8 cells: to see that it runs")
    parser.add_argument("--cells", type=int, nargs="+", default=[16], help="meshes of the 2D problem")
    given = parser.parse_args()
    quick = given.quick
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    size = Size((2, 1), (20, 20), (40, 40), 100, 256, (256, 256), (50, 50)) if quick else Size()
    problems: dict[str, Callable[[], Any]] = {"1D, 64 elements": Poisson1D}
    for cells in [8] if quick else given.cells:
        problems[f"2D, {cells} x {cells} cells"] = lambda cells=cells: Darcy2D(cells=cells)
    rows = []
    for name, make in problems.items():
        rows += rows_of(name, make, size, flat=name.startswith("1D"))
        for row in rows[-5:]:
            print(row, flush=True)
    said = recommendation(rows)
    print("\n".join(said))
    store(
        "break_even_quick" if quick else "break_even",
        rows,
        seed=SEED,
        effective_draws=EFFECTIVE,
        data_sets=size.sets,
        solves=size.solves,
        pairs=size.pairs,
        recommendation=said,
        pass_levels="N* reported also where it is infinite; in 1D with the O(n) solver a surrogate never pays",
    )


if __name__ == "__main__":
    main()
