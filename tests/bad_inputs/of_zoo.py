"""The contract, the register and weights, each with cheap arguments that it takes."""

from __future__ import annotations

import physzoo
from physzoo import weights
from physzoo.models import registry
from physzoo.models.contract import checks

from .pieces import Y, animal, folder, line, register, registered, single, trained
from .target import DATA, Target, given


def of_the_zoo() -> list[Target]:
    from physzoo.task import Budget, RunOptions

    return [
        Target(
            "check_model",
            physzoo.check_model,
            given(model=line(), data={"y": Y}, skip=()),
            ("data", "raises", "skip"),
            says=DATA,
        ),
        Target(
            "check_model(guide)",
            physzoo.check_model,
            given(model=line(), data={"y": Y}, guide=single()),
            ("model", "guide"),
            says=DATA,
        ),
        Target("checks", checks, given(models=[(line(), {"y": Y})]), says=DATA),
        Target("register", register, lambda: {"animal": registry.Animal(**animal())}),
        Target("Animal", registered, animal),
        Target("Quantity", registry.Quantity, given(label="x")),
        Target("Recipe", registry.Recipe, given()),
        Target("get", physzoo.get, given(name="linear_gaussian")),
        Target("weights.load", weights.load, given(name="pendulum")),
        Target("weights.save", weights.save, lambda: {"task": trained(), "facts": {}, "folder": folder()}),
        Target("RunOptions", RunOptions, given()),
        Target("Budget", Budget, given()),
        Target("Budget.of", Budget.of, given(quick=True)),
    ]
