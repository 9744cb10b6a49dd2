"""A trace's sites as plain dictionaries; Pyro types them as messages with every entry optional."""

from __future__ import annotations

from typing import Any, cast

from pyro import poutine


def nodes(trace: poutine.Trace) -> dict[str, Any]:
    """Return the sites of a trace, name to site, as plain dictionaries."""
    return cast("dict[str, Any]", trace.nodes)
