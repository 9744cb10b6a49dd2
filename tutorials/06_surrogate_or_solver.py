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
# # Surrogate or solver?
#
# A network that has learnt $z \mapsto u$ is fast, and it is wrong by a little. How much of that little ends up in the
# posterior? In this tutorial a network takes the place of a solver by one line, shifts the posterior, is put right by
# a second line, and at the end we count whether it was worth it.
#
# Run time: about 15 seconds on one core.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

import physzoo
from physzoo.inference.references import grid
from physzoo.inference.references.quadrature import total_variation
from physzoo.models.poisson1d import Poisson1D
from physzoo.physics import FixedBasis, Trunk, unit_cube_cutoff

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps

# %% [markdown]
# ## The problem
#
# The bar of `poisson1d`, here with two unknowns, so that a grid gives the exact posterior:
#
# $$-\left(e^{\kappa(x)} u'\right)' = 1, \quad u(0) = u(1) = 0, \qquad
# \kappa = z_0 \sqrt{\lambda_0}\,\varphi_0 + z_1 \sqrt{\lambda_1}\,\varphi_1, \qquad z_k \sim \mathcal{N}(0, 1),$$
#
# with eight thermometers of sd $s_y = 0.000625$, 0.5 % of the largest temperature at $z = 0$.

# %%
model = Poisson1D(modes=2, noise=0.005)
solver = model.problem


def unknowns(count, seed):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


truth = torch.tensor([0.6, -0.8], dtype=torch.float64)
noise = torch.randn(8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
data = {"y": solver.observe(solver.solve(truth)) + model.noise * noise}

# %% [markdown]
# ## A network from 12 solves
#
# `Surrogate` is itself a problem: it has the sensors, the residual and the determinant of the problem that it stands
# for, and only its `solve` is a network. The states live in a `FixedBasis`, here the six leading principal components
# of the solved ones. `fit_surrogate` is the driver that you know, with the forward KL of $q(u \mid z)$; afterwards
# the network is frozen.

# %%
z = unknowns(12, seed=0)
u = solver.solve(z)
surrogate = physzoo.Surrogate(solver, z, FixedBasis.of_states(u, 6), hidden=(64, 64))
physzoo.fit_surrogate(surrogate, z, u, steps=1000, learning_rate=5e-3, progress=False)

# %% [markdown]
# Is it good? The question is not how small the error of the state is, but how large the error of the *sensors* is
# beside their *noise*. It is measured on solves that the training has not seen.

# %%
held_out = unknowns(500, seed=1)


def in_noise(network):
    error = network.observe(network.solve(held_out)) - solver.observe(solver.solve(held_out))
    return error / model.noise


def relative(network):
    exact = solver.solve(held_out)
    return float(((network.solve(held_out) - exact).norm(dim=-1) / exact.norm(dim=-1)).mean())


typical = float(in_noise(surrogate).square().mean(-1).sqrt().median())
print(f"error of the state {relative(surrogate):.1%}, typical error of a sensor {typical:.1f} s_y")
assert relative(surrogate) < 0.1
assert typical > 1 / 3

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
x = solver.nodes[1:-1]
for colour, one in zip(("C0", "C1", "C2"), held_out[:3], strict=True):
    axes[0].plot(x, solver.solve(one), color=colour, lw=3, alpha=0.4)
    axes[0].plot(x, surrogate.solve(one), color=colour, lw=1)
axes[0].set(xlabel="x", ylabel="temperature", title="solver (wide) and network (thin)")
axes[1].hist(in_noise(surrogate).flatten().clamp(-10, 10), 60, color="C0")
axes[1].axvspan(-1 / 3, 1 / 3, color="k", alpha=0.2)
axes[1].set(xlabel="error of a sensor / noise", yticks=[], title="a third of the noise is grey")
plt.show()

# %% [markdown]
# The curves can hardly be told apart, and yet the errors are as large as the noise. One line puts the network in the
# place of the solver:

# %%
NEAR = [(0.5, 0.7), (-1.05, -0.55)]  # where the posterior is
exact = grid(model, data, bounds=NEAR)

model.problem = surrogate  # the one line
replaced = grid(model, data, bounds=NEAR)


def shift(posterior):
    return max(abs(posterior.mean[name] - exact.mean[name]) / exact.sd[name] for name in exact.mean)


print(f"posterior mean off by {shift(replaced):.1f} sd, total variation {total_variation(exact, replaced):.2f}")
assert exact.edge < 1e-3
assert shift(replaced) > 0.5

# %% [markdown]
# That is a posterior which is wrong and does not know it. So tell it. The sensors of the solver read what those of
# the network read, and an error more, of which the held-out solves show mean and covariance,
#
# $$y = H u_\mathrm{net}(z) + e + \text{noise}, \qquad e \sim \mathcal{N}(m_e, C_e)
# \quad\Rightarrow\quad y \sim \mathcal{N}(H u_\mathrm{net}(z) + m_e,\; s_y^2 I + C_e).$$
#
# In a model of your own it is `observe(..., error=error)`; models that derive from `ForwardOrResidual` have an attribute for it.

# %%
error = physzoo.error_covariance(surrogate, held_out)
model.error = error  # the other line
honest = grid(model, data, bounds=NEAR)
for name in exact.mean:
    print(
        f"{name}: exact {exact.mean[name]:+.2f} +- {exact.sd[name]:.2f}, network {replaced.mean[name]:+.2f} +- "
        f"{replaced.sd[name]:.2f}, with its error {honest.mean[name]:+.2f} +- {honest.sd[name]:.2f}"
    )
inside = [abs(honest.mean[name] - exact.mean[name]) < 2 * honest.sd[name] for name in exact.mean]
wider = [honest.sd[name] > exact.sd[name] for name in exact.mean]
assert all(inside)
assert all(wider)

# %% [markdown]
# The interval is honest again, and wider than it had to be: the error is paid for with information. The covariance is
# an average over the prior. Coverage is restored on average over data sets, not for each of them
# (`benchmarks/surrogate.py` counts it).
#
# ## A network from no solve at all
#
# The residual needs no solver. For this problem, symmetric and linear, it is the derivative of an energy,
#
# $$J(u, z) = \tfrac12 u^\top A(z) u - F^\top u = \tfrac12\, u \cdot \left(r(u, z) + r(0, z)\right),$$
#
# which the solution minimises. A plain sum of squared residuals has the same minimum, seen through the square of a
# condition number: that is why such training often stalls. Here the network is an operator network, a `Trunk` of the
# coordinates which is zero at both ends, and each step sees unknowns out of 16,384, which cost nothing.

# %%
draws = unknowns(16384, seed=2)
centre = FixedBasis.of_residual(solver, torch.zeros(2, dtype=torch.float64), solver.load).centre


trunk = Trunk(solver.nodes[1:-1], centre, directions=32, cutoff=unit_cube_cutoff)
energy = physzoo.Surrogate(solver, draws, trunk, hidden=(64, 64))
began = time.process_time()
physzoo.fit_surrogate(energy, draws, weight="energy", steps=900, learning_rate=5e-3, progress=False)
training = time.process_time() - began
for name, network in (("12 solves", surrogate), ("energy", energy)):
    print(f"{name:10s}error of the state {relative(network):.2%}")
assert relative(energy) < relative(surrogate)

# %%
model.problem, model.error = energy, None
quiet = grid(model, data, bounds=NEAR)
print(f"posterior mean off by {shift(quiet):.2f} sd")
assert shift(quiet) < shift(replaced)

figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharex=True, sharey=True, layout="constrained")
rows = (("12 solves", replaced), ("12 solves, with error", honest), ("energy, no solve", quiet))
for axis, (name, posterior) in zip(axes, rows, strict=True):
    for found, style in ((exact, {"colors": "k"}), (posterior, {"colors": "C3"})):
        height = found.probability.T / found.probability.max()
        axis.contour(*found.axes, height, levels=[0.05, 0.5], linewidths=1, **style)
    axis.plot(*truth, "k*", ms=8)
    axis.set(title=name, xlabel="$z_0$", xlim=NEAR[0], ylim=NEAR[1])
axes[0].set_ylabel("$z_1$")
plt.show()

# %% [markdown]
# ## Was it worth it?
#
# A surrogate pays from the $N^\ast$-th posterior on,
#
# $$N^\ast = \frac{T_\mathrm{simulate} + T_\mathrm{train}}{t_\mathrm{solver} - t_\mathrm{network}},$$
#
# if it is accurate enough at all. Here are the two times, for the states of 1,000 unknowns:


# %%
def milliseconds(problem):
    times = []
    with torch.no_grad():
        for _ in range(20):
            began = time.perf_counter()
            problem.solve(draws[:1000])
            times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times))


print(f"solver {milliseconds(solver):.2f} ms, network {milliseconds(energy):.2f} ms, training {training:.1f} s")
saved = milliseconds(solver) - milliseconds(energy)
print("it never pays" if saved <= 0 else f"it pays after {1e3 * training / saved:,.0f} thousand states")

# %% [markdown]
# In one dimension the solver is a cumulative sum, and no network beats it. A surrogate can pay only where a solve costs
# much more than a few matrix products. `benchmarks/break_even.py` counts whole posteriors, for `poisson1d` and for finite
# elements on 16 x 16 cells. In 1D a surrogate costs more for each posterior than the solver. In 2D it is accurate enough only with
# importance weights, and whether it saves time with them could not be told. An amortised guide with importance weights pays from
# some tens of posteriors on in 2D, and from some hundreds in 1D, where many data sets can be sampled in one batch. Finer meshes,
# three dimensions and many time steps were not counted.
#
# ## To remember
#
# - Judge a surrogate by the error of the sensors in units of their noise. Below a third of it intervals keep their coverage,
#   though one posterior in twenty may still be off by half a standard deviation.
# - Above that, carry the covariance: `error_covariance`, then `observe(..., error=...)`.
# - Where there is an energy, train on it. It needs no solve and no condition number is in the way.
# - Count before you train.
