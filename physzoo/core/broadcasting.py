"""Does a model broadcast? Draws in a batch must have the densities that they have alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from torch import Tensor

from .arguments import CAUSES, Data, repeated
from .global_state import seeded, unchecked, unregistered
from .plates import outer_plates, plate_nesting
from .prototype import prototype
from .require import shown
from .simulate import derived_values
from .sites import latent_sites
from .traces import derived_sites, samples, site_log_probs, trace_of

TOLERANCE = 1e-3  # of a log density, relative: rounding of single precision, error of adaptive solvers
ROUNDING = 1e-5  # of the largest entry of a derived quantity: what is left of entries that cancel

_checked: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()


def check_sets(model: Callable[..., Any], example: Data, trace: poutine.Trace) -> None:
    """Check that a model broadcasts over data sets, by one data set repeated; models that subsample plates are not looked at.

    Args:
        model: a Pyro model of one data set.
        example: its arguments, one data set.
        trace: of the model on them.

    Raises:
        ValueError: it does not.
    """
    frames = [frame for _, site in samples(trace) for frame in site["cond_indep_stack"]]
    if any(frame.full_size not in (None, frame.size) for frame in frames):
        return
    known = _known(model)
    if known is None or _key(example, True) not in known:
        traces = (trace, prototype(model, example, seed=1))
        check_batches(model, example, traces, plate_nesting(trace), datasets=True)


@unregistered()
@unchecked()
def check_batches(
    model: Callable[..., Any], data: Data, traces: Sequence[poutine.Trace], nesting: int, datasets: bool = False
) -> None:
    """Compare the log density of every site in a batch of draws with that of each draw alone; once for each model and layout.

    A model is run on one draw and on many. One that is not written for leading dimensions fails on many, or, where sizes
    happen to agree, is wrong in silence: the batch has a size that no dimension of the model has.

    Args:
        model: a Pyro model of one data set.
        data: its arguments, one data set.
        traces: runs of the model on the data, plates left out.
        nesting: the model's own plate depth.
        datasets: whether the batch is one of data sets instead of draws of one data set.

    Raises:
        ValueError: it does not broadcast.
    """
    key = _key(data, datasets)
    known = _known(model)
    if known is not None and key in known:
        return
    alone = [{name: term.detach() for name, term in site_log_probs(trace, nesting).items()} for trace in traces]
    count = _other_size(traces, data)
    rows = [index % len(traces) for index in range(count)]
    latents = {
        name: _stacked([latent_sites(trace)[name] for trace in traces], rows, nesting)
        for name in latent_sites(traces[0])
    }
    given = repeated(data, count) if datasets else data
    plates = (nesting, None, count) if datasets else (nesting, count, None)
    try:
        # as a context: handlers around a function take no argument named "context" or "fn"
        with (
            seeded(0),
            torch.no_grad(),
            poutine.block(),
            unchecked(),
            outer_plates(*plates),
            poutine.condition(data=latents),
        ):
            together = trace_of(model, given)
        terms = site_log_probs(together, nesting)
        derived = _derived(together, traces, rows)
    except ArithmeticError:
        return  # a solver that fails for one of the draws: no matter of shapes
    except CAUSES as error:
        first = str(error).strip().split("\n", 1)[0][:120]
        raise ValueError(
            f"model: got {type(error).__name__} on {count} {'data sets' if datasets else 'draws'} at once ({first}), expected "
            "operations that broadcast over leading dimensions: z[..., None], torch.stack(..., -1), y.shape[-1]"
        ) from None
    try:
        _compare(alone, rows, terms, datasets)
        _compare_derived(derived, traces, rows)
    except ValueError:
        if _repeatable(model, data, traces[0], alone[0], nesting):
            raise
    if known is not None:
        known.add(key)


def _repeatable(
    model: Callable[..., Any], data: Data, trace: poutine.Trace, terms: Mapping[str, Tensor], nesting: int
) -> bool:
    """Whether the same draw has the same density again: not where a model draws numbers that are no sites."""
    latents = {name: site["value"] for name, site in latent_sites(trace).items()}
    with seeded(1), torch.no_grad(), poutine.block(), unchecked(), poutine.condition(data=latents):
        again = site_log_probs(trace_of(model, data), nesting)
    return all(torch.equal(again[name], terms[name]) for name in terms if name in again)


def _compare(alone: list[dict[str, Tensor]], rows: list[int], terms: Mapping[str, Tensor], datasets: bool) -> None:
    absent = torch.zeros(())  # a factor stands in some runs alone: where a solve was rejected
    for name in dict.fromkeys(name for run in alone for name in run):
        want = torch.stack([alone[row].get(name, absent).double().sum() for row in rows])
        got = terms.get(name, absent).double()
        if got.ndim > 1 or (got.ndim == 1 and len(got) not in (1, len(rows))):
            raise ValueError(
                f"model: site '{name}' has log densities of shape {tuple(got.shape)} for {len(rows)} "
                f"{'data sets' if datasets else 'draws'}, expected one for each: operations must broadcast over leading dimensions"
            )
        got = got.expand(len(rows))
        close = torch.isclose(got, want, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        if not bool(close.all()):
            at = int((~close).nonzero()[0])
            raise ValueError(
                f"model: site '{name}' has log density {float(got[at]):.6g} in a batch of {len(rows)} "
                f"{'data sets' if datasets else 'draws'} and {float(want[at]):.6g} alone, expected the same: operations must "
                "broadcast over leading dimensions (z[..., None], torch.stack(..., -1), y.shape[-1])"
            )


def _derived(together: poutine.Trace, traces: Sequence[poutine.Trace], rows: list[int]) -> dict[str, Tensor]:
    shapes = {name: tuple(site["value"].shape) for name, site in derived_sites(traces[0]).items()}
    return derived_values(together, shapes, (len(rows),))


def _compare_derived(found: Mapping[str, Tensor], traces: Sequence[poutine.Trace], rows: list[int]) -> None:
    for name, values in found.items():
        alone = torch.stack([derived_sites(traces[row])[name]["value"] for row in rows]).double()
        rounding = ROUNDING * float(alone.abs().nan_to_num(0.0, 0.0, 0.0).max()) if alone.numel() else 0.0
        if not torch.allclose(values.double(), alone, rtol=TOLERANCE, atol=rounding, equal_nan=True):
            raise ValueError(
                f"model: derived quantity '{name}' has other values in a batch of {len(rows)} than alone, expected the same: "
                "operations must broadcast over leading dimensions (x.sum(-1), not x.sum())"
            )


def _stacked(sites: list[dict[str, Any]], rows: list[int], nesting: int) -> Tensor:
    """Values of a site in given runs, (rows, [ones for other sites' plates,] *own shape)."""
    value = torch.stack([sites[row]["value"] for row in rows])
    room = nesting - (value.ndim - 1 - len(sites[0]["fn"].event_shape))
    return value.reshape(value.shape[:1] + (1,) * room + value.shape[1:])


def _other_size(traces: Sequence[poutine.Trace], data: Data) -> int:
    """A small number that is the size of no dimension of the model or its data."""
    shapes = [site["value"].shape for _, site in samples(traces[0]) if isinstance(site["value"], Tensor)]
    shapes += [value.shape for value in data.values() if isinstance(value, Tensor)]
    sizes = {size for shape in shapes for size in shape}
    return next(number for number in range(3, 3 + len(sizes) + 1) if number not in sizes)


def _key(data: Data, datasets: bool) -> Any:
    layout = tuple(
        (name, value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else (name, shown(value))
        for name, value in sorted(data.items())
    )
    return datasets, layout


def _known(model: Any) -> set[Any] | None:
    """The layouts on which a model was found to broadcast; None for what cannot be remembered."""
    try:
        return _checked.setdefault(model, set())
    except TypeError:
        return None
