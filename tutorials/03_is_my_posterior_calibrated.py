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
# # Is my posterior calibrated?
#
# You have a guide $q(z \mid y)$ and no published answer to hold it against. When it says "95 %", is it right
# 95 times in a hundred?
#
# There is a test that needs no reference: **simulate**. Draw a truth from the prior and data from the truth,
#
# $$z^\ast \sim p(z), \qquad y \sim p(y \mid z^\ast), \qquad z_1, \dots, z_L \sim q(z \mid y).$$
#
# If $q$ is the posterior, then $z^\ast, z_1, \dots, z_L$ are exchangeable: the truth is just one more draw.
# So its rank among the draws is uniform, over many repetitions. `calibrate` repeats this 512 times and
# looks at the ranks from several sides. In this tutorial it checks a good guide, and then four bad ones on
# purpose: a check that cannot fail proves nothing.
#
# Run time: about 40 seconds on one core.

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from IPython.display import Image, display
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import AffineTransform

import physzoo
from physzoo.inference.calibration.sbc import ecdf
from physzoo.inference.references import grid
from physzoo.physics import Elliptic1D, KarhunenLoeve

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps

# %% [markdown]
# ## A small problem and a guide
#
# Heat conduction in a bar of unknown conductivity $e^{\kappa(x)}$, its ends kept at zero,
#
# $$-\left(e^{\kappa(x)} u'\right)' = 1, \qquad
# \kappa = z_0 \sqrt{\lambda_0}\,\varphi_0 + z_1 \sqrt{\lambda_1}\,\varphi_1,
# \qquad z_k \sim \mathcal{N}(0, 1),$$
#
# with $\varphi_0, \varphi_1$ the first two Karhunen-Loève modes: roughly the mean conductivity, and the
# difference between left and right. Two thermometers on the left half report $u(0.2)$ and $u(0.4)$ with a
# noise of 0.01; $u$ is at most 0.125 where $\kappa = 0$. (All quantities are dimensionless.)


# %%
class Bar(PyroModule):
    def __init__(self, elements=64):
        super().__init__()
        midpoints = (torch.arange(elements, dtype=torch.float64) + 0.5) / elements
        conductivity = KarhunenLoeve(midpoints, 2, length=0.3)
        thermometers = torch.tensor([0.2, 0.4], dtype=torch.float64)
        self.problem = Elliptic1D(conductivity, thermometers, elements, dtype=torch.float64)
        self.register_buffer("origin", torch.zeros(2, dtype=torch.float64))

    def forward(self, y=None, mask=None):
        z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
        u = self.problem.solve(z)
        physzoo.observe("y", self.problem.observe(u), NOISE, obs=y, mask=mask)


NOISE = 0.01
model = Bar()
example = {"y": torch.zeros(2, dtype=torch.float64)}

# %% [markdown]
# The guide is a spline flow that learns from simulated pairs $(z, y)$, by the forward KL.


# %%
def trained(family, steps):
    guide = physzoo.amortize(model, "mlp", family, example=example)
    simulator = physzoo.Simulator(256)
    physzoo.fit(model, guide, simulator, physzoo.ForwardKL(), steps=steps, learning_rate=2e-3, progress=False)
    return guide


guide = trained("spline", 1200)

# %% [markdown]
# With two unknowns we can afford the exact posterior on a grid, so one look before the test: four data
# sets, contours of the exact posterior, dots from the guide.

# %%
torch.manual_seed(1)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.7), sharex=True, sharey=True, layout="constrained")
for axis in axes:
    z = torch.randn(2, dtype=torch.float64)
    clean = model.problem.observe(model.problem.solve(z))
    y = clean + NOISE * torch.randn(2, dtype=torch.float64)
    exact = grid(model, {"y": y}, points=101)
    draws = guide.sample({"y": y}, 400)["z"]
    axis.plot(*draws.T, ".", ms=2, color="C0", label="guide")
    height = exact.probability.T / exact.probability.max()
    axis.contour(*exact.axes, height, levels=[0.05, 0.5], colors="k", linewidths=0.8)
    axis.plot(*z, "C3*", ms=9, label="truth")
    axis.set(xlabel="$z_0$", xlim=(-3, 3), ylim=(-4, 4))
axes[0].set_ylabel("$z_1$")
axes[0].legend(fontsize=8, frameon=False, loc="upper right", handletextpad=0.1)
plt.show()

# %% [markdown]
# ## The check
#
# One call. It simulates 512 data sets, draws 200 times from the guide for each, and gives one line that you
# can act on.

# %%
check = physzoo.calibrate(model, guide, progress=False)
print(check.verdict)
assert check.passed


# %%
def show(check):
    with tempfile.TemporaryDirectory() as folder:
        display(Image(check.plot(Path(folder) / "calibration.png").read_bytes()))


show(check)

# %% [markdown]
# ### Ranks (upper left)
#
# Each line is one *test quantity* $t(z, y)$. The rank of $t(z^\ast, y)$ among
# $t(z_1, y), \dots, t(z_L, y)$, scaled to $[0, 1]$ (the PIT value), should be uniform. Drawn is the empirical
# distribution minus the uniform one, so a line of a perfect guide stays inside the grey band in 95 of 100
# checks. How to read a deviation of a parameter's line:
#
# | shape | meaning |
# |---|---|
# | up, then down (positive left, negative right) | $q$ too narrow: the truth lies outside too often |
# | down, then up | $q$ too wide |
# | one hump downwards | truth too often above the draws: $q$ shifted down |
# | one hump upwards | $q$ shifted up |
#
# Besides the parameters there are four quantities that depend on the data: the log-likelihood
# $\log p(y \mid z)$, the log joint density, $\log q(z \mid y)$, and TARP's distance to a random point. They
# see what no single parameter shows, such as a wrong correlation.
#
# The p-value of each line is the chance that a perfect guide deviates as much. There are several
# lines, so the p-values are adjusted (Holm): `passed` means that none of the adjusted ones is below 0.01, and that the
# check is not `inconclusive` (draws as wide as the prior, and nothing shows that the data carry no information). A
# perfect guide is rejected about one time in a hundred.

# %%
for name, value in check.adjusted.items():
    effect = check.effects.get(name)
    size = f"shift {effect.shift:+.2f} sd, width {effect.width:.2f}" if effect else ""
    print(f"{name:15s} adjusted p {value:.2f}   {size}")

# %% [markdown]
# *What p cannot say:* how large the error is. With enough data sets every guide is rejected, with few none.
# Look at the effect beside it: by how many posterior standard deviations $q$ is shifted, and by which
# factor its width is off. 512 data sets find a width of 0.8 or a shift of 0.3 with near certainty; an error
# of 5 % would mostly go unnoticed, and may well be there.
#
# ### Coverage (upper right)
#
# How often does the region that should hold the truth with probability 50, 80, 95 % hold it? Twice, for
# the joint posterior: once for the region of highest $q$, once for balls about random points (TARP), which
# needs no density. Below the diagonal means overconfident.

# %%
for level, share in check.coverage.items():
    error = np.sqrt(level * (1 - level) / check.datasets)
    print(f"nominal {level:.0%}, found {share:.1%}, standard error {error:.1%}")
    assert abs(share - level) < 4 * error

# %% [markdown]
# *What coverage cannot say:* whether the regions are small. The prior has perfect coverage.
#
# ### Importance weights (lower left)
#
# $\hat k$ is the one number here that exists for each data set by itself: does this $q(z \mid y)$ reach
# into the tails of this $p(z \mid y)$? Below 0.5 good; below 0.7 importance weights mend most of what is off, but no
# mode that is missed and no sds that are far too small; above 0.7 they cannot be trusted. *What it cannot say:* anything
# about places where $q$ has no draws.
#
# ### Contraction (lower right)
#
# $1 - \mathbb{E}[\mathrm{var}(z \mid y)] / \mathrm{var}(z)$: 0 means that $q$ is as wide as the prior, 1 that
# the data settle it. This is the guard against guides that are right and say nothing. `information` says it
# for all unknowns together: the mean of $\log q(z^\ast \mid y) - \log p(z^\ast)$, in nats.

# %%
for name, value in check.contraction.items():
    print(f"{name}: contraction {value:.2f}")
usable = np.mean(check.k_hat < 0.7)
print(f"k-hat: {usable:.0%} of the data sets below 0.7, median {np.median(check.k_hat):.2f}")
print(f"information {check.information:.2f} nat")

# %% [markdown]
# ## Would it have noticed?
#
# **1. Overconfident.** `widen=0.8` shrinks every set of draws about its mean: error bars 20 % too small.

# %%
verdicts = {"as trained": check}
verdicts["sd x 0.8"] = physzoo.calibrate(model, guide, widen=0.8, progress=False)
print(verdicts["sd x 0.8"].verdict)
assert not verdicts["sd x 0.8"].passed
assert verdicts["sd x 0.8"].coverage[0.95] < 0.92

# %% [markdown]
# **2. Biased.** A copy of the guide whose first unknown is off by 0.3 of its posterior standard deviation,
# for every data set: a family around the trained family that moves what it draws.


# %%
class Shifted(nn.Module):
    def __init__(self, family, by):
        super().__init__()
        self.family = family
        self.by = torch.tensor(by, dtype=torch.float64)

    def forward(self, context):
        density = self.family(context)
        shift = self.by * density.sample((500,)).std(0)
        return dist.TransformedDistribution(density, [AffineTransform(shift, 1.0, event_dim=1)])


biased = copy.deepcopy(guide)
biased.family = Shifted(guide.family, [0.3, 0.0])
verdicts["shift 0.3 sd"] = physzoo.calibrate(model, biased, progress=False)
print(verdicts["shift 0.3 sd"].verdict)
assert "z[0]" in verdicts["shift 0.3 sd"].rejected
assert 0.15 < verdicts["shift 0.3 sd"].effects["z[0]"].shift < 0.5

# %% [markdown]
# **3. Lazy.** A guide that ignores the data and returns the prior. Truth and draws come from the same
# distribution, so the ranks of every parameter are perfectly uniform, and so is the coverage. Rank tests of
# the parameters alone would certify it. Two things give it away: it has no contraction, and the
# truth explains the data far better than its draws do, so the log-likelihood is rejected.


# %%
def lazy(y=None, mask=None):
    pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))


verdicts["the prior"] = physzoo.calibrate(model, lazy, progress=False)
print(verdicts["the prior"].verdict)
assert "log_likelihood" in verdicts["the prior"].rejected
assert not {"z[0]", "z[1]"} & set(verdicts["the prior"].rejected)
assert max(verdicts["the prior"].contraction.values()) < 0.05

# %% [markdown]
# **4. Honest, but too simple.** The same training with an independent Gaussian for each unknown. The forward
# KL makes each marginal as wide as it should be, so each parameter by itself looks nearly right; what is
# missing is how they belong together.

# %%
simple = trained("diagonal", 1200)
verdicts["independent"] = physzoo.calibrate(model, simple, progress=False)
print(verdicts["independent"].verdict)
assert "log_likelihood" in verdicts["independent"].rejected
assert all(0.85 < effect.width < 1.15 for effect in verdicts["independent"].effects.values())

# %% [markdown]
# All five side by side. The ranks of the first unknown (left) say what is wrong with the overconfident and
# the biased guide, and acquit the other two. The ranks of the log-likelihood (right) convict those: a line
# far below zero says that the draws explain the data worse than the truth does, one above that they explain
# them too well. Neither picture alone convicts all four.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
band = check.band
for axis, quantity in zip(axes, ("z[0]", "log_likelihood"), strict=True):
    axis.fill_between(
        band.points, band.lower - band.points, band.upper - band.points, color="0.88", lw=0, label="95 % band"
    )
    for index, (name, found) in enumerate(verdicts.items()):
        difference = ecdf(found.pits[quantity], band.points) - band.points
        axis.plot(band.points, difference, label=name, color="k" if index == 0 else f"C{index - 1}")
    axis.set(xlabel=f"PIT of {quantity}", ylabel="ECDF minus uniform")
axes[0].set_ylim(-0.2, 0.2)
axes[0].legend(fontsize=8, frameon=False)
plt.show()

for name, found in verdicts.items():
    low = min(found.contraction.values())
    share = found.coverage[0.95]
    outcome = "passed" if found.passed else "rejected"
    learnt = f"contraction {low:+.2f} or more, {found.information:.2f} nat"
    print(f"{name:13s} {outcome:9s} 95 % regions hold {share:.0%}, {learnt}")
assert [found.passed for found in verdicts.values()] == [True, False, False, False, False]

# %% [markdown]
# ## What none of this can see
#
# - **A wrong model.** The data were simulated from the model. If nature does otherwise, a calibrated guide
#   gives the calibrated answer to the wrong question: check the posterior predictive against the real data.
# - **Your data set.** Calibration is an average over the prior. Where your data lie in a corner that the
#   prior rarely visits, look at $\hat k$ for your data (below 0.7, `physzoo.importance_resample` corrects
#   most of what is off, but no mode that is missed), or at a reference: `physzoo.reference(model, data)`
#   by HMC, or with `physzoo.SMC()` where there may be several modes, of which chains see one.
# - **Errors that cancel**: too wide for half of the data sets and too narrow for the other half. The
#   data-dependent quantities see some of them, not all.
#
# ## Read next
#
# - `02_your_own_model.py`: build the guide that you now know how to check.
# - `physzoo check DIR` runs this on the guide of a run, if it is amortised; for one data set it checks refits of the
#   guide's family near the data (`physzoo.posterior_sbc`).
# - Talts et al., arXiv:1804.06788 (ranks); Modrák et al., arXiv:2211.02383 (why the log-likelihood);
#   Hermans et al., arXiv:2110.06581 (coverage); Lemos et al., arXiv:2302.03026 (TARP);
#   Säilynoja et al., arXiv:2103.10522 (bands).
