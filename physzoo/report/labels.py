"""What the numbers of an animal are called: labels, units and dimensions, for ArviZ, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..models.recipe import Quantity
from ..models.registry import Animal


@dataclass(frozen=True)
class Scalar:
    """One number among the unknowns.

    Attributes:
        key: its name in every table of physzoo, e.g. "sigma[1]".
        site: the latent site that it belongs to.
        index: where it stands in the site.
        label: what it is, in words.
        unit: its unit, "1" for none.
    """

    key: str
    site: str
    index: tuple[int, ...]
    label: str
    unit: str

    @property
    def axis(self) -> str:
        """The label of a figure's axis."""
        return with_unit(self.label, self.unit)


def with_unit(label: str, unit: str) -> str:
    """Return "label [unit]", or the label alone where there is no unit."""
    return label if unit == "1" else f"{label} [{unit}]"


def quantity(animal: Animal, site: str) -> Quantity:
    """Return what a site means; a site that the animal does not describe goes by its name."""
    return animal.quantities.get(site, Quantity(site))


def scalars(animal: Animal, shapes: Mapping[str, Sequence[int]]) -> list[Scalar]:
    """Return every scalar unknown, in the order of ``shapes`` (site -> shape)."""
    return [scalar for site, shape in shapes.items() for scalar in _of_site(animal, site, tuple(shape))]


def _of_site(animal: Animal, site: str, shape: tuple[int, ...]) -> Iterator[Scalar]:
    meaning = quantity(animal, site)
    for index in product(*(range(size) for size in shape)):
        key = f"{site}[{', '.join(map(str, index))}]" if index else site
        places = []
        for axis, i in enumerate(index):
            dim = meaning.dims[axis] if axis < len(meaning.dims) else ""
            values = meaning.coords.get(dim, ())
            at = values[i] if i < len(values) else i
            places.append(at if isinstance(at, str) else f"{dim} {at}".strip())
        yield Scalar(key, site, index, ", ".join([meaning.label, *places]), meaning.unit)


def layout(animal: Animal, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return ``coords``, ``dims`` and ``units`` for the sites of ``shapes``, as ``posterior`` takes them.

    A description that does not fit the site's shape (another variant of the model) is left out.
    """
    coords: dict[str, Sequence[Any]] = {}
    dims: dict[str, Sequence[str]] = {}
    units: dict[str, str] = {}
    for site, shape in shapes.items():
        meaning = quantity(animal, site)
        units[site] = meaning.unit
        if len(meaning.dims) != len(shape) or not shape:
            continue
        sizes = [len(meaning.coords.get(dim, range(size))) for dim, size in zip(meaning.dims, shape, strict=True)]
        if sizes == list(shape):
            dims[site] = meaning.dims
            coords |= {dim: list(meaning.coords[dim]) for dim in meaning.dims if dim in meaning.coords}
    return {"coords": coords, "dims": dims, "units": units}
