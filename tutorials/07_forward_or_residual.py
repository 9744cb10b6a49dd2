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
# # Forward or residual?
#
# There are two ways to tell an inference about an equation. **Solve** it for every guess of the unknowns $z$ and compare
# the solution with the data: the forward likelihood. Or leave the state $u$ **unknown** too, and observe that the equation
# is fulfilled: the residual $r(u, z)$ is a pseudo-observation of zero, a *virtual observable*.
#
# $$\text{forward:}\quad p(z)\,\mathcal{N}\!\left(y;\, H F(z),\, s_y^2\right) \qquad\qquad
# \text{residual:}\quad p(z)\,p(u)\,\mathcal{N}\!\left(0;\, r(u, z),\, s_r^2\right)\,\mathcal{N}\!\left(y;\, H u,\, s_y^2\right)$$
#
# The second needs no solver, which makes it tempting. One would think that both say the same once $s_r$ is small and
# $p(u)$ is flat where solutions lie (of any other, a factor $p_u(F(z))$ stays). They do not: this tutorial shows why, and
# the one factor that mends it.
#
# Run time: about 20 seconds on one core.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import physzoo
from physzoo.guides.state import ResidualGuide
from physzoo.inference.modes import laplace
from physzoo.models.poisson1d import Poisson1D, collapsed_log_joint

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps

# %% [markdown]
# ## One spring
#
# The smallest equation there is: a spring of stiffness $e^z$ under a load of 1 moves by $u = e^{-z}$. Its residual is
# $r(u, z) = e^z u - 1$. There are no data at all, so the posterior of $z$ must be its prior, $\mathcal{N}(0, 1)$.
#
# The picture shows $p(z)\,\mathcal{N}(0;\, r(u, z),\, s_r^2)$ in the plane. Along the curve $u = e^{-z}$ the density is as
# high as the prior. But look at its **width**: for a soft spring (left) a wide band of $u$ fulfils the equation to
# $s_r$, for a stiff one (right) a narrow one. Integrating $u$ out counts the width,
#
# $$\int \mathcal{N}\!\left(0;\, e^z u - 1,\, s_r^2\right) \mathrm{d}u = e^{-z} = \left|\frac{\partial r}{\partial u}\right|^{-1},$$
#
# whatever $s_r$ is: of the prior it makes $\mathcal{N}(-1, 1)$. Making $s_r$ smaller makes both bands thinner, and their ratio
# stays. So soft springs win, for no reason in the data. Multiplying by $|\partial r / \partial u|$ puts the prior back.

# %%
z = torch.linspace(-3, 3, 301)
u = torch.linspace(0, 60, 6001)  # far enough for the softest spring's band
scale = 0.3
density = torch.exp(-0.5 * z**2) * torch.exp(-0.5 * ((z.exp() * u[:, None] - 1) / scale) ** 2)
marginal = density.sum(0) / density.sum() / (z[1] - z[0])
corrected = (density * z.exp()).sum(0)
corrected = corrected / corrected.sum() / (z[1] - z[0])
prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).exp()

figure, (plane, line) = plt.subplots(1, 2, figsize=(9, 3.4))
plane.pcolormesh(z, u[u <= 6], density[u <= 6], cmap="Blues", shading="auto")
plane.plot(z, torch.exp(-z), color="black", lw=0.8)
plane.set(ylim=(0, 6), xlabel="z, log stiffness", ylabel="u, displacement", title="prior times residual density")
line.plot(z, prior, color="black", label="prior = right answer")
line.plot(z, marginal, color="tab:red", label="virtual observable")
line.plot(z, corrected, color="tab:blue", ls="--", label="with |dr/du|")
line.set(xlabel="z, log stiffness", ylabel="density", title="u integrated out")
line.legend(frameon=False, fontsize=8, loc="upper right")
figure.tight_layout()
plt.show()

drift = float((z * marginal).sum() * (z[1] - z[0]))
print(f"mean of z: {drift:.2f} with the virtual observable alone, expected 0")
assert drift < -0.9
assert float((corrected - prior).abs().max()) < 0.003

# %% [markdown]
# ## A bar with one sensor
#
# The same in earnest. `poisson1d`: a layered bar, $-(e^{\kappa} u')' = 1$, two modes of its log-conductivity unknown, 63
# nodal values of $u$, and a single sensor with 10 % noise. With so few unknowns the posterior can be had on a grid: the
# state is integrated out in closed form, `collapsed_log_joint`, so nothing is fitted here.

# %%
options = {"modes": 2, "sensors": 1, "noise": 0.1}
exact = Poisson1D("forward", **options)
residual = Poisson1D("residual", **options, residual_scale=1e-2)
uncorrected = Poisson1D("residual", **options, residual_scale=1e-2, corrected=False)

torch.manual_seed(0)
truth = torch.tensor([0.4, -0.6], dtype=torch.float64)
data = {"y": exact.problem.observe(exact.problem.solve(truth)) + exact.noise * torch.randn(1, dtype=torch.float64)}

axis = torch.linspace(-9, 9, 241, dtype=torch.float64)
points = torch.cartesian_prod(axis, axis)


def posterior_on_the_grid(model: Poisson1D) -> np.ndarray:
    """Probabilities of the grid's cells, (241, 241)."""
    return torch.softmax(collapsed_log_joint(model, points, **data), 0).reshape(241, 241).numpy()


found = {
    "forward": posterior_on_the_grid(exact),
    "residual with log|det dr/du|": posterior_on_the_grid(residual),
    "residual without it": posterior_on_the_grid(uncorrected),
}
figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), sharex=True, sharey=True)
for panel, (name, mass) in zip(panels, found.items(), strict=True):
    panel.contourf(axis, axis, mass.T / mass.max(), levels=[0.01, 0.1, 0.3, 0.6, 1.0], cmap="Blues")
    panel.plot(*truth, marker="+", color="tab:red", ms=10)
    panel.set(title=name, xlabel="z_0")
panels[0].set_ylabel("z_1")
figure.tight_layout()
plt.show()


def distance(name: str) -> float:
    """Total variation to the forward posterior."""
    return 0.5 * float(np.abs(found[name] - found["forward"]).sum())


for name in found:
    print(f"{name:30s} total variation to the forward posterior {distance(name):.3f}")
assert distance("residual with log|det dr/du|") < 0.05
assert distance("residual without it") > 0.5

# %% [markdown]
# With a determinant, `problem.logdet(u, z)`, the two likelihoods agree; without it the mass runs off to soft bars, where
# the determinant is small. How bad it is depends on the data: eight sensors with 2 % noise hold $z$ better, and the total
# variation is still a third (median of eight data sets). `benchmarks/results/residual_tv.json` has the numbers.
#
# `virtual_observables(..., corrected=True)` is therefore the default. Where $z$ is *given* and only $u$ is inferred, as
# when a surrogate is trained on the residual, the factor is a constant if $r$ is affine in $u$, and does not matter.
#
# ## Fitting it
#
# A guide of the residual likelihood has to follow $u$ as $z$ moves: a mean field $q(z)\,q(u)$ collapses to the width
# $s_r$. `ResidualGuide` draws $u$ through its residual and is right for any stiffness. It solves for each draw;
# `PreconditionedGuide` (`guides/state/preconditioned.py`) is the one without a solve, for symmetric positive definite linear
# equations.

# %%
start = laplace(exact, data)
inner = physzoo.amortize(exact, None, "spline", example=data, whitening=start, seed=1, tail=10.0)
guide = ResidualGuide(inner, residual.problem, (63,), residual.residual_scale)
fitted = physzoo.fit(residual, guide, data, physzoo.ELBO(32), steps=500, learning_rate=5e-3, seed=1, progress=False)
with torch.no_grad():
    cell = float(axis[1] - axis[0]) ** 2
    ours = inner.log_prob({"z": points}, data).exp().reshape(241, 241).numpy() * cell

figure, panel = plt.subplots(figsize=(4, 3.6))
panel.contourf(axis, axis, found["forward"].T, levels=6, cmap="Blues")
panel.contour(axis, axis, ours.T, levels=6, colors="tab:red", linewidths=0.8)
panel.set(xlim=(-5, 5), ylim=(-5, 5), xlabel="z_0", ylabel="z_1", title="exact (blue), residual guide (red)")
figure.tight_layout()
plt.show()
gap = 0.5 * float(np.abs(ours - found["forward"]).sum())
print(f"total variation of the fitted guide: {gap:.3f}")
assert gap < 0.15

# %% [markdown]
# ## Which one?
#
# - **Forward** where a solver with gradients is at hand and cheap. Nothing can go wrong with determinants, and there are
#   no additional unknowns.
# - **Residual** where the equation holds only approximately: $s_r$ then *is* the model error. Or where $z$ is not inferred and the
#   determinant is a constant: on `darcy2d` a residual with its gradient costs a small part of a solve with its gradient
#   (`benchmarks/residual_cost.py`). Where $z$ is inferred, keep the determinant. It is cheap for the bar of this page, but on a mesh it
#   is a factorisation of its own for each sample, with gradient dearer than the solve (`benchmarks/residual_posteriors.py`): then
#   the residual likelihood saves no time. Nor does a guide that solves, as `ResidualGuide` does; `PreconditionedGuide` solves nothing.
# - Either way: check the calibration (`03_is_my_posterior_calibrated.py`). A residual model does not simulate its own
#   joint density, so `calibrate` wants the forward model beside it: `calibrate(residual, guide, simulator=exact)`, for an
#   amortised guide.
