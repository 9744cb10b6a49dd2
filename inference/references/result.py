"""Reference posteriors: draws that a guide is held against, with the evidence that they can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np

from ...core.files import replacing
from ...core.require import named, real, shown, whole
from ..arrays import as_given, numbers
from ..layout import check_layout, tree
from ..warn import warn

if TYPE_CHECKING:
    from xarray import DataTree

STATISTICS = ("mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat")
_FORMAT = "physzoo reference 1"
ADVICE = {
    "nuts": "more warmup= and draws=, start from laplace (initial=, inverse_mass=)",
    "hmc": "more warmup= and draws=",
    "pcn": "more warmup= and draws=, a larger thin=",
    "smc": "more particles= and moves=",
}


@dataclass(frozen=True)
class Reference:
    """Draws of a sampler with their summary.

    Attributes:
        method: "nuts", "pcn", "grid" or whatever made the draws.
        draws: site -> (chain, draw, [B,] *site shape), constrained.
        summary: statistic -> site -> ([B,] *site shape): mean, sd, their Monte-Carlo standard errors, bulk
            and tail effective sample size, rank-normalised R-hat; of all draws that were made, before any
            thinning.
        stats: per-draw statistics of the sampler, name -> (chain, draw, [B]).
        settings: what is needed to make it again: seed, warm-up, step sizes.
        datasets: number of data sets B, or None for one.
    """

    method: str
    draws: dict[str, np.ndarray]
    summary: dict[str, dict[str, np.ndarray]]
    stats: dict[str, np.ndarray] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    datasets: int | None = None

    @property
    def r_hat(self) -> float:
        """Worst R-hat over all scalars; NaN where one is NaN."""
        return float(np.max([np.max(value) for value in self.summary["r_hat"].values()]))

    @property
    def ess(self) -> float:
        """Smallest effective sample size, bulk or tail, over all scalars; NaN where one is NaN."""
        return float(np.min([np.min(v) for key in ("ess_bulk", "ess_tail") for v in self.summary[key].values()]))

    @property
    def divergences(self) -> int:
        """Number of divergent transitions (NUTS)."""
        return int(self.stats["diverging"].sum()) if "diverging" in self.stats else 0

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise TypeError(f"method: got {shown(self.method)}, expected the name of a sampler")
        for name in ("draws", "summary", "stats", "settings"):
            named(name, getattr(self, name))
        for statistic, found in self.summary.items():
            named(f"summary['{statistic}']", found)
        for name, found in (("draws", self.draws), ("stats", self.stats)):
            for key, value in found.items():
                if not isinstance(value, np.ndarray):
                    raise TypeError(f"{name}['{key}']: got {shown(value)}, expected an array")
        if self.datasets is not None:
            whole("datasets", self.datasets, 1)

    def trusted(self, r_hat: float = 1.01, ess: float = 400.0) -> bool:
        """Return whether R-hat and effective sample size of every scalar are good enough.

        Raises:
            ValueError: a bound is not a positive number.
        """
        real("r_hat", r_hat, 0.0)
        real("ess", ess, 0.0)
        return self.r_hat < r_hat and self.ess > ess

    def select(self, index: int) -> Reference:
        """Return the reference of one data set of a batch.

        Raises:
            ValueError: there is no batch, or the index is outside it.
        """
        whole("index", index, -(2**63), 2**63)
        if self.datasets is None or not -self.datasets <= index < self.datasets:
            raise ValueError(f"index: got {index}, expected a data set of a batch of {self.datasets}")
        return replace(
            self,
            draws={name: value[:, :, index] for name, value in self.draws.items()},
            summary={key: {n: v[index] for n, v in found.items()} for key, found in self.summary.items()},
            stats={name: v[:, :, index] if v.ndim > 2 else v for name, v in self.stats.items()},
            datasets=None,
        )

    def thinned(self, draws: int) -> Reference:
        """Keep ``draws`` evenly spaced draws of each chain, to be stored; the summary stays that of all
        draws."""
        if not self.draws:
            raise ValueError("draws: got a reference without draws, expected some to keep")
        size = next(iter(self.draws.values())).shape[1]
        whole("draws", draws, 1, size)
        kept = np.linspace(0, size - 1, draws).round().astype(int)
        return replace(
            self,
            draws={name: value[:, kept] for name, value in self.draws.items()},
            stats={name: value[:, kept] for name, value in self.stats.items()},
        )

    def tree(self, **layout: Any) -> DataTree:
        """Return an ArviZ DataTree: posterior, sample_stats, the diagnostics as attributes.

        Args:
            **layout: ``coords``, ``dims`` and ``units`` as in ``posterior``.
        """
        check_layout({n: v.shape[2:] for n, v in self.draws.items()}, *map(layout.get, ("coords", "dims", "units")))
        attrs: dict[str, Any] = {"method": self.method}
        attrs |= {"r_hat": self.r_hat, "ess": self.ess, "divergences": self.divergences}
        attrs |= {name: value for name, value in self.settings.items() if isinstance(value, int | float | str)}
        return tree({"posterior": self.draws, "sample_stats": self.stats}, attrs=attrs, **layout)

    def save(self, path: str | Path) -> Path:
        """Write the reference to one .npz without pickles: to the side first, then put in place.

        Raises:
            TypeError: draws that are no numbers, or settings that JSON does not know.
            ValueError: the path does not end in .npz, or there are no draws.
        """
        target = _path(path)
        if target.suffix != ".npz":
            raise ValueError(f"path: got '{target.name[-80:]}', expected a name that ends in .npz")
        if not self.draws:
            raise ValueError("draws: got a reference without draws, expected some to save")
        meta = {"format": _FORMAT, "method": self.method, "datasets": self.datasets}
        try:
            told = json.dumps({**meta, "settings": self.settings})
        except (TypeError, ValueError, RecursionError):
            raise TypeError(
                f"settings: got {shown(self.settings)}, expected plain numbers, strings and lists"
            ) from None
        arrays = {"meta": np.array(told)}
        arrays |= {f"draws/{_plain(name)}": as_given(f"draws['{name}']", v) for name, v in self.draws.items()}
        arrays |= {f"stats/{_plain(name)}": as_given(f"stats['{name}']", v) for name, v in self.stats.items()}
        for key, found in self.summary.items():
            arrays |= {f"summary/{key}/{_plain(name)}": as_given(f"summary['{key}']", v) for name, v in found.items()}
        with replacing(target) as beside, beside.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return target

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is not a saved reference.
        """
        path = _path(path)
        wrong = ValueError(f"path: got '{path.name[-80:]}', expected a file written by Reference.save")
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            meta = json.loads(str(arrays.pop("meta")))
        except Exception as error:  # what reads archives, arrays and JSON knows many ways to fail
            raise wrong from error
        if not isinstance(meta, dict) or meta.get("format") != _FORMAT or not _complete(meta, arrays):
            raise wrong
        parts: dict[str, dict[str, np.ndarray]] = {"draws": {}, "stats": {}}
        summary: dict[str, dict[str, np.ndarray]] = {}
        for key, value in arrays.items():
            kind, name = key.split("/", 1)
            if kind == "summary":
                statistic, site = name.split("/", 1)
                summary.setdefault(statistic, {})[unquote(site)] = value
            else:
                parts[kind][unquote(name)] = value
        return cls(meta["method"], parts["draws"], summary, parts["stats"], meta["settings"], meta["datasets"])


def _complete(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> bool:
    """Whether a file holds what ``save`` writes: settings, draws of some site, and nothing under another name."""
    depths = {"draws": 1, "stats": 1, "summary": 2}
    known = all(key.count("/") >= depths.get(key.split("/", 1)[0], len(key) + 1) for key in arrays)
    if not known or not {"method", "settings", "datasets"} <= set(meta):
        return False
    sets, draws = meta["datasets"], [value for key, value in arrays.items() if key.startswith("draws/")]
    leading = 2 if sets is None else 3
    return (
        isinstance(meta["method"], str)
        and isinstance(meta["settings"], dict)
        and (sets is None or (isinstance(sets, int) and sets > 0))
        and all(value.dtype.kind in "biuf" for value in arrays.values())
        and bool(draws)
        and all(value.ndim >= leading and 0 not in value.shape[:2] for value in draws)
        and len({value.shape[:leading] for value in draws}) == 1
        and (sets is None or all(value.shape[2] == sets for value in draws))
    )


def _plain(name: str) -> str:
    """A site's name without slashes and dots, which mean something in an archive."""
    return quote(name, safe="").replace(".", "%2E")


def _path(path: Any) -> Path:
    try:
        found = Path(path)
        if "\0" in str(found):
            raise TypeError
    except TypeError:
        raise TypeError(f"path: got {shown(path)}, expected a path") from None
    return found


def summarise(draws: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Return mean, sd, Monte-Carlo standard errors, effective sample sizes and R-hat of every scalar.

    Args:
        draws: site -> (chain, draw, ...).

    Returns:
        statistic -> site -> array of the shape behind (chain, draw). ArviZ splits chains, so R-hat exists for
        one chain, but says little.

    Raises:
        TypeError: something else than real numbers.
        ValueError: no draws, or fewer than two dimensions.

    Source: Vehtari et al., arXiv:1903.08008.
    """
    from arviz_stats.base.array import array_stats

    axes: dict[str, Any] = {"chain_axis": 0, "draw_axis": 1}
    tails = (0.05, 0.95)
    result: dict[str, dict[str, np.ndarray]] = {key: {} for key in STATISTICS}
    named("draws", draws)
    for name, values in draws.items():
        value = numbers(f"draws['{name}']", values)
        if value.ndim < 2 or 0 in value.shape[:2]:
            raise ValueError(f"draws['{name}']: got shape {value.shape}, expected (chain, draw, ...)")
        result["mean"][name] = value.mean((0, 1))
        result["sd"][name] = value.std((0, 1), ddof=1)
        result["mcse_mean"][name] = np.asarray(array_stats.mcse(value, method="mean", **axes))
        result["mcse_sd"][name] = np.asarray(array_stats.mcse(value, method="sd", **axes))
        result["ess_bulk"][name] = np.asarray(array_stats.ess(value, method="bulk", **axes))
        result["ess_tail"][name] = np.asarray(array_stats.ess(value, method="tail", prob=tails, **axes))
        result["r_hat"][name] = np.asarray(array_stats.rhat(value, method="rank", **axes))
    return result


def warn_of(reference: Reference) -> None:
    """Warn once of a sampler's draws with R-hat above 1.01, an effective sample size below 400, or divergences."""
    doubts, advice = [], [ADVICE.get(reference.method, "more draws")]
    if not reference.r_hat < 1.01:
        doubts.append(f"R-hat {reference.r_hat:.3f}, expected below 1.01")
    if not reference.ess > 400:
        doubts.append(f"{reference.ess:.0f} effective draws, expected over 400")
    if reference.divergences:
        doubts.append(f"{reference.divergences} divergences, expected none")
        advice.append("target_accept= nearer to 1")
    if not reference.r_hat < 1.01 and reference.method != "smc":
        advice.append("smc where there may be several modes")
    if doubts:
        warn(
            f"{reference.method}: got {', '.join(doubts)}: do not trust these draws yet; {', '.join(advice)}",
        )
