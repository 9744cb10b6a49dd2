"""Whether intervals cover what they say: simulation-based calibration over the prior and around one data set."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
