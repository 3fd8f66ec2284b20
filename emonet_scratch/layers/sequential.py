"""Layers in a row."""

from typing import Any

from ..backend import Array
from ..dispatch import definition
from .base import Layer


@definition
class Sequential(Layer):
    """y = f_n(... f_2(f_1(x))); backward is the chain rule: the same layers from last to first.

    Layers given by position are named "0", "1", ... in parameter paths, layers given by keyword by their
    keyword: `Sequential(conv=Conv2d(3, 16, 3), relu=ReLU())` has the parameter "conv.W". Without any layer it
    is the identity.
    """

    def __init__(self, *layers: Layer, **named: Layer) -> None:
        for name, layer in [*enumerate(layers), *named.items()]:
            if not isinstance(layer, Layer) or hasattr(self, str(name)):
                raise TypeError(f"Sequential takes layers under names that are free, got {name}={layer!r}")
            setattr(self, str(name), layer)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(f'{name}={layer!r}' for name, layer in self.children())})"

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        caches = []
        for _, layer in self.children():
            x, cache = layer.forward(x)
            caches.append(cache)
        return x, caches

    def backward(self, dy: Array, cache: list[Any]) -> Array:
        for (_, layer), layer_cache in zip(reversed(list(self.children())), reversed(cache), strict=True):
            dy = layer.backward(dy, layer_cache)
        return dy
