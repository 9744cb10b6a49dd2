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
# # Lynx and hare: from data to a checked posterior
#
# For 21 years the Hudson's Bay Company wrote down how many hare and lynx pelts it bought. The two numbers
# rise and fall together, the lynx a little after the hare. How fast do hares multiply, how fast do lynx
# starve, and how sure can we be?
#
# We fit a physical model to these data by variational inference: choose a family of distributions
# $q(z)$ over the unknowns $z$, and move it as close as possible to the posterior $p(z \mid y)$. Then we
# check the answer against a published one.
#
# Run time: about 20 seconds on one core.

# %%
import warnings

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import torch

import physzoo
from physzoo.inference.importance import smoothed
from physzoo.physics import ODEProblem, SolverWarning

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps
# Some draws from the prior lead to populations that overflow. They get density zero, and we need not hear
# of it.
warnings.simplefilter("ignore", SolverWarning)

# %% [markdown]
# ## The system
#
# The zoo keeps each system ("animal") with its model, its data and what its numbers mean.
# With $u$ hares and $v$ lynx, in thousands of pelts:
#
# $$\frac{du}{dt} = (\alpha - \beta v)\,u, \qquad \frac{dv}{dt} = (-\gamma + \delta u)\,v,$$
#
# and each count has a lognormal error, $\log y_t = \log (u, v)(t) + \sigma\,\varepsilon_t$. There are eight
# unknowns: four rates, two populations in 1900, two error scales.

# %%
animal = physzoo.get("lynx_hare")
model = animal.model()
data = animal.data()

for name, meaning in animal.quantities.items():
    prior = animal.priors.get(name, "observed")
    print(f"{name:14s} {meaning.label:22s} [{meaning.unit}]  {prior}")

# %% [markdown]
# `model` is an ordinary Pyro model. Everything below also works with a model that you wrote yourself (that
# is tutorial 2).
#
# ## Fit
#
# Three lines:
#
# 1. `laplace` climbs to the posterior's peak and measures its curvature. This is a first, Gaussian answer,
#    and it makes the problem round for the next step. Without it the fit would take far longer, and it would
#    look converged before it is.
# 2. `amortize` reads the unknowns off the model and builds a spline flow over them: a flexible density that
#    can be skewed and bent. `None` says that there is one data set and nothing to learn from others;
#    `tail` gives the flow heavier tails than a Gaussian, so that it does not miss the posterior's.
# 3. `fit` maximises the evidence lower bound
#    $\mathrm{ELBO} = \mathbb{E}_{q}\left[\log p(z, y) - \log q(z)\right]$, estimated with 128 draws a step.

# %%
start = physzoo.laplace(model, data)
guide = physzoo.amortize(model, None, "spline", example=data, whitening=start, tail=8.0)
record = physzoo.fit(model, guide, data, physzoo.ELBO(128), steps=400, learning_rate=3e-3, progress=False)
print(f"{record.steps} steps, {record.seconds:.0f} s, ELBO {-np.mean(record.losses[-50:]):.2f} nat")

# %%
figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
axis.plot(-np.array(record.losses), lw=0.7)
axis.set(xlabel="step", ylabel="ELBO [nat]", title="A flat curve is necessary, and not enough")
plt.show()

# %% [markdown]
# ## The posterior
#
# `posterior` draws from the fitted $q$ and returns an ArviZ `DataTree`, so that all of ArviZ's tables and
# plots are at hand. Names, units and coordinates come from the zoo.

# %%
meanings = animal.quantities
tree = physzoo.posterior(
    model,
    guide,
    data,
    draws=4000,
    units={name: meaning.unit for name, meaning in meanings.items()},
    dims={name: meaning.dims for name, meaning in meanings.items() if meaning.dims},
    coords={dim: list(values) for meaning in meanings.values() for dim, values in meaning.coords.items()},
)
az.summary(tree, kind="stats", round_to=4)

# %%
rates = ("alpha", "beta", "gamma", "delta")
figure, axes = plt.subplots(2, 2, figsize=(7.5, 4.5), layout="constrained")
for name, axis in zip(rates, axes.flat, strict=True):
    draws, before = tree.posterior[name].values[0], tree.prior[name].values[0]
    bins = np.linspace(0, 4 * draws.mean(), 81)
    # a density over all draws: of the prior, part lies beyond the figure
    share = np.full(before.size, 1 / before.size / bins[1])
    axis.hist(before, bins, weights=share, color="0.7", label="prior")
    axis.hist(draws, bins, density=True, color="C0", alpha=0.8, label="posterior")
    label = f"{meanings[name].label} {name} [{meanings[name].unit}]"
    axis.set(xlabel=label, ylabel="density", xlim=(0, bins[-1]))
axes[0, 0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## The populations
#
# Each draw of the unknowns is one possible history. The physics object of the zoo solves all of
# them at once, here on a finer grid of times than the yearly records.

# %%
posterior = {
    name: torch.tensor(tree.posterior[name].values[0, :500])
    for name in ("alpha", "beta", "gamma", "delta", "initial_state")
}
fine = torch.linspace(0, 20, 401, dtype=torch.float64)
histories = ODEProblem(model.problem.rhs, fine).solve(posterior).numpy()  # (draw, time, species)

years = np.arange(1900, 1921)
pelts = data["y"].numpy()
replicated = tree.posterior_predictive["y"].values[0]
figure, axes = plt.subplots(2, 1, figsize=(7.5, 5.5), sharex=True, layout="constrained")
for species, axis in enumerate(axes):
    low, high = np.quantile(histories[..., species], [0.05, 0.95], axis=0)
    bottom, top = np.quantile(replicated[..., species], [0.05, 0.95], axis=0)
    label = ("hare", "lynx")[species]
    axis.fill_between(years, bottom, top, color=f"C{species}", alpha=0.15, lw=0, label="new records, 90 %")
    axis.fill_between(1900 + fine, low, high, color=f"C{species}", alpha=0.5, lw=0, label="population, 90 %")
    axis.plot(years, pelts[:, species], "k.", ms=6, label="records")
    axis.set(ylabel=f"{label} [thousand pelts]", ylim=(0, None), xlim=(1899.5, 1920.5))
    axis.legend(ncols=3, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
axes[-1].set_xlabel("year")
axes[-1].set_xticks(years[::5])
plt.show()

# %% [markdown]
# The dark band is what we know about the population. The light band is what we expect of a new record, its
# error included; nine of ten records should lie in it.

# %%
low, high = np.quantile(replicated, [0.05, 0.95], axis=0)
inside = int(((pelts > low) & (pelts < high)).sum())
print(f"{inside} of {pelts.size} records lie in their 90 % band")
assert 34 <= inside <= 42  # 37.8 are expected, with a standard deviation of 1.9

# %% [markdown]
# The famous ten-year cycle follows: small oscillations about the equilibrium have the period
# $2\pi / \sqrt{\alpha\gamma}$ (large ones take a little longer).

# %%
period = 2 * np.pi / np.sqrt(tree.posterior.alpha * tree.posterior.gamma)
print(f"period {float(period.mean()):.2f} years, sd {float(period.std()):.2f}")
assert 9 < float(period.mean()) < 10

# %% [markdown]
# ## Is it right?
#
# **Is $q$ close to the posterior?** For each draw we know both densities, so we know how much it should
# have counted: $w_s \propto p(z_s, y) / q(z_s)$. If $q$ is exact, all weights are equal. The Pareto shape
# $\hat k$ of the largest weights says how far from that we are: below 0.5 good, below 0.7 usable, above
# that a few draws dominate. $\hat k$ sees where $q$ is too narrow; it cannot see a second peak that $q$ has
# never visited.

# %%
stats = tree.sample_stats
log_weights, k_hat = smoothed(stats.log_p.values[0], stats.log_q.values[0])
weights = np.exp(log_weights)
print(f"k-hat {float(k_hat):.2f}, effective draws {1 / np.sum(weights**2):.0f} of {len(weights)}")
assert k_hat < 0.7

# %% [markdown]
# **Does it agree with others?** The `posteriordb` project published the posterior means of this model,
# from ten long Markov chains with Stan. We compare in units of the posterior's standard deviation.

# %%
print(f"{'':17s}{'ours':>9s}{'published':>11s}{'difference':>12s}")
worst = 0.0
for name, published in animal.published.items():
    draws = tree.posterior[name].values[0].reshape(len(weights), -1)
    for index, mean in enumerate(np.atleast_1d(published)):
        mine, spread = draws[:, index].mean(), draws[:, index].std()
        label = name if draws.shape[1] == 1 else f"{name} {('hare', 'lynx')[index]}"
        print(f"{label:17s}{mine:9.4f}{mean:11.4f}{(mine - mean) / spread:+9.3f} sd")
        worst = max(worst, abs(mine - mean) / spread)
assert worst < 0.1

# %% [markdown]
# ## Read next
#
# - `02_your_own_model.py`: write your own system and your own guide.
# - `03_is_my_posterior_calibrated.py`: what to do when nobody has published the answer.
# - `physzoo run lynx_hare --out report` does all of this from the command line and writes a page with
#   figures, a reference run and a calibration check.
