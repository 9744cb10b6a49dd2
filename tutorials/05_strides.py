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
# # Strides: a Hamiltonian that is learnt
#
# When we walk, hip, knee and ankle repeat the same motion with each stride. Nobody has an equation for it. But
# we may believe something about its form: that it is a mechanical system with an energy, which swings around and
# comes back after one stride. That is physics too, and it is enough for a grey box:
#
# $$\dot q = \frac{\partial H}{\partial p}, \qquad \dot p = -\frac{\partial H}{\partial q}, \qquad
# x(t) = \text{posture} + q(t) + f_B(t; z) + \text{noise}$$
#
# $q$ are the three angles, in radians; $H$ is learnt, one function for all people. What a stride has beyond that,
# the correction $f_B$ describes.
#
# Run time: about 30 seconds on one core.

# %%
import matplotlib.pyplot as plt
import torch

import physzoo
from physzoo.inference.evaluation import evaluate, principal_components
from physzoo.inference.objectives import GreyBoxELBO
from physzoo.models.datasets import system
from physzoo.models.locomotion import JOINT_NAMES, Locomotion
from physzoo.models.locomotion_guide import locomotion_guide
from physzoo.models.stride_augmentation import augmented

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps

# %% [markdown]
# ## The data
#
# To run without a download, this tutorial takes synthetic strides: Fourier series through textbook curves,
# with random amplitudes, phases and details. 101 points a stride, three angles, 400 strides for training.
#
# Real ones (Lencioni et al., Sci. Data 6:309, 2019) are read from the original files by one line in the shell,
#
#     physzoo data locomotion --source FOLDER --out strides.npz
#
# and `Splits.load("strides.npz")` from `physzoo.models.datasets` in place of the next cell's `generate`. If
# the source holds no test strides, take `splits.valid` for `splits.test`. The assertions below are about the synthetic
# strides; real ones give other numbers.

# %%
splits = system("locomotion").generate(0)
train, test = splits.train, splits.test
print(f"train {tuple(train.x.shape)}, test {tuple(test.x.shape)}; known of each: {', '.join(test.covariates)}")

# %% [markdown]
# ## What has to be beaten
#
# Principal components (PCA) are the best linear code. They need no training loop and no physics, and for smooth
# curves from few people they are hard to beat. The grey box has 9 numbers of physics (posture, $q$ and $p$ when
# the heel touches the ground) and 12 of correction, so we look at 9 and at 21 components.

# %%
pca = {size: principal_components(train.x, test.x, size) for size in (9, 21)}
for size, result in pca.items():
    print(f"PCA with {size:2d} numbers: mean error {result.mae:.4f} rad")

# %% [markdown]
# ## A start that is PCA
#
# `locomotion_guide` starts model and guide at PCA of the same code size: nothing that is trained later has to
# find what linear algebra finds at once. The Hamiltonian is quadratic there, a set of harmonic oscillators.


# %%
def built(physics_steps):
    """Return a model and its guide at their start."""
    torch.manual_seed(0)
    model = Locomotion()
    guide = locomotion_guide(model, {"x": train.x[0]}, data=train.x, physics_steps=physics_steps)
    return model, guide


def codes(guide):
    """Return the mean of all unknowns of each test stride."""
    return {name: draws.mean(0) for name, draws in guide.sample(test.data, 64).items()}


def share(model, guide):
    """Return which part of the variance of the angles, about each joint's mean, the physics alone explains."""
    with torch.no_grad():
        physics = model.decode(codes(guide)).physics
    about = test.x - train.x.mean((0, 1))
    return 1 - float((test.x - physics).square().sum() / about.square().sum())


oscillators = built(physics_steps=0)
at_start = evaluate(*oscillators, test.data, bound=0)
print(f"mean error {at_start.mae:.4f} rad, PCA {pca[21].mae:.4f}")
print(f"the physics explains {100 * share(*oscillators):.0f} % of the variance")
assert abs(at_start.mae / pca[21].mae - 1) < 0.1

# %% [markdown]
# The sum is right and the physics does not do much: harmonic oscillators cannot bend twice in a stride, as a knee does.
#
# ## The physics first
#
# So $H$ is learnt. It is $H = K \circ \Phi^{-1}$: oscillators $K$, seen through a learnt canonical map $\Phi$ (a map that
# keeps Hamilton's equations). Such an $H$ can bend the motion as it likes, and its equations still have a closed form:
# no solver, no step size. With `physics_steps`, $H$ and the guide of its unknowns are fitted alone first; then the
# correction starts at the components of what they leave.

# %%
model, guide = built(physics_steps=200)
record = physzoo.fit(
    model,
    guide,
    physzoo.DataSets({"x": augmented(train.x, 2000)}, batch_size=50),
    GreyBoxELBO(**physzoo.get("locomotion").training.objective),
    steps=250,
    learning_rate=1e-3,
    warmup=0.05,
    progress=False,
)
found = evaluate(model, guide, test.data, bound=0)
print(f"{record.steps} steps, {record.seconds:.0f} s")

# %% [markdown]
# `augmented` makes more strides out of 400: mixtures, shifted and stretched a little. The objective is the ELBO
# with the regularisers of tutorial 4; `predictive` keeps the correction small.

# %%
physics_share = share(model, guide)
print(f"physics and correction, 21 numbers: {found.mae:.4f} rad    PCA: {pca[21].mae:.4f}")
physics_error = found.decomposition["without_correction"]  # the same as the physics: there are no learnt dynamics
print(f"physics alone, 9 numbers:           {physics_error:.4f} rad    PCA: {pca[9].mae:.4f}")
print(f"the physics explains {100 * physics_share:.1f} % of the variance")
assert physics_share > 0.95 > 0.85 > share(*oscillators)
assert found.mae < 0.6 * pca[9].mae
assert pca[21].mae < found.mae < 2 * pca[21].mae

# %% [markdown]
# **PCA of the same size reconstructs better here**, and PCA with nine numbers does better than the physics with nine.
# These strides were made as a sum of curves with random factors, which is nearly what PCA assumes, and our training
# was short. What the physics buys is something else: almost all of the motion now follows from one energy function
# and nine numbers that have a meaning and a unit. The correction is left with about one percent.

# %%
stride = int(test.covariates["speed"].argsort()[len(test) // 2])  # a person of middling speed
percent = torch.arange(101)
with torch.no_grad():
    z = codes(guide)
    outputs, plain = model.decode(z), oscillators[0].physics(codes(oscillators[1]))
figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained")
for joint, axis in enumerate(axes):
    axis.plot(percent[::4], test.x[stride, ::4, joint], "k.", label="data")
    axis.plot(percent, outputs.full[stride, :, joint], color="C0", label="full")
    axis.plot(percent, outputs.physics[stride, :, joint], color="C1", label="physics, H learnt")
    axis.plot(percent, plain[stride, :, joint], ":", color="0.5", label="physics, oscillators")
    axis.set(title=JOINT_NAMES[joint], xlabel="percent of the stride")
axes[0].set_ylabel("angle [rad]")
figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="outside upper center", frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# ## The energy is conserved
#
# Not because the training asked for it, but because of how the model is built: $H$ is constant along each motion, and each
# motion is closed. Both hold to rounding (float32), also for an untrained model.

# %%
with torch.no_grad():
    path = model.phase_path(z)  # (q, p) along each stride, (344, 101, 6)
    energy = model.hamiltonian.energy(path)
drift = float(((energy - energy[:, :1]) / energy[:, :1]).abs().max())
gap = float((path[:, -1] - path[:, 0]).abs().max())
print(f"largest relative change of H along a stride: {drift:.0e}; the ends of a stride differ by {gap:.0e}")
assert drift < 1e-4
assert gap < 1e-4

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
some = energy[:, 0].argsort()[[10, len(test) // 2, -10]]  # a low, a middling and a high energy
for joint, axis in enumerate(axes):
    for number in some:
        label = f"H = {energy[number, 0]:.2f}"
        axis.plot(path[number, :, joint], path[number, :, 3 + joint], lw=1.2, label=label)
    axis.set(title=JOINT_NAMES[joint], xlabel="q [rad]")
axes[0].set_ylabel("p [rad]")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# A real stride does not end exactly where it began. That is outside the physics, and only $f_B$ can describe it.
#
# ## Does the energy mean anything?
#
# Nobody told the model how fast people walked. In these strides the fast ones swing further; in the energy that should show.

# %%
speed = test.covariates["speed"]
correlation = float(torch.corrcoef(torch.stack([energy[:, 0], speed]))[0, 1])
print(f"correlation of H with walking speed: {correlation:.2f}")
assert correlation > 0.4

# %%
figure, axis = plt.subplots(figsize=(4.8, 3.2), layout="constrained")
axis.plot(speed, energy[:, 0], ".", ms=4, alpha=0.6)
axis.set(xlabel="walking speed [m/s]", ylabel="H [rad² per stride]")
plt.show()

# %% [markdown]
# The unit tells what $H$ is: an energy in the sense of the equations, in rad² per stride. It is not the joules that a
# person spends.
#
# ## Read next
#
# - `physzoo.get("locomotion_attentive_flow")`: the variant with two numbers of physics, planar flows and attention.
# - `physzoo run locomotion --out DIR` is the long training, with a report.
# - `04_pendulum.py` shows what the regularisers do, and what they do to calibration.
