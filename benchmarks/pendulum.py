"""The pendulum with unknown friction and forcing against the published physics-integrated VAE, with all baselines.

    python benchmarks/pendulum.py [--seeds 11 12 13] [--ablate] [--only ROW ...] [--quick]

1,000 / 500 / 1,000 sequences; the counterfactual multiplies omega and is compared with noise-free simulations of the same
pendulums. Killed, it goes on where it was. Published numbers: measured on the authors' code (n-takeishi/phys-vae), default
training of 5,000 epochs, by third parties.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from _grey_box import Row, ablations, arguments, linear, table
from torch import nn

from physzoo.inference.evaluation.reconstruction import counterfactual
from physzoo.models.baselines import BlackBox, NeuralODE
from physzoo.models.datasets import pendulum as data
from physzoo.models.datasets.splits import Split
from physzoo.models.pendulum import TRAINING, Pendulum

SOURCE = (
    "Takeishi & Kalousis, arXiv:2102.13156: measured on the authors' code (n-takeishi/phys-vae) after their default training "
    "(5,000 epochs, about 20 CPU minutes); the row without regularisers after 3,000 epochs"
)
COUNTERFACTUAL = dict(zip(data.FACTORS, (0.148, 0.108, 0.066, 0.037, 0.230, 0.568, 2.10), strict=True))
PUBLISHED = {
    "grey box": {
        "mae": 0.0396,
        "sum_of_squares": 0.217,
        "omega_mae": 0.168,
        "omega_correlation": 0.964,
        "omega_covered_95": 0.018,
        **{f"counterfactual_{factor:g}": error for factor, error in COUNTERFACTUAL.items()},
    },
    "without regularisers": {"mae": 0.0423, "omega_mae": 0.553},
    "physics alone": {"mae": 0.1787, "sum_of_squares": 3.88, "omega_mae": 0.228, "omega_covered_95": 0.013},
    "solver, no physics": {"mae": 0.0469, "sum_of_squares": 0.281},
    "network, no physics": {"mae": 0.0488, "sum_of_squares": 0.293},
    "training mean": {"mae": 0.441, "omega_mae": 0.593},
}
HEADLINE = ("mae", "sum_of_squares", "omega_mae", "omega_covered_95", "cpu_seconds")
OUTPUTS = ("mae", "mae_without_correction", "mae_without_dynamics", "mae_physics", "iwae", "omega_correlation")
ERRORS = tuple(f"counterfactual_{factor:g}" for factor in data.FACTORS)
COMPILED = {"compile": True}
ABLATED = 3000  # steps of each run of the ablation, half of the recipe's
CODE = 6  # numbers in all codes of the grey box; black boxes get omega and the initial state on top


def main() -> None:
    given = arguments("pendulum", __doc__)
    splits = data.generate(seed=0)
    full = grey_box()
    if given.ablate:
        tables = {"pendulum_ablation": HEADLINE, "pendulum_ablation_counterfactual": ERRORS}
        rows = ablations(full.trained(steps=ABLATED))
        table(tables, rows, splits, given, extra=counterfactuals, source=SOURCE, steps=ABLATED)
        return
    plain = ablations(full)[-1]
    rows = [
        full,
        _named(plain, "without regularisers", options=COMPILED),
        _named(plain, "physics alone", options={**COMPILED, "dynamics_code": 0, "correction_code": 0}),
        replace(_named(plain, "solver, no physics", NeuralODE, ODE), most=1),  # a quarter of an hour each
        _named(plain, "network, no physics", BlackBox, {"shape": (data.FRAMES, 1), "code": CODE + 3}),
    ]
    tables = {"pendulum": HEADLINE, "pendulum_outputs": OUTPUTS, "pendulum_counterfactual": ERRORS}
    table(
        tables,
        rows,
        splits,
        given,
        extra=counterfactuals,
        closed=linear(splits, (CODE, CODE + 3), PUBLISHED["training mean"]),
        source=SOURCE,
        code=CODE,
    )


ODE = {
    "times": data.frame_times(data.FRAMES).tolist(),
    "code": CODE + 1,
    "order": 2,
    "start": (1.0, 0.1),
    "gradient": "parallel",
}


def grey_box() -> Row:
    """Return the row of the model with its recipe."""
    return Row("grey box", Pendulum, COMPILED, training=TRAINING, published=PUBLISHED["grey box"])


def _named(row: Row, name: str, model: Any = Pendulum, options: Any = None) -> Row:
    return Row(name, model, options or {}, row.training, PUBLISHED.get(name, {}))


def counterfactuals(model: nn.Module, guide: Any, test: Split) -> dict[str, float]:
    """Errors with omega multiplied; none for a model without omega."""
    if "omega" not in getattr(model, "physics_sites", ()):
        return {}
    truth = {factor: data.counterfactual(test.truths, factor).to(test.x.dtype) for factor in data.FACTORS}
    found = counterfactual(model, guide, test.data, "omega", data.FACTORS, truth)
    return {f"counterfactual_{factor:g}": error for factor, error in found.items()}


if __name__ == "__main__":
    main()
