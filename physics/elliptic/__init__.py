"""Elliptic equations on intervals and rectangles, and their Galerkin and collocation residuals."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
