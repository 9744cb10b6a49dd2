"""Every measured number in the README is the one in its result file."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readme_holds_the_stored_figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("summary", None)
    import summary

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [line for line in summary.lines() if line not in readme]
    assert not missing, missing


def test_the_certificates_are_those_of_the_stored_tables():
    import json

    found = json.loads((ROOT / "models/data/certificates.json").read_text(encoding="utf-8"))
    flow = json.loads((ROOT / "benchmarks/results/poisson1d_forward.json").read_text(encoding="utf-8"))["rows"]
    assert found["poisson1d"]["c2st"] == max(row["median_c2st"] for row in flow if "spline" in row["guide"])
    lynx = json.loads((ROOT / "benchmarks/results/lynx_hare.json").read_text(encoding="utf-8"))["rows"]
    assert found["lynx_hare"]["c2st"] == max(row["c2st"] for row in lynx)
