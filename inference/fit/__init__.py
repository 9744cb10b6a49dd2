"""Training: the driver, its options, where its data come from, checkpoints and what is kept of a fit that breaks off."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
