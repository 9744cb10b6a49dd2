"""Plates of every kind with several unknowns each; all but one are linear and Gaussian."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats

from .case import Case, gaussian, on_grid

THREE = np.array([0.1, 1.2, -0.7])


def two_in_one_plate() -> Case:
    def model(y=None):
        with pyro.plate("group", 3):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.LogNormal(0.0, 0.5))
            return pyro.sample("y", dist.Normal(a, b), obs=y)

    def exact(number, rng):
        groups = []
        for y in THREE:
            draw = on_grid(
                lambda a, log_b, y=y: (
                    stats.norm.logpdf(a) + stats.norm.logpdf(log_b, 0, 0.5) + stats.norm.logpdf(y, a, np.exp(log_b))
                ),
                (-4.5, 4.5),
                (-2.5, 2.5),
            )
            groups.append(draw(number, rng))
        return {
            "a": np.stack([a for a, _ in groups], -1),
            "b": np.stack([np.exp(log_b) for _, log_b in groups], -1),
        }

    return Case("two unknowns in one plate", model, {"y": torch.tensor(THREE).float()}, exact)


def three_in_one_plate() -> Case:
    def model(y=None):
        with pyro.plate("group", 3):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 0.5))
            c = pyro.sample("c", dist.Normal(1.0, 2.0))
            return pyro.sample("y", dist.Normal(a + b - c, 0.3), obs=y)

    def exact(number, rng):
        prior = np.array([[1.0, 1.0, 0.0], [1.0, 1.25, 0.0], [0.0, 0.0, 4.0]])
        groups = [
            gaussian(np.array([0.0, 0.0, 1.0]), prior, np.array([[1.0, 1.0, -1.0]]), np.array([0.3]), np.array([y]))(
                number, rng
            )
            for y in THREE
        ]
        return {name: np.stack([group[:, k] for group in groups], -1) for k, name in enumerate("abc")}

    return Case("three unknowns in one plate", model, {"y": torch.tensor(THREE).float()}, exact)


def nested() -> Case:
    y = np.array([[0.3, 0.8, -0.1], [1.9, 1.2, 2.4]])

    def model(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("outer", 2, dim=-2):
            m = pyro.sample("m", dist.Normal(mu, 1.0))
            s = pyro.sample("s", dist.Normal(0.0, 0.5))
            with pyro.plate("inner", 3, dim=-1):
                a = pyro.sample("a", dist.Normal(m + s, 1.0))
                return pyro.sample("y", dist.Normal(a, 0.5), obs=y)

    def exact(number, rng):
        # order: mu, m1, m2, s1, s2, six a: each a sum of independent normals
        root = np.zeros((11, 11))
        root[0, 0] = 2.0
        for g in range(2):
            root[1 + g] = root[0] + np.eye(11)[1 + g]
            root[3 + g, 3 + g] = 0.5
            for i in range(3):
                root[5 + 3 * g + i] = root[1 + g] + root[3 + g] + np.eye(11)[5 + 3 * g + i]
        draws = gaussian(np.zeros(11), root @ root.T, np.eye(11)[5:], np.full(6, 0.5), y.ravel())(number, rng)
        return {
            "mu": draws[:, 0],
            "m": draws[:, 1:3, None],
            "s": draws[:, 3:5, None],
            "a": draws[:, 5:].reshape(number, 2, 3),
        }

    return Case("nested plates", model, {"y": torch.tensor(y).float()}, exact)


def crossed() -> Case:
    y = np.array([[0.3, 1.8, -0.1, 0.4], [1.9, 3.2, 2.4, 1.0]])

    def model(y=None):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 4, dim=-1)
        with rows:
            r = pyro.sample("r", dist.Normal(0.0, 1.0))
        with columns:
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            d = pyro.sample("d", dist.Normal(1.0, 0.3))
        with rows, columns:
            return pyro.sample("y", dist.Normal(r + c + d, 0.5), obs=y)

    def exact(number, rng):
        operator = np.zeros((8, 10))
        for i in range(2):
            for j in range(4):
                operator[4 * i + j, [i, 2 + j, 6 + j]] = 1.0
        prior = np.diag([1.0] * 6 + [0.09] * 4)
        mean = np.array([0.0] * 6 + [1.0] * 4)
        draws = gaussian(mean, prior, operator, np.full(8, 0.5), y.ravel())(number, rng)
        return {"r": draws[:, :2, None], "c": draws[:, 2:6], "d": draws[:, 6:]}

    return Case("crossed plates", model, {"y": torch.tensor(y).float()}, exact)


def sequential() -> Case:
    def model(y=None):
        means = []
        for i in pyro.plate("group", 3):
            a = pyro.sample(f"a_{i}", dist.Normal(0.0, 1.0))
            b = pyro.sample(f"b_{i}", dist.Normal(a, 0.7))
            means.append(a + b)
        return pyro.sample("y", dist.Normal(torch.stack(means, -1), 0.4).to_event(1), obs=y)

    def exact(number, rng):
        found = {}
        for i, y in enumerate(THREE):
            prior = np.array([[1.0, 1.0], [1.0, 1.49]])
            draws = gaussian(np.zeros(2), prior, np.ones((1, 2)), np.array([0.4]), np.array([y]))(number, rng)
            found[f"a_{i}"], found[f"b_{i}"] = draws.T
        return found

    refused_by = frozenset({"fit ELBO, AutoNormal"})  # Pyro's autoguides know no sequential plates
    return Case("sequential plates", model, {"y": torch.tensor(THREE).float()}, exact, refused_by=refused_by)


def one_after_the_other() -> Case:
    x, y = THREE, np.array([2.0, 1.1, 0.4, 0.9, 1.6])

    def model(x=None, y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("first", 3):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(a, 0.5), obs=x)
        with pyro.plate("second", 5):
            b = pyro.sample("b", dist.Normal(mu, 0.5))
            pyro.sample("y", dist.Normal(b, 0.5), obs=y)

    def exact(number, rng):
        root = np.eye(9)
        root[4:] *= 0.5
        root[1:, 0] = 1.0
        draws = gaussian(np.zeros(9), root @ root.T, np.eye(9)[1:], np.full(8, 0.5), np.concatenate([x, y]))(
            number, rng
        )
        return {"mu": draws[:, 0], "a": draws[:, 1:4], "b": draws[:, 4:]}

    data = {"x": torch.tensor(x).float(), "y": torch.tensor(y).float()}
    return Case("two plates one after the other", model, data, exact)


def vectors_in_a_plate() -> Case:
    y = np.array([[0.3, 0.8], [1.9, 1.2], [-0.4, 0.1]])

    def model(y=None):
        with pyro.plate("group", 3):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            return pyro.sample("y", dist.Normal(a + b[..., None], 0.5).to_event(1), obs=y)

    def exact(number, rng):
        operator = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        groups = [gaussian(np.zeros(3), np.eye(3), operator, np.full(2, 0.5), row)(number, rng) for row in y]
        return {"a": np.stack([g[:, :2] for g in groups], 1), "b": np.stack([g[:, 2] for g in groups], 1)}

    return Case("vectors in a plate", model, {"y": torch.tensor(y).float()}, exact)


def groups_of_unknown_spread() -> Case:
    y = np.array([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])

    def model(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            return pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    def exact(number, rng):
        def log_density(mu, tau):
            found = stats.norm.logpdf(mu, 0, 2) + stats.halfnorm.logpdf(tau)
            for entry in y:
                found = found + stats.norm.logpdf(entry, mu, np.sqrt(1 + tau**2))
            return found

        mu, tau = on_grid(log_density, (-4.0, 5.0), (0.0, 5.0))(number, rng)
        tau = np.maximum(tau, 1e-9)
        precision = 1 + 1 / tau**2
        centre = (y + (mu / tau**2)[:, None]) / precision[:, None]
        return {"mu": mu, "tau": tau, "theta": centre + rng.normal(size=centre.shape) / np.sqrt(precision)[:, None]}

    refused_by = frozenset({"laplace", "hmc"})  # the density has no mode: it rises without end as tau goes to zero
    return Case("groups of unknown spread", model, {"y": torch.tensor(y).float()}, exact, refused_by=refused_by)


def hidden_plate_dimension() -> Case:
    y = np.array([[0.4], [1.3], [-0.2]])

    def model(y=None):
        with pyro.plate("rows", 3, dim=-2):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 0.5))
            return pyro.sample("y", dist.Normal(a + b, 0.5), obs=y)

    def exact(number, rng):
        groups = [
            gaussian(np.zeros(2), np.diag([1.0, 0.25]), np.ones((1, 2)), np.array([0.5]), row)(number, rng) for row in y
        ]
        return {name: np.stack([g[:, k] for g in groups], 1)[..., None] for k, name in enumerate("ab")}

    return Case("a plate at dimension -2 alone", model, {"y": torch.tensor(y).float()}, exact)


CASES = [
    two_in_one_plate(),
    three_in_one_plate(),
    nested(),
    crossed(),
    sequential(),
    one_after_the_other(),
    vectors_in_a_plate(),
    groups_of_unknown_spread(),
    hidden_plate_dimension(),
]
