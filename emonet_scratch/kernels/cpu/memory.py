"""Memory of the kernels' arrays: what a training step frees, the next one gets back, already mapped and warm."""

import math

import numpy as np


class Arena:
    """Freed blocks by size, the size used longest ago first. No lock: a fork could leave one locked for ever."""

    def __init__(self, keep_bytes: int) -> None:
        self.keep_bytes, self.blocks = keep_bytes, {}

    def take(self, size: int) -> np.ndarray:
        try:
            return self.blocks[size].pop()
        except (KeyError, IndexError):
            return np.empty(size, np.uint8)

    def give(self, memory: np.ndarray) -> None:
        same = self.blocks.pop(memory.nbytes, [])
        same.append(memory)
        self.blocks[memory.nbytes] = same                                     # now the last of the dictionary
        sizes = [size * len(blocks) for size, blocks in list(self.blocks.items())]
        for size in list(self.blocks):
            if sum(sizes) <= self.keep_bytes:
                break
            self.blocks.pop(size, None)
            sizes.pop(0)


arena = Arena(keep_bytes=2 << 30)


class _Block:
    """Owner of an array's memory, which goes back to the arena when the last view of it dies."""

    __slots__ = ("__array_interface__", "_arena", "_memory")

    def __init__(self, size: int, arena: Arena) -> None:
        self._memory, self._arena = arena.take(size), arena
        self.__array_interface__ = self._memory.__array_interface__

    def __del__(self) -> None:
        self._arena.give(self._memory)


def empty(*shape: int) -> np.ndarray:
    """An uninitialised float32 array; large ones come from memory that earlier arrays gave back.

    Fresh memory costs a page fault for every 4 KiB that is first written to, which in a training step with large activations
    takes longer than the arithmetic.
    """
    size = 4 * math.prod(shape)
    if size < 1 << 16:
        return np.empty(shape, np.float32)
    step = 1 << max(12, size.bit_length() - 4)                                # at most an eighth more than asked for
    return np.asarray(_Block(-(-size // step) * step, arena))[:size].view(np.float32).reshape(shape)
