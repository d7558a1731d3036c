"""Independent pieces of work, shared among the threads of this process, and the device that they run on."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def share(pieces: Sequence[Piece], work: Callable[[Sequence[Piece]], Result]) -> list[Result]:
    """`work` on every n-th piece in each of n threads; its results in the threads' order.

    Reading, converting and multiplying let other threads run, and n threads that do all three in turn are faster than
    one thread that shares out each step. n is the number of threads that torch was set to use.
    """
    workers = torch.get_num_threads()

    def alone(part: Sequence[Piece]) -> Result:
        torch.set_num_threads(1)  # of this thread's own steps
        return work(part)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(alone, [pieces[i::workers] for i in range(workers)]))
    finally:
        torch.set_num_threads(workers)


def device_name() -> str:
    """The GPU that measures run on, or "CPU", for the store."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
