"""A network as deep as a ResNet, without its shortcuts: what He et al. 2016 compare it with."""

from typing import Any

from ..layers import ResidualBlock
from ..layers.base import Layer
from ..models import ResNet


class NoShortcut(Layer):
    """The shortcut that carries nothing: y = 0, dx = 0, for x of any shape, as one number that is added to any array."""

    def forward(self, x: Any) -> tuple[float, None]:
        return 0.0, None

    def backward(self, dy: Any, cache: None) -> float:
        return 0.0


def plain(net: ResNet) -> ResNet:
    """`net`, changed in place: y = ReLU(f(x)) in each block, where a ResNet has ReLU(f(x) + shortcut(x)).

    The plain networks of He et al. 2016, section 4.2: same layers, sizes, parameters and names. With 56 layers they have a
    larger loss on the *training* images than with 20, the degradation that shortcuts do away with (docs/classics.md).

    >>> import numpy as np
    >>> net = plain(ResNet(depth=8, width=4, rng=np.random.default_rng(0)))
    >>> net.forward(np.ones((2, 8, 8, 3), np.float32))[0].shape
    (2, 10)
    """
    for _, layer in net.walk():
        if isinstance(layer, ResidualBlock):
            layer.shortcut = NoShortcut()
    return net
