"""nonlinear_poisson1d by its recipe: the whole of `physzoo run nonlinear_poisson1d`, its numbers kept as a table.

    python benchmarks/nonlinear_poisson1d.py

Its residual likelihood is that of ``residual_posteriors.py``.
"""

from __future__ import annotations

from darcy2d import by_recipe


def main() -> None:
    by_recipe("nonlinear_poisson1d", __doc__)


if __name__ == "__main__":
    main()
