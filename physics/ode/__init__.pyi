from .failures import StepSizeWarning as StepSizeWarning
from .hamiltonian import PeriodicHamiltonian as PeriodicHamiltonian
from .linear import LinearODE as LinearODE
from .problem import ADAPTIVE as ADAPTIVE
from .problem import FIXED_STEP as FIXED_STEP
from .problem import ODEProblem as ODEProblem
