"""Networks composed of layers; no arithmetic here."""

from .config import EmoNetConfig
from .emonet import EmoNet
from .resnet import ResNet
from .summary import summary

__all__ = ["EmoNet", "EmoNetConfig", "ResNet", "summary"]
