"""Every measured number in the README and in the tables of the benchmarks is the one in its result file."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def summary(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("summary", None)
    import summary

    return summary


def test_the_tables_hold_the_stored_figures(summary):
    for path, text in summary.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python benchmarks/summary.py"


def test_every_stored_table_is_told_of(summary):
    told = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    parts = {
        "pendulum_outputs",
        "pendulum_ablation_counterfactual",
        "aristoff_bangerth_cost",
    }  # of a table that is told of
    stored = {path.stem for path in (ROOT / "benchmarks/results").glob("*.json")}
    assert {name for name in stored - parts if f"`{name}`" not in told} == set()


def test_a_table_without_a_place_is_refused(summary):
    with pytest.raises(ValueError, match="spine: got 0 places"):
        summary.filled("<!-- spline -->\n\n<!-- end -->", {"spine": "|"})


def test_the_certificates_are_those_of_the_stored_tables():
    found = json.loads((ROOT / "models/data/certificates.json").read_text(encoding="utf-8"))
    flow = json.loads((ROOT / "benchmarks/results/poisson1d_forward.json").read_text(encoding="utf-8"))["rows"]
    assert found["poisson1d"]["c2st"] == max(row["median_c2st"] for row in flow if "refined spline" in row["guide"])
    lynx = json.loads((ROOT / "benchmarks/results/lynx_hare.json").read_text(encoding="utf-8"))["rows"]
    assert found["lynx_hare"]["c2st"] == max(row["c2st"] for row in lynx)
