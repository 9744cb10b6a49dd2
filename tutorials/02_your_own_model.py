# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own model, your own guide, two likelihoods
#
# A cart of mass $m = 1$ kg hangs between springs. We pull it about 10 cm to the side, let go, and a distance
# sensor reports where it is, at uneven times and with dropouts. How stiff are the springs, how strong is the
# damping?
#
# You will write the physics, a Pyro model around it and a guide; fit it; train one guide for all
# experiments of this kind; and then swap the likelihood: instead of solving the equation, treat its
# residual as an observation that happens to be zero.
#
# Run time: about 40 seconds on one core.

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import nn

import physzoo
from physzoo.guides import ResidualGuide
from physzoo.inference.importance import smoothed
from physzoo.models import check_model
from physzoo.physics import ODEProblem

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps

# %% [markdown]
# ## The physics
#
# With position $x$ and velocity $v$,
#
# $$\dot x = v, \qquad m\,\dot v = -k\,x - c\,v,$$
#
# stiffness $k$ in N/m, damping $c$ in N s/m. In the notation of the zoo the unknowns are $z$, the state is
# $u = (x, v)$ at the times of the readings, the data are $y$. One object holds the physics: `solve(z)`
# gives the state, `observe(u)` what the sensor would read (here $x$ alone), `residual(u, z)` by how much a
# state misses the equation.
#
# Write the right-hand side for one state; use `...` and the last dimension, and every batch shape works.

# %%
MASS = 1.0  # kg
NOISE = 1.0  # cm, sd of a reading
TIMES = [0.3, 0.7, 0.9, 1.6, 1.9, 2.8, 3.0, 3.3, 4.1, 4.9, 5.2, 6.3, 6.6, 7.4, 8.0, 8.3, 9.1, 9.8]  # s


def cart(t, state, z):
    x, v = state.unbind(-1)
    return torch.stack([v, -(z["stiffness"] * x + z["damping"] * v) / MASS], -1)


def problem(substeps=3):
    times = torch.tensor(TIMES, dtype=torch.float64)
    return ODEProblem(cart, times, t0=0.0, substeps=substeps, observation=lambda u: u[..., 0])


# %% [markdown]
# Each interval is cut into three Runge-Kutta steps. Is that enough? The error has to be small beside
# the noise, so we look at it.

# %%
truth = {
    "stiffness": torch.tensor(5.0, dtype=torch.float64),
    "damping": torch.tensor(0.4, dtype=torch.float64),
    "initial_state": torch.tensor([10.3, -0.5], dtype=torch.float64),
}
error = (problem().solve(truth) - problem(substeps=60).solve(truth))[:, 0].abs().max().item()
print(f"largest error of a position {error:.3f} cm, noise {NOISE} cm")
assert error < 0.1 * NOISE

# %% [markdown]
# ## The model
#
# A Pyro model for *one* data set. Three habits make it work with every tool of the zoo:
#
# - data are keyword arguments that default to `None`; without them the model simulates;
# - an observed site has the name of its argument (`y`);
# - constants that set the precision are buffers, so that the model also runs in float32.
#
# `mask` is true where there is a reading. What stands in `y` elsewhere does not matter, NaN included. Every animal of
# the zoo takes one; a model of your own needs it only where readings can be missing.
#
# The state has its own method, because that is the one line that will change later.


# %%
class Cart(PyroModule):
    def __init__(self):
        super().__init__()
        self.problem = problem()
        self.register_buffer("release", torch.tensor([10.0, 0.0], dtype=torch.float64))

    def state(self, z):
        return self.problem.solve(z)

    def forward(self, y=None, mask=None):
        one = self.release.new_ones(())
        z = {
            "stiffness": pyro.sample("stiffness", dist.LogNormal(math.log(4.0) * one, 0.5 * one)),
            "damping": pyro.sample("damping", dist.LogNormal(math.log(0.3) * one, 0.5 * one)),
            "initial_state": pyro.sample("initial_state", dist.Normal(self.release, 1.0).to_event(1)),
        }
        u = self.state(z)
        physzoo.observe("y", self.problem.observe(u), NOISE, obs=y, mask=mask)
        return u


model = Cart()

# %% [markdown]
# An experiment, simulated so that we know the truth; four of the 18 readings are lost.

# %%
torch.manual_seed(4)
clean = model.problem.observe(model.problem.solve(truth))
y = clean + NOISE * torch.randn(len(TIMES), dtype=torch.float64)
mask = torch.ones(len(TIMES), dtype=torch.bool)
mask[[4, 9, 10, 11]] = False
data = {"y": torch.where(mask, y, torch.nan), "mask": mask}

# %% [markdown]
# `check_model` runs the contract that every animal of the zoo keeps. Run it on a new model before you fit it:
# it finds shapes that do not broadcast, gradients that do not arrive, a mask that hides nothing. A broken rule raises,
# unless `raises=False` asks for the list.

# %%
checks = check_model(model, data, raises=False)
for check in checks:
    print("ok " if check.passed else "NO ", check.rule, check.found)
assert all(check.passed for check in checks)

# %% [markdown]
# ## Fit
#
# As in tutorial 1: Laplace first, then a guide on top of it. Here a Gaussian with full covariance in
# the unconstrained space ($\log k$, $\log c$, $x_0$, $v_0$) will do.


# %%
def summary(model, guide, seed=0):
    tree = physzoo.posterior(
        model,
        guide,
        data,
        draws=4000,
        seed=seed,
        units={"stiffness": "N/m", "damping": "N s/m", "initial_state": "cm, cm/s", "y": "cm"},
    )
    stats = tree.sample_stats
    print(f"k-hat {float(smoothed(stats.log_p.values[0], stats.log_q.values[0])[1]):.2f}")
    for name in ("stiffness", "damping"):
        draws = tree.posterior[name]
        mean, spread, unit = float(draws.mean()), float(draws.std()), draws.attrs["units"]
        print(f"{name:10s}{mean:6.3f} +- {spread:.3f} {unit}, true {truth[name]:.1f}")
    return tree


start = physzoo.laplace(model, data)
full = physzoo.amortize(model, None, "full", example=data, whitening=start)
physzoo.fit(model, full, data, physzoo.ELBO(32), steps=150, learning_rate=1e-2, progress=False)
forward = summary(model, full)
for name in ("stiffness", "damping"):
    draws = forward.posterior[name]
    assert abs(float(draws.mean()) - float(truth[name])) < 3 * float(draws.std())

# %%
fine = torch.linspace(0.05, 10, 200, dtype=torch.float64)
draws = {name: torch.tensor(forward.posterior[name].values[0, :500]) for name in truth}
paths = ODEProblem(cart, fine, t0=0.0).solve(draws)[..., 0].numpy()
low, high = np.quantile(paths, [0.05, 0.95], axis=0)
figure, axis = plt.subplots(figsize=(7.5, 3), layout="constrained")
axis.fill_between(fine, low, high, color="C0", alpha=0.4, lw=0, label="posterior, 90 %")
exact = ODEProblem(cart, fine, t0=0.0).solve(truth)[..., 0]
axis.plot(fine, exact, color="C0", lw=1, ls="--", label="truth")
axis.errorbar(np.array(TIMES)[mask], y[mask], NOISE, fmt="k.", lw=0.8, label="readings, 1 sd")
for lost in np.array(TIMES)[~mask]:
    axis.axvline(lost, color="0.85", lw=4, zorder=0, label="lost reading" if lost == TIMES[4] else None)
axis.set(xlabel="time [s]", ylabel="position [cm]", xlim=(0, 10))
axis.legend(ncols=4, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()

# %% [markdown]
# ## A guide of your own
#
# **Any Pyro guide works.** It takes the model's arguments and samples the model's sites. The
# simplest one treats the unknowns as independent ("mean field"):


# %%
class MeanField(PyroModule):
    def __init__(self):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([4.0, 0.3], dtype=torch.float64).log())
        self.start = nn.Parameter(torch.tensor([10.0, 0.0], dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor([-2.0, -2.0, 0.0, 0.0], dtype=torch.float64))

    def forward(self, y=None, mask=None):
        scale = self.log_scale.exp()
        pyro.sample("stiffness", dist.LogNormal(self.rates[0], scale[0]))
        pyro.sample("damping", dist.LogNormal(self.rates[1], scale[1]))
        pyro.sample("initial_state", dist.Normal(self.start, scale[2:]).to_event(1))


independent = MeanField()
physzoo.fit(model, independent, data, physzoo.ELBO(16), steps=300, learning_rate=3e-2, progress=False)
narrow = summary(model, independent)
ratio = float(narrow.posterior.damping.std() / forward.posterior.damping.std())
print(f"sd of the damping: {ratio:.2f} of that of the full covariance")
assert ratio < 0.9

# %% [markdown]
# The mean is right and the error bar is too small. Damping and initial displacement are correlated (a larger
# start that decays faster looks much the same), and a mean field that maximises the ELBO fits inside
# the correlated posterior: where that is Gaussian with covariance $\Sigma$, its variances are
# $1/(\Sigma^{-1})_{kk}$ instead of $\Sigma_{kk}$.

# %%
figure, axis = plt.subplots(figsize=(4.2, 3.4), layout="constrained")
for tree, name, colour in ((forward, "full covariance", "C0"), (narrow, "mean field", "C1")):
    displacement = tree.posterior.initial_state.values[0, :1500, 0]
    axis.plot(displacement, tree.posterior.damping.values[0, :1500], ".", ms=2, color=colour, label=name)
axis.set(xlabel="initial displacement [cm]", ylabel="damping [N s/m]")
axis.legend(markerscale=5, frameon=False)
plt.show()

# %% [markdown]
# **Or write only the density.** A family is a callable (number of unknowns, length of the context) that
# returns a module from context to a distribution over $\mathbb{R}^n$; `amortize` does the rest: names,
# supports, log determinants, whitening. Here is a multivariate Student $t$, whose tails are heavier than
# the posterior's, which is what importance weights ask for:


# %%
class StudentT(nn.Module):
    def __init__(self, unknowns, context):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(unknowns))
        self.raw = nn.Parameter(torch.zeros(unknowns, unknowns))

    def forward(self, context):
        scale = self.raw.tril(-1) + self.raw.diagonal().exp().diag()
        density = dist.MultivariateStudentT(self.loc.new_tensor(10.0), self.loc, scale)
        return density.expand(context.shape[:-1])


heavy = physzoo.amortize(model, None, StudentT, example=data, whitening=start)
physzoo.fit(model, heavy, data, physzoo.ELBO(32), steps=150, learning_rate=1e-2, progress=False)
tails = summary(model, heavy)

# %% [markdown]
# ## One guide for every experiment
#
# If you will do this experiment a thousand times, learn $q(z \mid y)$ as a function of $y$. The
# `Simulator` draws fresh pairs $(z, y)$ from the model at every step, `corrupt` drops readings at random as
# your sensor does, and the forward KL teaches the guide to give the true unknowns a high density,
#
# $$\min_q \; \mathbb{E}_{p(z, y)}\left[-\log q(z \mid y)\right].$$
#
# No gradient of the solver is needed.


# %%
def dropouts(batch):
    return {**batch, "mask": torch.rand(batch["y"].shape) < 0.8}


amortised = physzoo.amortize(model, "mlp", "full", example=data)
simulator = physzoo.Simulator(256, given={"mask": mask}, corrupt=dropouts)
physzoo.fit(model, amortised, simulator, physzoo.ForwardKL(), steps=1000, learning_rate=2e-3, progress=False)

began = time.perf_counter()
amortised.sample(data, 4000)
print(f"4,000 draws for a new experiment: {1e3 * (time.perf_counter() - began):.0f} ms")
quick = summary(model, amortised, seed=2)
print(physzoo.compare(quick, forward, classify=False).summary)

# %% [markdown]
# Not bad for ten seconds of training, and not exact: compare the line above with the fit to this one data
# set. Is it good enough in general? `calibrate` asks that question over 512 simulated experiments.

# %%
verdict = physzoo.calibrate(model, amortised, given={"mask": mask}, draws=100, progress=False)
print(verdict.verdict)
print(f"k-hat below 0.7 in {np.mean(verdict.k_hat < 0.7):.0%} of the experiments")
assert verdict.pits["log_likelihood"].mean() > 0.5  # the truth ranks above the draws
assert np.mean(verdict.k_hat < 0.7) > 0.8

# %% [markdown]
# The check finds that it is not, yet: the draws fit the data a little worse than the truth does, and 512
# experiments are enough to see it. (Tutorial 3 explains the check.) There are two ways out. Train longer,
# with a spline flow; or use the guide as a proposal: where $\hat k < 0.7$, importance weights
# $w \propto p(z, y) / q(z \mid y)$ correct most of what is left, for the price of one solve a draw.

# %%
corrected = physzoo.importance_resample(quick)
print(f"k-hat {corrected.attrs['k_hat']:.2f}, {corrected.attrs['draws']} draws left of {quick.attrs['draws']}")
held = physzoo.compare(corrected, forward, classify=False)
print(held.summary)
assert held.worst_mean_error < 0.15

# %% [markdown]
# ## The other likelihood: one line
#
# So far each draw of $z$ was sent through the solver. The *residual likelihood* makes the state $u$ an
# unknown of its own and the equation an observation, $0 \sim \mathcal{N}(r(u, z), s_r^2)$, where $r$ holds
# what each step misses. The line `return self.problem.solve(z)` becomes:

# %%
RESIDUAL_SCALE = 0.02  # cm and cm/s: how exactly the equation holds, from one reading to the next


class ResidualCart(Cart):
    def state(self, z):
        u = pyro.sample("u", dist.Normal(self.release.new_zeros(len(TIMES), 2), 1e3).to_event(2))
        physzoo.virtual_observables("r", self.problem, u, z, RESIDUAL_SCALE)
        return u


relaxed = ResidualCart()
print(f"{sum(check.passed for check in check_model(relaxed, data))} checks passed")

# %% [markdown]
# Two facts about it.
#
# - As $s_r \to 0$ both likelihoods have to give the same posterior of $z$ (the prior of $u$ above is flat where
#   solutions lie; any other would stay, as a factor). Integrating $u$ out leaves a factor
#   $1/|\det \partial r / \partial u|$, which would shift the posterior; `virtual_observables`
#   multiplies it away. (For the steps of an ODE it is exactly 1, for an elliptic equation it is not, and
#   leaving it out there can ruin the answer.)
# - The posterior of $u$ given $z$ is very narrow. A guide that is Gaussian in $u$ would have to resolve
#   that; `ResidualGuide` draws the residual $e$ instead and finds the state with $r(u, z) = e$.
#
# We fit it from the same start, on its own.

# %%
guide_z = physzoo.amortize(model, None, "full", example=data, whitening=start)
guide_zu = ResidualGuide(guide_z, relaxed.problem, (len(TIMES), 2), RESIDUAL_SCALE, unknowns=None)
physzoo.fit(relaxed, guide_zu, data, physzoo.ELBO(16), steps=150, learning_rate=1e-2, progress=False)
residual = summary(relaxed, guide_zu, seed=1)

# %%
agreement = physzoo.compare(residual, forward, classify=False)
print(agreement.summary)
assert agreement.worst_mean_error < 0.15
assert all(0.85 < ratio < 1.15 for ratio in agreement.sd_ratio.values())

# %%
scalars = [
    ("stiffness", None, "stiffness [N/m]"),
    ("damping", None, "damping [N s/m]"),
    ("initial_state", 0, "initial displacement [cm]"),
    ("initial_state", 1, "initial velocity [cm/s]"),
]
figure, axes = plt.subplots(2, 2, figsize=(7.5, 5), layout="constrained")
for (name, index, label), axis in zip(scalars, axes.flat, strict=True):
    for tree, likelihood, style in (
        (forward, "forward likelihood", {"color": "C0", "alpha": 0.4}),
        (residual, "residual likelihood", {"color": "C3", "histtype": "step", "lw": 1.5}),
    ):
        draws = tree.posterior[name].values[0]
        axis.hist(draws if index is None else draws[:, index], 50, density=True, label=likelihood, **style)
    true = float(truth[name] if index is None else truth[name][index])
    axis.axvline(true, color="k", lw=1, ls="--", label="truth")
    axis.set(xlabel=label, ylabel="density")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
plt.show()

# %% [markdown]
# The two agree. When is the second one worth it? When the solver is expensive (a residual costs a small part
# of a solve) or when you do not believe the equation exactly: $s_r$ is then the size of what it leaves
# out. `ResidualGuide` itself still solves, for the residual that it drew, and it wants $s_r$ small: the
# spread that $s_r$ gives the state has to stay well below the noise of the sensor. To be rid of the
# solver, or for a large $s_r$, put a network for $u$ in its place.
#
# ## Read next
#
# - `03_is_my_posterior_calibrated.py`: what `calibrate` just told us, number by number.
# - `models/poisson1d.py`: a partial differential equation with both likelihoods, in one file.
# - `physzoo list`: the animals of the zoo; the nearest one is a good start for yours.
