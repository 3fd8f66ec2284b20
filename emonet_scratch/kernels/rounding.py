"""What each precision rounds, and how: one definition for the kernels of both devices, which the tests hold them to.

A layer named here rounds both factors of every product that is an `@` in its definition, forward and backward: x, W and dy
of `Conv2d` (also in residual blocks, stems and trunks); x, h, da, W_ih and W_hh of `LSTM`. A factor is rounded when all that
stands before it (batch norm, ReLU, their gradients, gates) has been applied, in float32; sums are float32, as is all that is
stored. In evaluation, the filters that a trunk rounds have its batch norms folded in. Every other product is float32's.

    precision  device                                     rounds
    tf32       GPU                                        Conv2d
    bf16       GPU                                        Conv2d
    bf16       CPU with AMX                               Conv2d, LSTM
    bf16       CPU with AVX512-BF16 and no AMX            LSTM
"""

import numpy as np

#: The largest relative error of a rounded factor.
LARGEST_ERROR = {"fp32": 0.0, "tf32": 2.0**-11, "bf16": 2.0**-8}


def rounded(x: np.ndarray, precision: str) -> np.ndarray:
    """x (...) as a factor of that precision, in x's type.

    fp32: as float32. tf32: 10 bits of mantissa, halves away from zero. bf16: 7 bits, halves to even; on a CPU, denormal
    factors count as zero besides.

    >>> rounded(np.array([1.00390625, 1.01171875, -3.3]), "bf16")
    array([ 1.      ,  1.015625, -3.296875])
    """
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    if precision == "tf32":
        bits = bits + 0x1000 & ~np.uint64(0x1fff)
    elif precision == "bf16":
        bits = bits + 0x7fff + (bits >> 16 & 1) & ~np.uint64(0xffff)
    return np.where(np.isnan(x), x, bits.astype(np.uint32).view(np.float32)).astype(x.dtype)
