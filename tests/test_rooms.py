"""What stands in a folder belongs together, and imports point down: core; physics and guides; inference; models; the front."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections import Counter

import pytest
from rooms import FLOORS, ROOT, circles, files, imports, room_of

from physzoo import moved

LONGEST, MOST = 300, 12
ONE_FILE_IS_ONE_ANIMAL = "models"


def test_no_files_import_each_other_in_a_circle():
    assert circles(imports()) == []


def test_the_search_for_circles_finds_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def test_no_import_points_up():
    graph = imports()
    assert len(graph) > 150
    assert "core.require" in graph["physics.ode.problem"]
    up = [
        (name, other)
        for name, others in graph.items()
        for other in others
        if FLOORS[room_of(other)] > FLOORS[room_of(name)]
        or (FLOORS[room_of(other)] == FLOORS[room_of(name)] and room_of(other) != room_of(name))
    ]
    assert up == []


def test_files_are_short_and_folders_small():
    found = files()
    long = {name: lines for name, path in found.items() if (lines := len(path.read_text().splitlines())) > LONGEST}
    assert long == {}
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in found.values() if path.name != "__init__.py")
    assert {name: count for name, count in folders.items() if count > MOST and name != ONE_FILE_IS_ONE_ANIMAL} == {}


@pytest.mark.parametrize("old", sorted(moved.MOVED))
def test_a_module_that_has_moved_imports_and_says_where_it_is(old, monkeypatch):
    monkeypatch.delitem(sys.modules, f"physzoo.{old}", raising=False)  # told at the first import alone
    modules = files()
    homes = moved.MOVED[old]
    assert old not in modules
    assert set(homes) <= set(modules)
    if any(home.startswith("physics.fem.") for home in homes):
        return  # needs dolfinx
    with pytest.warns(DeprecationWarning, match=f"physzoo.{old} has moved: import from physzoo.{homes[0]}"):
        module = importlib.import_module(f"physzoo.{old}")
    home = importlib.import_module(f"physzoo.{homes[0]}")
    name = next(name for name in vars(home) if not name.startswith("_") and name != "annotations")
    assert getattr(module, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="it has moved to"):
        _ = module.nothing


def test_what_is_set_on_an_old_name_is_set_where_the_module_is(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = importlib.import_module("physzoo.inference.site_errors")
    home = importlib.import_module("physzoo.inference.evaluation.site_errors")
    before = home.wrapped
    with monkeypatch.context() as patched:
        patched.setattr(old, "wrapped", 3)
        assert home.wrapped == 3
    assert home.wrapped is before
    with pytest.raises(AttributeError, match="it has moved to"):
        old.nothing = 1
