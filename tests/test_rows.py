"""A long benchmark that was cut off goes on where it was."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import _store


def test_rows_that_were_made_are_taken_over_and_forgotten_once_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "RESULTS", tmp_path)
    rows = _store.Rows("table")
    rows.add(("a", 1), lambda: {"value": 0.1 + 0.2})
    with pytest.raises(KeyboardInterrupt):
        rows.add(("b", 1), lambda: (_ for _ in ()).throw(KeyboardInterrupt))

    again = _store.Rows("table")
    again.add(("a", 1), lambda: pytest.fail("made a second time"))
    again.add(("b", 1), lambda: {"value": 2})
    assert again == [{"value": 0.1 + 0.2}, {"value": 2}]
    again.done()
    assert not list(tmp_path.iterdir())
