from .closed_forms import principal_components as principal_components
from .closed_forms import training_mean as training_mean
from .reconstruction import Evaluation as Evaluation
from .reconstruction import evaluate as evaluate
