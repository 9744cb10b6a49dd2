"""The picture of a calibration check: ranks, coverage, importance weights, contraction."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...core.files import replacing
from ...core.require import shown
from ..importance import USABLE
from .sbc import ecdf


class Checked(Protocol):
    """What the picture shows of a ``Calibration``."""

    @property
    def adjusted(self) -> Any: ...
    @property
    def band(self) -> Any: ...
    @property
    def contraction(self) -> Any: ...
    @property
    def datasets(self) -> int: ...
    @property
    def k_hat(self) -> Any: ...
    @property
    def passed(self) -> bool: ...
    @property
    def pits(self) -> Any: ...
    @property
    def rejected(self) -> Any: ...
    @property
    def verdict(self) -> str: ...


DENSITIES = ("log_likelihood", "log_joint", "log_q", "tarp")


def plot_calibration(check: Checked, path: str | Path) -> Path:
    """Write the four panels of a calibration check as a PNG: ECDF differences, coverage, k-hat and
    contraction.

    Raises:
        ValueError: the path does not end in .png.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not isinstance(path, str | Path):
        raise TypeError(f"path: got {shown(path)}, expected a path that ends in .png")
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"path: got '{target.name}', expected a name that ends in .png")
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _ranks(axes[0, 0], check)
    _coverage(axes[0, 1], check)
    _weights(axes[1, 0], check)
    _contraction(axes[1, 1], check)
    figure.suptitle(_wrapped(check.verdict), fontsize=10, color="darkgreen" if check.passed else "darkred")
    with replacing(target) as beside:
        figure.savefig(beside, dpi=110, format="png")
    return target


def _ranks(axis: Any, check: Checked) -> None:
    band = check.band
    axis.fill_between(band.points, band.lower - band.points, band.upper - band.points, color="0.9", lw=0)
    shown = set(check.rejected[:6]) | set(DENSITIES)
    for name, pits in check.pits.items():
        label = f"{name} (p {check.adjusted[name]:.1g})" if name in shown else None
        style: dict[str, Any] = {"lw": 1.4} if label else {"lw": 0.7, "color": "0.55"}
        axis.plot(band.points, ecdf(pits, band.points) - band.points, label=label, **style)
    axis.set(xlabel="PIT", ylabel="ECDF minus uniform", title=f"Ranks, 95 % band, {check.datasets} data sets")
    axis.legend(fontsize=7)


def _coverage(axis: Any, check: Checked) -> None:
    levels = np.linspace(0, 1, 101)
    axis.plot([0, 1], [0, 1], color="0.5", lw=0.8, ls="--")
    if "log_q" in check.pits:
        axis.plot(levels, ecdf(1 - check.pits["log_q"], levels), label="highest density of q")
    axis.plot(levels, ecdf(check.pits["tarp"], levels), label="TARP")
    axis.set(
        xlabel="nominal coverage",
        ylabel="share of truths inside",
        title="Expected coverage of the joint posterior",
    )
    axis.legend(fontsize=7)


def _weights(axis: Any, check: Checked) -> None:
    axis.set(xlabel="Pareto k-hat per data set", ylabel="data sets", title="Importance weights p / q")
    finite = check.k_hat[np.isfinite(check.k_hat)]
    if not len(finite):
        axis.text(0.5, 0.5, "no densities", ha="center", transform=axis.transAxes)
        return
    axis.hist(finite, bins=30, color="C0", alpha=0.8)
    axis.axvline(USABLE, color="darkred", lw=1, ls="--", label=f"usable below {USABLE}")
    axis.legend(fontsize=7)


def _contraction(axis: Any, check: Checked) -> None:
    names, values = list(check.contraction), np.array(list(check.contraction.values()))
    if len(names) <= 20:
        axis.barh(names, values, color="C0")
        axis.invert_yaxis()
        axis.tick_params(axis="y", labelsize=7)
    else:
        axis.plot(np.sort(values), color="C0")
        axis.set_xlabel("parameters, sorted")
    axis.set_title("Contraction 1 - E[var(z | y)] / var(z)")


def _wrapped(text: str, width: int = 110) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
