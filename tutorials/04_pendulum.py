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
# # Incomplete physics: a pendulum with forces that nobody wrote down
#
# We know how a free pendulum swings. The one in front of us is also braked by friction and pushed by a motor,
# and we have no equation for either. What then?
#
# - The physics alone has too little freedom: it fits badly, and its unknowns take over what is missing.
# - A network alone fits well and explains nothing: it has no angular frequency that one could read off or change.
# - A **grey box** is both: the equation that we know, plus learnt parts for what we do not know.
#
# A grey box has a trap. The learnt parts could do the physics' work as well, and the data do not say who did
# it. Regularisers take sides. We train one model with and one without them, and look at what differs.
#
# Run time: about 60 seconds on one core.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import physzoo
from physzoo.guides.cleansing import cleansing_guide
from physzoo.inference.evaluation import evaluate
from physzoo.inference.evaluation.reconstruction import counterfactual
from physzoo.inference.objectives import GreyBoxELBO
from physzoo.models.datasets import pendulum as truth
from physzoo.models.pendulum import Pendulum

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it helps

# %% [markdown]
# ## The data
#
# $$\ddot\theta + \gamma\,\dot\theta + \omega^2 \sin\theta = A\,\omega^2 \cos(2\pi f t)$$
#
# A thousand pendulums, each with its own $\omega, \gamma, A, f$ and its own start; 50 angles each, 0.05 s apart, with
# an error of 0.01 rad. The generator keeps the truths, so that we can check what is found. Training never sees
# them.

# %%
splits = truth.generate(seed=0, sizes=(1000, 10, 200))
train, test = splits.train, splits.test
noise = truth.NOISE
print(f"train {tuple(train.x.shape)}, test {tuple(test.x.shape)}, truths {', '.join(test.truths)}")

# %% [markdown]
# ## The model
#
# $$\ddot\theta = -\omega^2 \sin\theta + f_A(t, \dot\theta; z_{A1}), \qquad
# x_n = \theta(t_n) + f_B(t_n; z_{A2}) + \sigma\,\varepsilon_n$$
#
# - The physics: $\omega$ and the initial state, with priors in units that we understand.
# - The learnt **dynamics** $f_A$, inside the equation: a series in time plus a term linear in the velocity. Its
#   coefficients come from a network of a code $z_{A1}$, which differs between pendulums.
# - The learnt **correction** $f_B$, after the solver: a series with a code $z_{A2}$ of its own.
#
# Of friction and motor the model knows nothing but that there may be an acceleration.
#
# The guide first infers the codes, then takes out of the data what they explain, and infers the physics from
# what is left: $q(z_A \mid x)\; q(z_P \mid h(x, z_A))$. One guide serves all pendulums.


# %%
def trained(steps, weights, **options):
    """Train a pendulum model and its guide; return both."""
    torch.manual_seed(0)
    model = Pendulum(**options)
    guide = cleansing_guide(model, {"x": train.x[0]}, data=train.x)
    record = physzoo.fit(
        model,
        guide,
        physzoo.DataSets(train.data, batch_size=50),
        GreyBoxELBO(**weights),
        steps=steps,
        learning_rate=5e-3,
        warmup=0.05,
        progress=False,
    )
    print(f"{record.steps} steps, {record.seconds:.0f} s, noise sd {model.sd:.3f} rad")
    return model, guide


def looked_at(model, guide):
    """Return what ``evaluate`` finds on the test pendulums."""
    return evaluate(model, guide, test.data, truths=test.truths, bound=0)


# %% [markdown]
# ## Physics alone
#
# With no code at all, the model is the frictionless pendulum. Its guide learns from simulations of that pendulum
# (the `sleep` term, more of it below) and from the data.

# %%
physics = trained(150, {"sleep": 1.0}, dynamics_code=0, correction_code=0)
found = {"physics alone": looked_at(*physics)}
print(f"mean error {found['physics alone'].mae:.3f} rad; the noise allows {noise * (2 / np.pi) ** 0.5:.3f}")
assert found["physics alone"].mae > 5 * noise

# %% [markdown]
# An error of many times the noise: the physics is wrong, and no value of $\omega$ makes it right.
#
# ## A grey box, without and with regularisers
#
# The plain ELBO asks for one thing: that the sum of all parts fits. The regularisers ask who does what:
#
# | weight | asks |
# |---|---|
# | `predictive` | that the learnt parts change the prediction of the physics as little as they need to |
# | `cleansing` | that the data, once cleansed, look like the physics |
# | `sleep` | that the guide finds the unknowns of simulations of the physics alone |
# | `whole_sleep` | that it finds those of simulations of the whole model |
#
# The weights are pure numbers: each term is counted in units of the noise, as the misfit in the ELBO is. The ones
# below are those of the zoo's own recipe.

# %%
free = trained(300, {})
weights = physzoo.get("pendulum").training.objective
print(weights)
kept = trained(300, weights)
found |= {"without regularisers": looked_at(*free), "with regularisers": looked_at(*kept)}

# %%
print(f"{'':22s}{'error of x':>11s}{'of omega':>10s}   omega's intervals cover, of 50 / 80 / 95 %")
for name, result in found.items():
    covered = " / ".join(f"{100 * share:.0f}" for share in result.coverage["omega"].values())
    print(f"{name:22s}{result.mae:8.3f} rad{result.errors['omega']:6.3f} 1/s   {covered} %")

# %% [markdown]
# Both grey boxes fit better than the physics alone, and about equally well. From the fit alone one could not tell
# them apart. Their $\omega$ is another matter: after the same number of steps it is worse without regularisers, and its
# intervals are far too narrow.
#
# Be fair: a step with regularisers takes about twice as long. Train the other model for 600 steps
# (`trained(600, {})`), and it makes up most of the difference in $\omega$. So a part of what the regularisers bring is
# speed: simulations tell the guide at once what an $\omega$ looks like, and the ELBO has to find it through the misfit.
# What more steps do not bring is a reason: where both the physics and the learnt parts can explain the data, the
# plain ELBO is nearly indifferent, and the start and the chances of the training decide. `benchmarks/pendulum.py` is
# the place for long trainings with and without.

# %%
without, with_ = found["without regularisers"], found["with regularisers"]
assert max(without.mae, with_.mae) < 0.9 * found["physics alone"].mae
assert abs(without.mae - with_.mae) < 0.2 * with_.mae
assert with_.errors["omega"] < 0.85 * without.errors["omega"]
assert with_.coverage["omega"][0.95] > without.coverage["omega"][0.95] + 0.05

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), sharex=True, sharey=True, layout="constrained")
drawn = {name: pair[1].sample(test.data, 200) for name, pair in (("without", free), ("with", kept))}
for axis, (name, draws) in zip(axes, drawn.items(), strict=True):
    low, middle, high = draws["omega"].quantile(torch.tensor([0.025, 0.5, 0.975]), 0)
    true = test.truths["omega"]
    axis.errorbar(true, middle, (middle - low, high - middle), fmt=".", ms=4, lw=0.5, alpha=0.6)
    axis.plot([0.7, 3.2], [0.7, 3.2], "k--", lw=1)
    axis.set(xlabel="true omega [1/s]", title=f"{name} regularisers")
axes[0].set_ylabel("inferred omega, 95 % interval [1/s]")
plt.show()

# %% [markdown]
# ## Four outputs
#
# The decoder returns what each part adds: `full`; `without_correction` (physics and dynamics); `without_dynamics`
# (physics and correction); and `physics`, the incomplete physics alone with the same unknowns.

# %%
print(f"{'error to the data [rad]':24s}{'without':>9s}{'with':>9s}")
for output in with_.decomposition:
    print(f"{output:24s}{without.decomposition[output]:9.3f}{with_.decomposition[output]:9.3f}")
assert with_.decomposition["physics"] < 0.85 * without.decomposition["physics"]

# %%
times = train.times
worst = (test.x - test.x[:, :1]).abs().amax((1, 2)).argsort()[len(test) // 2 :][:3]  # three swings of middling size
figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), sharex=True, sharey="col", layout="constrained")
for row, (label, (model, guide)) in enumerate({"without": free, "with": kept}.items()):
    with torch.no_grad():
        outputs = model.decode(guide.sample({"x": test.x[worst]}, 64))
    for column in range(3):
        axis = axes[row, column]
        axis.plot(times, test.x[worst[column], :, 0], "k.", ms=3, label="data")
        axis.plot(times, outputs.full.mean(0)[column, :, 0], color="C0", label="full")
        axis.plot(times, outputs.without_correction.mean(0)[column, :, 0], ":", color="C0", label="without correction")
        axis.plot(times, outputs.physics.mean(0)[column, :, 0], color="C1", label="physics")
    axes[row, 0].set_ylabel(f"{label} regularisers\nangle [rad]")
for axis in axes[-1]:
    axis.set_xlabel("time [s]")
handles, labels = axes[0, 0].get_legend_handles_labels()
figure.legend(handles, labels, ncols=4, loc="outside upper center", frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# With regularisers the physics stays closer to the data: it explains more of what it can explain. Friction and motor
# are left to the learnt parts.
#
# ## What would have been
#
# A physical unknown can be changed. Infer from what was seen, multiply $\omega$, run the model again:
# `model.intervene`. A network without physics has no such handle. The generator gives the answer: friction and
# motor stay, and the motor's force scales with $\omega^2$, as in the equation.

# %%
factors = (0.6, 0.8, 1.0, 1.25, 1.5)
answers = {factor: truth.counterfactual(test.truths, factor).float() for factor in factors}
errors = {
    name: counterfactual(*pair, test.data, "omega", factors, answers)
    for name, pair in (("physics alone", physics), ("without regularisers", free), ("with regularisers", kept))
}
for name, error in errors.items():
    print(f"{name:22s}" + "".join(f"{error[factor]:8.3f}" for factor in factors))
assert errors["with regularisers"][0.6] < 0.85 * errors["physics alone"][0.6]
assert errors["with regularisers"][0.6] < 0.8 * errors["without regularisers"][0.6]

# %%
model, guide = kept
one = int(worst[0])
z = guide.sample({"x": test.x[one]}, 200)
figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), sharey=True, layout="constrained")
for axis, factor in zip(axes, (0.6, 1.0, 1.5), strict=True):
    with torch.no_grad():
        low, high = model.intervene(z, omega=factor * z["omega"]).full[..., 0].quantile(torch.tensor([0.05, 0.95]), 0)
    axis.fill_between(times, low, high, alpha=0.5, lw=0, label="predicted, 90 %")
    axis.plot(times, answers[factor][one, :, 0], "k--", lw=1, label="truth")
    axis.set(title=f"omega times {factor:g}", xlabel="time [s]")
axes[0].set_ylabel("angle [rad]")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %%
draws = guide.sample(test.data, 64)
held = {}
for factor in (0.6, 1.0, 1.5):
    with torch.no_grad():
        low, high = model.intervene(draws, omega=factor * draws["omega"]).full.quantile(torch.tensor([0.05, 0.95]), 0)
    held[factor] = float(((answers[factor] > low) & (answers[factor] < high)).float().mean())
print("inside the 90 % band: " + ", ".join(f"{100 * h:.0f} % at omega times {f:g}" for f, h in held.items()))
print(f"error at 1.5 / error at 1: {errors['with regularisers'][1.5] / errors['with regularisers'][1.0]:.1f}")
assert errors["with regularisers"][1.5] > 1.5 * errors["with regularisers"][1.0]

# %% [markdown]
# Towards smaller $\omega$ the forces get weaker and the prediction is good. Towards larger ones it is not: the model has
# never seen what the motor does there.
#
# ## What is not calibrated, and why
#
# The intervals with regularisers are better. They are not right.

# %%
covered = with_.coverage["omega"]
print(", ".join(f"{100 * level:.0f} % intervals cover {100 * share:.0f} %" for level, share in covered.items()))
print(f"noise sd: learnt {model.sd:.3f} rad, true {noise} rad")
assert model.sd > 3 * noise

# %% [markdown]
# - **The model is not the one that made the data.** Its force is a series on a fixed set of frequencies with a
#   code of four numbers, and its prior of $\omega$ is wider than the range that the data come from. Coverage is a
#   promise for data drawn from the model: `physzoo.calibrate` checks it there. For other data nothing is
#   promised.
# - **The error that is left counts as noise.** After these few steps the learnt noise is several times the true
#   one. It is independent from one time to the next, and the real misfit is not: 50 wrong numbers in a row look like
#   more evidence than they are.
# - **The regularisers are no part of Bayes' rule.** They choose one of many decompositions. That is a decision of
#   ours, and the intervals do not contain it: they hold given the decision.
# - **An intervention is extrapolation.** In the data each motor goes with its own $\omega$. What it does at another one is
#   a guess of the model's, of which the posterior holds no doubt: hence bands that miss the truth.
#
# Longer training makes the error smaller, and leaves these reasons in place. `physzoo run pendulum` is
# the long version.
#
# ## Read next
#
# - `05_strides.py`: the same with real data in mind, and a Hamiltonian that is learnt.
# - CONTRIBUTING.md says how to write a grey box of your own; `models/pendulum.py` is the one to copy.
