"""One concept a file: derivation, forward and backward side by side, the class that owns the parameters."""

from .activation import ReLU
from .base import Layer, Parameter
from .batch_norm import BatchNorm
from .chunked import Chunked
from .conv2d import Conv2d
from .dense import Dense
from .dropout import Dropout
from .input import Normalize, PadSequences
from .lstm import LSTM, LSTMCell
from .pooling import Flatten, GlobalAveragePool
from .residual import PadShortcut, ResidualBlock
from .sequential import Sequential

__all__ = ["LSTM", "BatchNorm", "Chunked", "Conv2d", "Dense", "Dropout", "Flatten", "GlobalAveragePool",
           "LSTMCell", "Layer", "Normalize", "PadSequences", "PadShortcut", "Parameter", "ReLU",
           "ResidualBlock", "Sequential"]
