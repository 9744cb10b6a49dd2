"""What a model of the gallery is: a Pyro model, its data, and exact draws of its posterior by means of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Draws = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A model with its data.

    Attributes:
        name: what the table calls it.
        model: a Pyro model of one data set.
        data: its arguments.
        exact: (number, generator) -> site -> (number, *site shape), independent draws of the posterior by a closed form or a
            grid that knows nothing of Pyro; None where the model must be refused.
        refusal: a word that every refusal of this model holds; "" where it must be served.
        served_by: the calls that serve it all the same.
        refused_by: the calls that refuse a model which the others serve.
    """

    name: str
    model: Callable[..., Any]
    data: Mapping[str, Any]
    exact: Callable[[int, np.random.Generator], Draws] | None = None
    refusal: str = ""
    served_by: frozenset[str] = frozenset()
    refused_by: frozenset[str] = frozenset()


def gaussian(
    mean: Array, covariance: Array, operator: Array, noise: Array, y: Array
) -> Callable[[int, np.random.Generator], Array]:
    """Return the sampler of x | y for x ~ N(mean, covariance), y = operator x + e, e ~ N(0, diag noise^2): (number, d)."""
    precision = np.linalg.inv(covariance) + operator.T @ (operator / noise[:, None] ** 2)
    posterior = np.linalg.inv(precision)
    centre = posterior @ (np.linalg.solve(covariance, mean) + operator.T @ (y / noise**2))

    def draw(number: int, rng: np.random.Generator) -> Array:
        return rng.multivariate_normal(centre, posterior, size=number, method="cholesky")

    return draw


def on_grid(
    log_density: Callable[..., Array], *axes: tuple[float, float], points: int = 4000
) -> Callable[[int, np.random.Generator], list[Array]]:
    """Return the sampler of an unnormalised density of one or two scalars, evaluated on cells: a list of (number,).

    Args:
        log_density: takes one array for each scalar.
        axes: where each scalar lies, (low, high).
        points: cells an axis; of two scalars a tenth of it.
    """
    count = points if len(axes) == 1 else points // 10
    edges = [np.linspace(low, high, count + 1) for low, high in axes]
    centres = [0.5 * (edge[1:] + edge[:-1]) for edge in edges]
    mesh = np.meshgrid(*centres, indexing="ij")
    height = log_density(*mesh)
    mass = np.exp(height - height.max()).ravel()
    mass /= mass.sum()

    def draw(number: int, rng: np.random.Generator) -> list[Array]:
        cells = np.unravel_index(rng.choice(mass.size, number, p=mass), height.shape)
        return [
            centre[cell] + (edge[1] - edge[0]) * rng.uniform(-0.5, 0.5, number)
            for centre, edge, cell in zip(centres, edges, cells, strict=True)
        ]

    return draw
