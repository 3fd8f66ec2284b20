"""Networks composed of layers; no arithmetic here."""

from .emonet import EmoNet, EmoNetConfig
from .resnet import ResNet
from .summary import summary

__all__ = ["EmoNet", "EmoNetConfig", "ResNet", "summary"]
