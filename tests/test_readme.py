"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from physzoo.models import get, names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_finds_the_cooling_rate(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names_after: dict = {}
    exec(example.replace("steps=1000", "steps=300"), names_after)
    # by hand: log((79.2 - 20) / (47.9 - 20)) / 10 = 0.075
    assert float(names_after["tree"]["posterior"]["k"].mean()) == pytest.approx(0.075, abs=0.01)
    assert "data sets" in capsys.readouterr().out


def test_every_animal_stands_in_the_table_with_its_likelihoods() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", README, flags=re.MULTILINE))
    assert rows == {name: ", ".join(get(name).likelihoods) for name in names()}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_exists(name: str) -> None:
    named = re.findall(
        r"(?:^|[\s`])((?:models|physics|guides|inference|benchmarks|tests)/[\w./]*\w\.\w+)",
        (ROOT / name).read_text(),
    )
    placeholders = {"benchmarks/results/name_of_the_table.json"}
    assert [path for path in named if path not in placeholders and not (ROOT / path).exists()] == []


def test_every_command_of_the_contract_page_is_a_make_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    wanted = set(
        re.findall(
            r"`make ([a-z]+)`|^    make ([a-z]+)",
            README + (ROOT / "CONTRIBUTING.md").read_text(),
            re.MULTILINE,
        )
    )
    assert {name for pair in wanted for name in pair if name} <= targets
