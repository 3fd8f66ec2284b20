"""Networks composed of layers; no arithmetic here."""

from ..watch import summary
from .config import EmoNetConfig
from .emonet import EmoNet
from .resnet import ResNet

__all__ = ["EmoNet", "EmoNetConfig", "ResNet", "summary"]
