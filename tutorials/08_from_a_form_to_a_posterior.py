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
# # From a UFL form to a calibrated posterior in 30 lines
#
# You have an equation in weak form, some sensors, and an unknown field. What follows is all that is needed: the form as one
# writes it in UFL, a Pyro model, a guide, a fit, and the check. Needs the finite elements (`pip install -e '.[fem]'` in the
# repository).
#
# A plate of unknown conductivity $e^{\kappa}$ loses heat to the air around it, more so where it is hot:
#
# $$-\nabla\cdot\left(e^{\kappa}\,\nabla u\right) + u + u^3 = 10, \qquad u = 0 \text{ on the border}.$$
#
# It is nonlinear; the library does Newton's method for the state and the adjoint for the gradient.
#
# Run time: about 60 seconds on one core.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule

import physzoo
from physzoo.inference.fit import simulated_once
from physzoo.physics import KarhunenLoeve
from physzoo.physics.fem import FEMProblem
from physzoo.physics.fem.problem import require_dolfinx

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps

# %% [markdown]
# ## The equation

# %%
require_dolfinx()
import ufl  # noqa: E402 (its MPI library is found after the line above)
from dolfinx import fem, mesh  # noqa: E402
from mpi4py import MPI  # noqa: E402

square = mesh.create_unit_square(MPI.COMM_SELF, 8, 8)
space = fem.functionspace(square, ("P", 1))
u, kappa, v = fem.Function(space), fem.Function(space), ufl.TestFunction(space)
form = ufl.exp(kappa) * ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx + (u + u**3 - 10) * v * ufl.dx
square.topology.create_connectivity(1, 2)
border = fem.locate_dofs_topological(space, 1, mesh.exterior_facet_indices(square.topology))
sensors = torch.cartesian_prod(*(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64),) * 2)
problem = FEMProblem(form, u, {"kappa": kappa}, [fem.dirichletbc(0.0, border, space)], sensors, quadrature_degree=4)

# %% [markdown]
# The same object serves the other likelihood: its residual, for all samples at once and without a solve.

# %%
field = KarhunenLoeve(problem.coordinates("kappa"), 3, 0.5, weights=problem.volumes("kappa"))
z = torch.randn(5, 3, dtype=torch.float64)
left = problem.residual(problem.solve(field(z)), field(z)).abs().max()
print(f"residual at the solution: {float(left):.1e}; solved without a loop over samples: {problem.tabulated}")
assert float(left) < 1e-7
assert problem.tabulated

# %% [markdown]
# ## The model, the guide, the fit


# %%
class Plate(PyroModule):
    """Three modes of the log-conductivity, nine thermometers with a noise of 0.01."""

    def forward(self, y: torch.Tensor | None = None) -> torch.Tensor:
        modes = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
        state = problem.solve(field(modes))
        return physzoo.observe("y", problem.observe(state), 0.01, obs=y)


model = Plate()
torch.manual_seed(3)
truth = torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64)
data = {"y": problem.observe(problem.solve(field(truth))) + 0.01 * torch.randn(9, dtype=torch.float64)}
guide = physzoo.amortize(model, "mlp", "spline", example=data, seed=1, transforms=2)
pairs = simulated_once(model, guide, 8192, 256, seed=1)
fitted = physzoo.fit(model, guide, pairs, physzoo.ForwardKL(), steps=2000, learning_rate=3e-3, seed=1, progress=False)

# %% [markdown]
# The guide answers for any readings of the thermometers. Here is the posterior of this plate.

# %%
draws = guide.sample(data, 2000)["z"]
mean, sd = draws.mean(0), draws.std(0)
for k in range(3):
    print(f"z_{k}: {float(mean[k]):+.2f} +- {float(sd[k]):.2f}   (truth {float(truth[k]):+.2f})")
assert bool(((mean - truth).abs() < 4 * sd).all())

fields = field(draws)
corners = problem.coordinates("kappa").numpy()
figure, panels = plt.subplots(1, 3, figsize=(10, 3.0))
shown = {"truth": field(truth), "posterior mean": fields.mean(0), "posterior sd": fields.std(0)}
for panel, (name, values) in zip(panels, shown.items(), strict=True):
    levels = panel.tricontourf(*corners.T, values.numpy(), 12)
    panel.plot(*sensors.T.numpy(), ".", color="black", ms=3)
    panel.set(title=f"log-conductivity, {name}", aspect="equal", xticks=[], yticks=[])
    figure.colorbar(levels, ax=panel, shrink=0.8)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Can it be trusted?
#
# Draw plates from the prior, readings from the plates, posteriors from the readings: the truth must rank among its
# posterior's draws like any of them. And the other way round: a guide whose draws are pulled together by a fifth has to
# be caught.

# %%
checked = physzoo.calibrate(model, guide, datasets=256, draws=100, seed=5, progress=False)
narrow = physzoo.calibrate(model, guide, datasets=256, draws=100, seed=6, widen=0.8, progress=False)
print("guide:          ", checked.verdict)
print("sd times 0.8:   ", narrow.verdict)
covered = {level: round(share, 2) for level, share in checked.coverage.items()}
print("coverage of the joint intervals:", covered)

figure, panel = plt.subplots(figsize=(4, 3.2))
levels = sorted(checked.coverage)
panel.plot([0, 1], [0, 1], color="grey", lw=0.8)
panel.plot(levels, [checked.coverage[level] for level in levels], "o-", label="guide")
panel.plot(levels, [narrow.coverage[level] for level in levels], "s--", label="sd x 0.8")
panel.set(xlabel="nominal", ylabel="covers", title="highest-density regions")
panel.legend(frameon=False)
figure.tight_layout()
plt.show()
assert not checked.rejected
assert narrow.rejected
assert np.isfinite(fitted.losses[-1])
