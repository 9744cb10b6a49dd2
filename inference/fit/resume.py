"""A fit's state as a checkpoint: what stands in it, what has to fit, and how a fit goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from .checkpoint import CheckpointError
from .options import FitOptions

FREE = ("particles", "projections", "batch")  # settings of an objective that only change its noise


def generators() -> dict[str, Any]:
    """Return the states of torch's generators, as a checkpoint holds them."""
    state: dict[str, Any] = {"generator": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda_generators"] = torch.cuda.get_rng_state_all()
    return state


def put_back(state: Mapping[str, Any]) -> None:
    """Set torch's generators to the states in a checkpoint."""
    torch.set_rng_state(state["generator"])
    if "cuda_generators" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_generators"])


def settings(
    optimizer: torch.optim.Optimizer, objective: Any, options: FitOptions, model: Any, source: Any
) -> dict[str, Any]:
    """Return what two fits have in common of which one resumes the other; and what decides whether one that ended goes on."""
    return {
        "model": getattr(model, "__qualname__", type(model).__qualname__),
        "data": fingerprint(source),
        "optimizer": type(optimizer).__name__,
        "objective": described(objective),
        "seed": int(options.seed),
        "steps": int(options.steps),
        "patience": None if options.patience is None else int(options.patience),
    }


def fingerprint(source: Any) -> dict[str, list[float]]:
    """Return a few moments of every tensor of the data, argument -> numbers: the same for the same data up to rounding."""
    held = getattr(source, "data", getattr(source, "given", source)) or {}
    found = {}
    for name, value in held.items():
        if isinstance(value, Tensor):
            flat = value.detach().cpu().double().flatten().nan_to_num(0.0, 0.0, 0.0)
            turned = torch.arange(flat.numel(), dtype=torch.float64).mul(0.7).cos()
            sums = [flat.sum(), flat.abs().sum(), (flat * turned).sum(), value.isnan().sum()]
            found[name] = [float(flat.numel()), *(float(number) for number in sums)]
    return found


def same_data(a: Mapping[str, list[float]], b: Mapping[str, list[float]]) -> bool:
    """Whether two fingerprints are of the same data."""
    if a.keys() != b.keys():
        return False
    for name, numbers in a.items():
        other, size = b[name], 1e-4 * max(abs(numbers[2]), abs(b[name][2]))
        if numbers[0] != other[0] or any(abs(x - y) > size for x, y in zip(numbers[1:], other[1:], strict=True)):
            return False
    return True


def described(objective: Any) -> str:
    """Name an objective with the settings that change what it aims at."""
    if isinstance(objective, list | tuple):
        return f"({', '.join(described(part) for part in objective)})"
    if isinstance(objective, bool | int | float | str | None):
        return repr(objective)
    name = getattr(objective, "__qualname__", type(objective).__qualname__)
    if not is_dataclass(objective) or isinstance(objective, type):
        return name
    own = [f"{f.name}={described(getattr(objective, f.name))}" for f in fields(objective) if f.name not in FREE]
    return f"{name}({', '.join(own)})"


def check(path: Any, state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another model, guide, optimiser, objective or seed, or one whose numbers cannot be.

    Args:
        path: its file.
        state: what it holds.
        expected: what a checkpoint of this fit would hold.

    Raises:
        CheckpointError: it does not fit.
    """
    got, wanted = shapes(state["modules"]), shapes(expected["modules"])
    own = wanted.setdefault("functions", {})
    got["functions"] = {n: v for n, v in got.get("functions", {}).items() if n in own}  # others may appear later
    if got != wanted:
        differ = difference(got, wanted)
        raise CheckpointError(f"checkpoint: '{path}' is of another model or guide ({differ})")
    told, now = state.get("settings", {}), expected["settings"]
    if "data" in told and not same_data(told["data"], now["data"]):
        raise CheckpointError(
            f"resume: '{path}' was written for other data, expected the same; without resume a new fit starts"
        )
    for name in ("model", "optimizer", "objective", "seed"):
        if name in told and told[name] != now[name]:
            raise CheckpointError(
                f"resume: '{path}' was written with {name} {told[name]}, got {now[name]}, expected the same; without resume a "
                "new fit starts from the parameters at hand"
            )
    theirs, ours = (
        [(sorted(group), len(group["params"])) for group in s["optimizer"]["param_groups"]] for s in (state, expected)
    )
    if theirs[: len(theirs) - len(state.get("late", []))] != ours:
        raise CheckpointError(
            f"resume: '{path}' was written with another optimizer, expected {now['optimizer']} as here"
        )
    step, losses = int(state["step"]), state["losses"]
    if step < 0 or int(state["skipped"]) < 0 or tuple(losses.shape) != (step,):
        raise CheckpointError(
            f"checkpoint: '{path}' holds step {step} with {losses.numel()} losses, expected a loss for each step"
        )


def shapes(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the shapes of the states of modules and functions."""
    return {
        n: {k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in s.items()}
        for n, s in modules.items()
    }


def difference(got: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the first parameter whose shape differs between two module states."""
    for part in sorted(set(got) | set(expected)):
        a, b = got.get(part, {}), expected.get(part, {})
        for name in sorted(set(a) | set(b)):
            if a.get(name) != b.get(name):
                return f"{part}.{name}: shape {a.get(name)}, expected {b.get(name)}"
    return "no difference in shapes"


def more_patience(state: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a fit has more patience than when its checkpoint was written."""
    return now["patience"] is None or (state.get("settings", {}).get("patience") or 0) < now["patience"]


def goes_on(state: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a fit that stopped early goes on: it is allowed more steps or more patience than when it stopped."""
    return more_patience(state, now) or state.get("settings", {}).get("steps", 0) < now["steps"]
