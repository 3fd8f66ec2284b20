"""Softmax cross-entropy."""

import math

import numpy as np

from .backend import Array, array_module, device_of, to_device
from .dispatch import definition


@np.errstate(invalid="ignore")                  # inf - inf and 0 inf are NaN, here and below
def softmax(logits: Array) -> Array:
    """Probabilities (N, K) from logits (N, K): p_k = exp(z_k) / sum_j exp(z_j), computed without overflow.

    A logit of -inf has the probability 0; a row of nothing else, or with one of +inf, has none: NaN.
    """
    xp = array_module(logits)
    e = xp.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def targets_of(labels: Array, N: int, K: int, smoothing: float = 0.0,
               w: Array | None = None) -> tuple[np.ndarray, float]:
    """(q, total): the smoothed targets (N, K) float64 of N labels, and what their loss is divided by; on the
    host.

    Arguments and formulas as of `softmax_cross_entropy`; ValueError for labels or smoothing that are none.

    >>> targets_of(np.array([1]), 1, 4, 0.2)
    (array([[0.05, 0.85, 0.05, 0.05]]), 1.0)
    """
    r = to_device(labels, "cpu")
    if r.shape == (N,) and N > 0 and r.dtype.kind in "iu" and r.min() >= 0 and r.max() < K:
        r = np.eye(K)[r]
    elif not (r.shape == (N, K) and r.size and r.dtype.kind == "f"
              and r.min() >= 0 and abs(r.sum(1) - 1).max() < 1e-3):
        raise ValueError(f"softmax_cross_entropy: expected (N, K) floats and N integers in 0..K-1 or (N, K) "
                         f"probabilities, N >= 1, got ({N}, {K}), labels of shape {r.shape} {r.dtype}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {smoothing}")
    total = float(N) if w is None else float((r @ to_device(w, "cpu")).sum()) or math.nan
    return np.ascontiguousarray(smoothing / K + (1 - smoothing) * r), total


@definition
@np.errstate(invalid="ignore")
def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0,
                          class_weights: Array | None = None) -> tuple[float, Array]:
    """(loss, dlogits): the mean cross-entropy of a batch and its gradient.

    Shapes: logits (N, K), labels (N,) integers in 0..K-1 or (N, K) probabilities r (such as what several
    people said of each), class_weights (K,) from 0 or None, dlogits (N, K).

    Labels are r_nk = [k = label(n)]. With the smoothed targets q = (1 - smoothing) r + smoothing / K
    (Szegedy et al. 2016, section 7) and the class weights w (1 if None), in nats:

        loss = - sum_nk t_nk log p_nk / sum_nk w_k r_nk,     t_nk = w_k q_nk,  log p = z - logsumexp(z)

    d log p_j / d z_k = [j = k] - p_k gives dlogits = (p * (sum_k t_k) - t) / sum_nk w_k r_nk, which is 0
    where p = r, and nowhere else (w = 1, no smoothing): the loss is then the entropy of r, not 0. The
    largest logit is subtracted before exp, so logits of 1e4 neither overflow nor lose the loss.

    At the edges as in PyTorch. A logit of -inf masks its class: p = 0, and where q = 0 there is no term (0
    log 0 = 0); where q > 0 the loss is infinite, and the gradient is not. NaN, without a warning: the loss,
    and the gradient of the row, where all logits of a row are -inf or one is +inf; both, where all labels
    have the weight 0, because a mean of nothing is no number.

    >>> loss, dlogits = softmax_cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> round(loss, 4), dlogits.tolist()
    (1.3863, [[0.25, 0.25, -0.75, 0.25]])
    """
    xp = array_module(logits=logits, class_weights=class_weights)
    N, K = logits.shape if logits.ndim == 2 and logits.dtype.kind == "f" else (0, 0)
    if class_weights is not None and class_weights.shape != (K,):
        raise ValueError(f"class_weights has shape {class_weights.shape}, expected ({K},): one a class")
    q, total = targets_of(labels, N, K, label_smoothing, class_weights)
    t = q = to_device(q.astype(logits.dtype), device_of(logits))
    if class_weights is not None:
        t = t * class_weights.astype(logits.dtype)
    z = logits - logits.max(axis=1, keepdims=True)
    log_p = z - xp.log(xp.exp(z).sum(axis=1, keepdims=True))
    loss = -float((t * xp.where(q > 0, log_p, 0)).sum()) / total
    return loss, (xp.exp(log_p) * t.sum(axis=1, keepdims=True) - t) / total
