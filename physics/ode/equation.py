"""A right-hand side held against what solvers take for granted: the shape of the state, a batch of independent samples, scalar t."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.require import shown
from .failures import Named
from .fixed_step import Velocity

RightHandSide = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]

COMPARED = 3  # samples that are taken alone
LIKE = 1e-3  # relative difference between a sample alone and in its batch that rounding may make


class Known:
    """What was found out about right-hand sides; a copy starts empty, for it may hold other networks."""

    def __init__(self) -> None:
        self._facts: dict[Any, Any] = {}

    def __deepcopy__(self, memo: Any) -> Known:
        return Known()

    def __reduce__(self) -> Any:
        return Known, ()

    def recall(self, rhs: RightHandSide, what: Hashable, find: Callable[[], Any]) -> Any:
        """Return a fact, which is found when first asked for."""
        key = (*_identity(rhs), what)
        if key not in self._facts:
            self._facts[key] = find()
        return self._facts[key]

    def note(self, rhs: RightHandSide, what: Hashable, fact: Any) -> Any:
        """Remember a fact; return what was known before."""
        key = (*_identity(rhs), what)
        before = self._facts.get(key)
        self._facts[key] = fact
        return before

    def count(self, rhs: RightHandSide, what: Hashable) -> int:
        """Count a use and return how many there have been."""
        key = (*_identity(rhs), what)
        self._facts[key] = self._facts.get(key, 0) + 1
        return self._facts[key]


def _identity(rhs: RightHandSide) -> tuple[int, Any]:
    return id(getattr(rhs, "__self__", rhs)), getattr(rhs, "__func__", None)


def transformed() -> bool:
    """Whether torch.func or torch.compile looks on: then values cannot be compared."""
    return torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()  # type: ignore[attr-defined]


def velocity(rhs: RightHandSide, z: Mapping[str, Tensor]) -> Velocity:
    """Return (t, u) -> du/dt, which refuses what is not of the shape and dtype of u."""

    def slope(t: Tensor, u: Tensor) -> Tensor:
        return _fitting(rhs(t, u, z), u)

    return slope


def _fitting(slope: Any, u: Tensor) -> Tensor:
    if not isinstance(slope, Tensor):
        raise TypeError(f"rhs: got {shown(slope)}, expected a tensor of shape {tuple(u.shape)}, that of the state")
    if slope.shape != u.shape:
        raise ValueError(
            f"rhs: got shape {tuple(slope.shape)}, expected {tuple(u.shape)}, that of the state (stack the states along "
            "the last dimension; a scalar unknown enters as z[name][..., None])"
        )
    if slope.dtype != u.dtype:
        raise TypeError(f"rhs: got {slope.dtype}, expected {u.dtype}, that of the state")
    return slope


def over_intervals(known: Known, rhs: RightHandSide, z: Mapping[str, Tensor], own: Mapping[str, int]) -> Velocity:
    """Return (t, u) -> du/dt for times (N,) and states (..., N, k): what rhs gives for each interval alone, t a scalar.

    All intervals go through one call as members of the batch where rhs asks for no time, else through torch.func.vmap, else one
    after the other.
    """

    def each(t: Tensor, u: Tensor) -> Tensor:
        return torch.stack([_fitting(rhs(time, v, z), v) for time, v in zip(t.unbind(), u.unbind(-2), strict=True)], -2)

    def mapped(t: Tensor, u: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return torch.func.vmap(velocity(rhs, z), in_dims=(0, -2), out_dims=-2)(t, u)

    def slope(t: Tensor, u: Tensor) -> Tensor:
        way = _way(known, rhs, t, u, z, own)
        if way == "together":
            return _fitting(rhs(t[0], u, _widened(z, u, own)), u)
        if way == "mapped":
            try:
                return mapped(t, u)
            except Exception:
                found = each(t, u)  # a mistake in the equation is told by itself
                known.note(rhs, ("way", u.shape), "each")
                return found
        return each(t, u)

    return slope


def _way(
    known: Known, rhs: RightHandSide, t: Tensor, u: Tensor, z: Mapping[str, Tensor], own: Mapping[str, int]
) -> str:
    """How the intervals go through: "together", "mapped" or "each", found out once for each shape."""

    def find() -> str:
        try:
            if uses_time(rhs, t, u, z):
                return "mapped"
            check_samples(rhs, t[0], u, _widened(z, u, own), own)
        except Exception:
            return "mapped"
        return "together"

    # Under torch.func the shapes are those of one sample, and its values are not to be seen.
    return "mapped" if transformed() else known.recall(rhs, ("way", u.shape), find)


def _widened(z: Mapping[str, Tensor], u: Tensor, own: Mapping[str, int]) -> Mapping[str, Tensor]:
    """Every unknown repeated for each interval, a dimension before its own."""
    wide = {}
    for name, value in z.items():
        depth = value.dim() - own.get(name, 0)
        wide[name] = value.unsqueeze(depth).expand((*u.shape[:-1], *value.shape[depth:]))
    return Named(wide)


class _Used(Exception):
    """Somebody asked for the time."""


class _Watched(Tensor):
    """A time that tells when it is used."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise _Used


def uses_time(rhs: RightHandSide, t: Tensor, u: Tensor, z: Mapping[str, Tensor]) -> bool:
    """Whether a right-hand side asks for the time at all."""
    if isinstance(rhs, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return True  # compiled code hides what it asks for
    with torch.no_grad():
        try:
            rhs(t.new_tensor(float(t.reshape(-1)[0])).as_subclass(_Watched), u.select(-2, 0), z)
        except Exception:
            return True
    return False


def check_samples(rhs: RightHandSide, t: Tensor, u: Tensor, z: Mapping[str, Tensor], own: Mapping[str, int]) -> None:
    """Compare some samples of a batch, made a little different, with each of them alone.

    Raises:
        ValueError: the right-hand side of a sample depends on the others, or takes no batch.
    """
    batch = u.shape[:-1]
    count = batch.numel()
    if count < 2:
        return
    with torch.no_grad():
        shrink = 1 - 0.05 * torch.linspace(0, 1, count, dtype=u.dtype, device=u.device).reshape(batch)
        u = u * shrink[..., None]
        z = Named({name: _varied(value, shrink, own.get(name, 0)) for name, value in z.items()})
        try:
            together = _fitting(rhs(t, u, z), u)
        except (RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).strip().split("\n", 1)[0][:100]
            raise ValueError(
                f"rhs: got an error for states of shape {tuple(u.shape)} ({reason}), expected an equation for any batch: "
                "write u[..., i], and a scalar unknown as z[name][..., None] beside the state"
            ) from error
        for flat in dict.fromkeys(i * (count - 1) // (COMPARED - 1) for i in range(COMPARED)):
            place = tuple(slice(int(i), int(i) + 1) for i in torch.unravel_index(torch.tensor(flat), batch))
            alone = _one(rhs, t, u[place], Named({name: value[place] for name, value in z.items()}))
            if alone is None or not _alike(together[place], alone):
                index = tuple(part.start for part in place)
                raise ValueError(
                    f"rhs: got another result for sample {index} of a batch {tuple(batch)} than for this sample alone, "
                    "expected samples that know nothing of each other: use u[..., i] and z[name][..., None] beside u, "
                    "and neither sums over the batch nor random numbers"
                )


def _varied(value: Tensor, shrink: Tensor, own: int) -> Tensor:
    """An unknown of many samples, a little different in each; one that all share stays as it is, without its copies."""
    if not any(value.stride()[: shrink.dim()]):
        return value
    return value * shrink.to(value)[(..., *[None] * own)]


def _one(rhs: RightHandSide, t: Tensor, u: Tensor, z: Mapping[str, Tensor]) -> Tensor | None:
    try:
        return _fitting(rhs(t, u, z), u)
    except (RuntimeError, IndexError, ValueError):
        return None


def _alike(a: Tensor, b: Tensor) -> bool:
    size = torch.maximum(a.abs(), b.abs())
    rounding = 1e3 * torch.finfo(a.dtype).eps * size.nan_to_num(0.0, 0.0).amax(-1, keepdim=True)
    equal = ((a - b).abs() <= LIKE * size + rounding) | (a == b) | (torch.isnan(a) & torch.isnan(b))
    return bool(equal.all())
