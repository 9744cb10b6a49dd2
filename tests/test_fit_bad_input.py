"""A fit, its sources and its objectives refuse what they cannot use, each in one sentence."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from physzoo.guides.state import ResidualGuide
from physzoo.inference.fit import DataSets, Simulator, fit, simulated_once
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.objectives import (
    ELBO,
    MMD,
    AlphaJS,
    DrawsKL,
    ForwardKL,
    GreyBoxELBO,
    Mixture,
    Renyi,
    Reweighted,
    SlicedWasserstein,
)

Y = torch.tensor([0.5, 1.0])


def model(y=None):
    z = pyro.sample("z", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)


class Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(2))

    def density(self):
        return dist.LogNormal(self.m, 1.0).to_event(1)

    def forward(self, y=None):
        pyro.sample("z", self.density())

    def log_prob(self, values, data):
        return self.density().log_prob(values["z"])


class Physics:
    def solve(self, z, residual=None): ...
    def residual(self, u, z): ...
    def logdet(self, u, z): ...


def run(model=model, guide=None, data=None, objective=None, options=None, **changes):
    changes = {"steps": 2, "progress": False, **changes}
    return fit(
        model, Guide() if guide is None else guide, {"y": Y} if data is None else data, objective, options, **changes
    )


def sets(y=None, *rest, **more):
    return run(data=DataSets({"y": torch.ones(5, 2) if y is None else y}, *rest, **more), objective=ForwardKL())


def simulate(*rest, **more):
    return run(data=Simulator(4, *rest, **more), objective=ForwardKL())


NAN, INF = math.nan, math.inf
NUMBERS = [None, "x", -1, 0, 2**70, 1.5, NAN, INF, 1j, True, [], {}, torch.zeros(2)]
ODD = ["x", b"x", 3, 1j, True, [1], {1: 2}, object(), torch.zeros(2), nn.Linear]
TENSORS = [
    torch.tensor(1.0),
    torch.zeros(0, 2),
    torch.zeros(5, 3),
    torch.zeros(5, 2, dtype=torch.complex64),
    torch.zeros(5, 2, device="meta"),
    torch.zeros(5, 2).to_sparse(),
    torch.full((5, 2), NAN),
    torch.full((5, 2), INF),
    -torch.ones(5, 2),
]
CALLS = [
    *(("options", lambda bad: run(options=bad), bad) for bad in ({}, [], "", 0, False, *ODD)),
    *(("objective", lambda bad: run(objective=bad), bad) for bad in ("", 0, {}, ELBO, len, nn.Linear(2, 2), *ODD)),
    *(("guide", lambda bad: run(guide=bad), bad) for bad in (Guide, nn.Linear(2, 2), len, *ODD)),
    *(("model", lambda bad: run(model=bad), bad) for bad in (None, Guide, len, lambda: None, *ODD)),
    *(("data", lambda bad: run(data=bad), bad) for bad in ("", 0, [], {"z": Y}, {"y": None, "x": 1}, *ODD)),
    *(
        (name, lambda bad, name=name: FitOptions(**{name: bad}), bad)
        for name in ("steps", "checkpoint_every", "evaluate_every", "learning_rate", "seed")
        for bad in (None, "x", -1, NAN, INF, 1j, [], torch.zeros(2))
    ),
    *(
        (name, lambda bad, name=name: FitOptions(**{name: bad}), bad)
        for name in ("warmup", "schedule", "clip_norm", "max_skipped", "device", "progress", "resume")
        for bad in ("x", -1.0, NAN, 1j, [], torch.zeros(2), torch.zeros(0), object())
    ),
    ("device", lambda bad: FitOptions(device=bad), "meta"),
    ("schedule", lambda bad: run(schedule=lambda done: bad), NAN),
    ("schedule", lambda bad: run(schedule=lambda done: bad), "x"),
    *(("held_out", lambda bad: run(held_out=bad), bad) for bad in ("x", 1, [Y], {"y": torch.zeros(3)})),
    *(("y", sets, bad) for bad in TENSORS[:-1]),
    *(("latents", lambda bad: sets(latents=bad), bad) for bad in ("x", 1, [1], torch.zeros(2), {"z": 1}, {"w": Y})),
    *(("latents z", lambda bad: sets(latents={"z": bad}), bad) for bad in TENSORS),
    *(("refined", lambda bad: sets(latents={"z": torch.ones(5, 2)}, refined=bad), bad) for bad in ("x", 1, {})),
    *(("batch_size", lambda bad: sets(None, bad), bad) for bad in NUMBERS[1:]),
    *(("batch_size", Simulator, bad) for bad in NUMBERS),
    *(("given", simulate, bad) for bad in ("", 0, [], "x", [1], {"y": Y}, {"mask": Y}, torch.zeros(2))),
    *(("corrupt", lambda bad: simulate(corrupt=bad), bad) for bad in ("x", 1, len, lambda: None, lambda data: {})),
    *(("seen", lambda bad: simulate(seen=bad), bad) for bad in ("x", 1, {"z": 1}, {"w": torch.ones(5, 2)})),
    *(("seen z", lambda bad: simulate(seen={"z": bad}), bad) for bad in TENSORS),
    *(("simulations", lambda bad: simulated_once(model, None, bad), bad) for bad in NUMBERS),
    *(("seed", lambda bad: simulated_once(model, None, 4, seed=bad), bad) for bad in ("x", -1, 1.5, [], {})),
    *(("given", lambda bad: simulated_once(model, None, 4, given=bad), bad) for bad in ("x", 1, [1], "")),
    *(("guide", lambda bad: simulated_once(model, bad, 4), bad) for bad in ("x", 1, Guide)),
    *(
        ("particles", make, bad)
        for make in (
            ELBO,
            Reweighted,
            SlicedWasserstein,
            GreyBoxELBO,
            lambda n: Renyi(0.5, n),
            lambda n: AlphaJS(0.5, n),
        )
        for bad in NUMBERS
    ),
    *(("alpha", make, bad) for make in (Renyi, AlphaJS) for bad in (None, "x", NAN, INF, 1j, True, [], torch.zeros(2))),
    *(("scales", MMD, bad) for bad in (None, "x", b"x", 1, (), (0.0,), (NAN,), ("x",))),
    *(("terms", Mixture, bad) for bad in (None, "x", (), (1,), ((NAN, ELBO()),), ((1.0, 2),), ((1.0, ELBO),))),
    *(
        (name, lambda bad, name=name: GreyBoxELBO(**{name: bad}), bad)
        for name in ("predictive", "cleansing", "sleep", "whole_sleep")
        for bad in (None, "x", -1.0, NAN, INF, 1j, True, torch.zeros(2), torch.zeros(0))
    ),
    *(("dream_codes", lambda bad: GreyBoxELBO(dream_codes=bad), bad) for bad in (None, 1, "x")),
    *(("draws", DrawsKL, bad) for bad in (None, "x", 1, {}, {"z": 1}, torch.zeros(2), {"z": torch.tensor(1.0)})),
    *(("draws z", lambda bad: DrawsKL({"z": bad}), bad) for bad in (TENSORS[1], *TENSORS[3:8])),
    *(
        ("scale", lambda bad: ResidualGuide(Guide(), Physics(), (3,), bad), bad)
        for bad in (None, "x", 0, -1, NAN, INF, Y)
    ),
    *(("residual_shape", lambda bad: ResidualGuide(Guide(), Physics(), bad, 1.0), bad) for bad in (None, 3, "x", (0,))),
    *(("problem", lambda bad: ResidualGuide(Guide(), bad, (3,), 1.0), bad) for bad in (None, 10**12, "x", Guide())),
    *(("guide_z", lambda bad: ResidualGuide(bad, Physics(), (3,), 1.0), bad) for bad in (None, 1, Guide)),
    *(("state", lambda bad: ResidualGuide(Guide(), Physics(), (3,), 1.0, bad), bad) for bad in (None, 1, "")),
]


@pytest.mark.parametrize("what", sorted({call[0] for call in CALLS}))
def test_bad_input_is_refused_in_one_sentence(what):
    wrong = []
    for name, call, bad in CALLS:
        if name != what:
            continue
        try:
            call(bad)
            wrong.append((bad, "passes"))
        except (ValueError, TypeError, FloatingPointError) as error:
            told = str(error)
            if "got" not in told or "\n" in told or len(told) > 400:
                wrong.append((bad, f"{type(error).__name__}: {told[:200]}"))
        except Exception as error:
            wrong.append((bad, f"raw {type(error).__name__}: {str(error)[:200]}"))
    assert not wrong
