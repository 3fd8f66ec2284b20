"""Where in a picture a class is seen: Grad-CAM, by our own backward, and occlusion as its check.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2): with A (h, w, C) the last map of the trunk and v the
log-odds of a class,

    a_c = 1 / (h w) sum_ij dv / dA_ijc          heat_ij = max(0, sum_c a_c A_ijc)

how much the class asks for channel c, times how much of it there is. Log-odds, and not the logit z_k: a logit may be large
at every place of every picture, and be so for all classes. With the probabilities p,

    dv / dz_k = 1           dv / dz_j = -p_j / (1 - p_k)
"""

import numpy as np

from ..backend import Array, device_of, to_device
from ..layers import Normalize
from ..layers.input import IMAGENET_MEAN, IMAGENET_STD
from ..losses import softmax
from ..models import ResNet
from .contributions import log_odds


def grad_cam(net: ResNet, images: np.ndarray, label: int | np.ndarray) -> np.ndarray:
    """Heat (N, H, W) float64 from 0 of the class `label`, or labels (N,), for images (N, H, W, 3) uint8. net: evaluating."""
    A, dA = _last_map(net, images, label)
    heat = np.maximum((to_device(dA.mean(axis=(1, 2), keepdims=True) * A, "cpu").astype(np.float64)).sum(axis=3), 0)
    return np.stack([enlarged(h, images.shape[1:3]) for h in heat])


def _last_map(net: ResNet, images: np.ndarray, label: int | np.ndarray) -> tuple[Array, Array]:
    """(A, dz_label / dA), both (N, h, w, C)."""
    A, _ = net.features.forward(_normal(net, images))
    pooled, below = net.pool.forward(A)
    z, last = net.dense.forward(pooled)
    others, mine = z.copy(), (np.arange(len(z)), label)
    others[mine] = -np.inf
    dz = -softmax(others)                                                     # -p_j / (1 - p_k) for all others
    dz[mine] = 1
    kept = [p.grad.copy() for p in net.dense.parameters()]
    dA = net.pool.backward(net.dense.backward(dz, last), below)
    for p, grad in zip(net.dense.parameters(), kept, strict=True):            # nothing is learnt from being asked
        p.grad[...] = grad
    return A, dA


def occlusion(net: ResNet, images: np.ndarray, label: int, side: int = 12, stride: int = 4) -> np.ndarray:
    """(N, H, W): by how much the log-odds of the class fall where a place is hidden (Zeiler and Fergus 2014, section 4.2).

    The mean over all squares of side x side pixels, `stride` apart, of the picture's median colour, that cover the place.
    """
    N, H, W, _ = images.shape
    middle = np.median(images, axis=(1, 2), keepdims=True).astype(np.uint8)
    whole, fall, times = _says(net, images)[:, label], np.zeros((N, H, W)), np.zeros((H, W))
    for top in range(0, H - side + 1, stride):
        for left in range(0, W - side + 1, stride):
            hidden = images.copy()
            hidden[:, top:top + side, left:left + side] = middle
            drop = whole - _says(net, hidden)[:, label]
            fall[:, top:top + side, left:left + side] += drop[:, None, None]
            times[top:top + side, left:left + side] += 1
    return fall / np.maximum(times, 1)


def _says(net: ResNet, images: np.ndarray) -> np.ndarray:
    """(N, C) log-odds."""
    return log_odds(to_device(softmax(net.forward(_normal(net, images))[0]), "cpu").astype(np.float64))


def _normal(net: ResNet, images: np.ndarray) -> Array:
    """What the net reads of images in the host's memory, on its device."""
    return to_device(Normalize(IMAGENET_MEAN, IMAGENET_STD).forward(images)[0], device_of(net.parameters()[0].value))


def enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W), bilinearly between the middles of its cells."""
    def axis(n: int, N: int) -> np.ndarray:
        at = np.clip((np.arange(N) + 0.5) * n / N - 0.5, 0, n - 1)            # (N, n) weights of its two neighbours
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))
    return axis(heat.shape[0], size[0]) @ heat @ axis(heat.shape[1], size[1]).T


def centre(heat: np.ndarray) -> tuple[float, float]:
    """(row, column) of the centre of mass of what of heat (H, W) is above half its maximum; the middle where none is."""
    heat = np.where(heat >= 0.5 * heat.max(), heat, 0)
    total, (H, W) = heat.sum(), heat.shape
    if total <= 0:
        return (H - 1) / 2, (W - 1) / 2
    return float(heat.sum(axis=1) @ np.arange(H) / total), float(heat.sum(axis=0) @ np.arange(W) / total)
