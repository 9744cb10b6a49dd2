"""Ordinary differential equations: solved, observed and as residuals, from one right-hand side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
