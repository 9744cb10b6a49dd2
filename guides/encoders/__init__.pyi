from .base import Encoder as Encoder
from .networks import ENCODERS as ENCODERS
from .networks import MLP as MLP
from .networks import Attention as Attention
from .networks import Convolution as Convolution
from .networks import MaskedSet as MaskedSet
from .networks import Table as Table
