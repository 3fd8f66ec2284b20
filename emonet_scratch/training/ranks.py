"""Several processes, ranks of MPI through mpi4py, that train as one: `mpiexec -n 8 emonet train --ranks`.

Optional: nothing imports this, or mpi4py, before it is asked for. Messages are bytes of numbers and of text, never a pickle.
One step of the optimizer is one sum over what S shards (see shards.py) add to the gradient. Nothing overlaps with it.
docs/scale.md says what that costs.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..backend import Array, array_module, import_cupy, probe_cuda, to_device
from ..errors import DataError
from ..files import owned
from ..shards import Alone, digest, fold

#: What launchers (Hydra of MPICH and Intel; Open MPI; PMIx of Slurm) tell each process: how many there are.
LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "MV2_COMM_WORLD_SIZE")


def launched() -> bool:
    """Whether a launcher of MPI has started this process beside others."""
    return any(os.environ.get(name, "").isdigit() and int(os.environ[name]) > 1 for name in LAUNCHERS)


#: A message from a GPU to itself, by a process of its own: MPI that knows nothing of GPUs dies of it.
PROBE = """
import cupy
from mpi4py import MPI
x, y = cupy.arange(4.0), cupy.zeros(4)
cupy.cuda.get_current_stream().synchronize()
MPI.COMM_SELF.Sendrecv(x, 0, recvbuf=y, source=0)
raise SystemExit(0 if (x == y).all() else 1)
"""


def reads_gpus() -> bool:
    """Whether MPI is CUDA-aware."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI_", "SLURM_", "HYDI_"))}
    try:
        return subprocess.run([sys.executable, "-c", PROBE], env=alone, capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


class Ranks(Alone):
    """This process among those that mpiexec has started. DataError where mpi4py or MPI itself is not there.

    local: its number among those of its machine. direct: whether MPI reads and writes the memory of GPUs.
    From now on an exception that nobody catches ends the job on all of them: the others would wait for this one for ever.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise DataError(f"several ranks need mpi4py and a library of MPI ({' '.join(str(error).split())}): "
                            f"pip install 'emonet_scratch[mpi]'") from error
        self.MPI, self.world = MPI, MPI.COMM_WORLD
        self.rank, self.size = self.world.Get_rank(), self.world.Get_size()
        if self.size == 1 and launched():
            raise DataError("the launcher has started several processes, and MPI knows of one: they are of different MPIs "
                            "(`python -m mpi4py --mpi-lib-version` says which mpi4py has)")
        self.local = self.world.Split_type(MPI.COMM_TYPE_SHARED).Get_rank()
        self.direct, self._rooms = False, {}
        hook = sys.excepthook

        def ending(*error: object) -> None:
            hook(*error)
            self.end(1)
        sys.excepthook = ending if self.size > 1 else hook

    def total(self, parts: Iterable[Array], S: int, P: int, like: Array) -> Array:
        """Each rank gets, of all nodes that the ranks could add up by themselves, the numbers of its run of 0..P-1, adds up
        the rest of the tree for these, and gives the sum to all: less than 2 P numbers from others, however many ranks there
        are. The answer is where `like` is, or on the host, and good until the next call."""
        if self.size == 1:
            return super().total(parts, S, P, like)
        xp, own = array_module(like) if self.direct else np, list(self.nodes(parts, S).values())
        own = own if self.direct else [to_device(part, "cpu") for part in own]
        runs = [self.owned(P, rank) for rank in range(self.size)]
        keys = [list(self.nodes(repeat(0), S, rank)) for rank in range(self.size)]
        width = len(runs[self.rank])
        sent = own[0] if len(own) == 1 else xp.concatenate(
            [xp.empty(0, like.dtype), *(part[run.start:run.stop] for run in runs for part in own)])
        got = self._room(xp, "got", (sum(map(len, keys)), width), like.dtype)
        self._settle(xp)
        self.world.Alltoallv([sent, [len(own) * len(run) for run in runs]], [got, [len(names) * width for names in keys]])
        mine = fold(dict(zip(chain(*keys), got, strict=True)), S).popitem()[1]
        whole = self._room(xp, "whole", (P,), like.dtype)
        self._settle(xp)
        self.world.Allgatherv(mine, [whole, [len(run) for run in runs]])
        return whole

    def _room(self, xp: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory that is kept from step to step: fresh pages would cost as much as what is put there."""
        key = xp.__name__, name, shape, np.dtype(dtype).str
        if key not in self._rooms:
            self._rooms[key] = xp.empty(shape, dtype)
        return self._rooms[key]

    @staticmethod
    def _settle(xp: Any) -> None:
        """MPI reads at once what a GPU may still be writing."""
        if xp is not np:
            xp.cuda.get_current_stream().synchronize()

    def exchange(self, mine: Sequence[bytes]) -> list[bytes]:
        sizes = np.array([len(mine), sum(map(len, mine))], np.int64)
        every = np.empty((self.size, 2), np.int64)
        self.world.Allgather(sizes, every)
        lengths, own = np.empty(every[:, 0].sum(), np.int64), np.array([len(part) for part in mine], np.int64)
        self.world.Allgatherv(own, [lengths, every[:, 0]])
        whole = bytearray(every[:, 1].sum())
        self.world.Allgatherv([b"".join(mine), self.MPI.BYTE], [whole, every[:, 1], self.MPI.BYTE])
        ends = np.cumsum(lengths)
        view = memoryview(whole)
        return [view[end - length:end] for end, length in zip(ends, lengths, strict=True)]

    def wait(self) -> None:
        self.world.Barrier()

    def told(self, text: str) -> str:
        return bytes(self.exchange([text.encode("utf-8", "surrogateescape")] if self.rank == 0 else [])[0]).decode(
            "utf-8", "surrogateescape")

    def agree(self, what: str, content: str) -> None:
        every = self.exchange([digest(content)])
        if other := [k for k, one in enumerate(every) if one != every[0]]:
            raise DataError(f"rank {other[0]} has other {what} than rank 0: start all ranks with the same command, versions "
                            f"and data, on the same kind of processor")

    @contextlib.contextmanager
    def owning(self, folder: Path) -> Iterator[Path]:
        with owned(folder) if self.rank == 0 else contextlib.nullcontext(folder) as mine:
            yield mine

    def device(self, name: str) -> str:
        """The GPU of this rank, for "auto" and "cuda": its local number among those that it sees, in turn."""
        if name not in ("auto", "cuda"):
            return name
        try:
            count = import_cupy().cuda.runtime.getDeviceCount()
        except Exception:                                                     # what is wrong, choose_device says
            return name
        return f"cuda:{self.local % count}" if count and probe_cuda(self.local % count) is None else name

    def line(self, device: str) -> str:
        """Who is together, in words. With GPUs, rank 0 tries whether MPI can do without the host, and all go by that."""
        self.agree("kind of device", device.partition(":")[0])
        machines = len(set(map(bytes, self.exchange([self.MPI.Get_processor_name().encode()]))))
        by = ""
        if device.startswith("cuda") and self.size > 1:
            self.direct = self.told("direct" if self.rank == 0 and reads_gpus() else "") != ""
            by = f", arrays of GPUs {'directly' if self.direct else 'by way of the host: this MPI is not CUDA-aware'}"
        return f"ranks: {self.size} on {machines} machine{'s' * (machines > 1)}{by}"

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Until it ends, rank 0 alone speaks."""
        with open(os.devnull, "w", encoding="utf-8", errors="replace") as nobody, contextlib.ExitStack() as stack:
            if self.rank:
                stack.enter_context(contextlib.redirect_stdout(nobody))
                stack.enter_context(contextlib.redirect_stderr(nobody))
            yield

    def end(self, code: int) -> NoReturn:
        """End the job on all ranks; not at once, since the launcher then passes on nothing that it has not read yet."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.5)
        self.world.Abort(code)
        time.sleep(60)
        os._exit(code)
