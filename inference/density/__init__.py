"""Densities of a model at given unknowns, in the precision in which the model can be asked."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
