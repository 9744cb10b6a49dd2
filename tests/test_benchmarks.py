"""Every benchmark can be imported, says how it is run, and refuses what it does not know."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_tells_its_command_and_refuses_unknown_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    text = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    assert "parse_args(" in text or "= arguments(" in text or "by_recipe(" in text, "it would run"
    module = importlib.import_module(name)
    assert f"python benchmarks/{name}.py" in (module.__doc__ or "")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--no-such-option"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 2
    assert "unrecognized arguments: --no-such-option" in capsys.readouterr().err
