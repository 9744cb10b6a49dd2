"""Data sets of the physics-integrated VAEs, one file for each system: simulated by default, or read from original files.

pendulum, advection_diffusion, galaxy, locomotion    generators with known truths
galaxy10, gait_files, published                      readers of the original files
"""

from .partition import hold_out, partition
from .splits import Split, Splits
from .systems import SYSTEMS, System, system

__all__ = ["SYSTEMS", "Split", "Splits", "System", "hold_out", "partition", "system"]
