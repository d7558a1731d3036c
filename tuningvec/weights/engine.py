"""Independent pieces of work, shared among the threads of this process; the device and the dtype that they run in."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from tuningvec.errors import TuningVecError
from tuningvec.weights import cluster

Piece = TypeVar("Piece")
Result = TypeVar("Result")
AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16")
TRIAL = 256, 576, 1536  # rows, columns read and written of a linear map of a small language model


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


def device() -> str:
    """Where torch is to compute: "cuda" where it finds a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """The GPU that measures run on, or "CPU", for the store; that of the workers where there is a cluster."""
    return cluster.ask(cluster.device_name)


def machine() -> str:
    """System, processor with what it has for bfloat16, threads and GPU, in words."""
    known = torch.cpu.get_capabilities()
    has = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16", "avx512_f", "avx2") if known.get(flag)]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    return f"{platform.system()} {platform.machine()} ({', '.join(has[:2]) or 'no flag known'}), {threads}{gpu}"


def dtype_name(asked: str = AUTO) -> str:
    """The dtype that models in memory are to have: the one asked for; of "auto", `$TUNINGVEC_DTYPE` where it is set.

    Else "auto" is bfloat16 where the GPU, or without one the processor, computes in it, and float32 elsewhere, where
    bfloat16 takes many times as long. Raises TuningVecError for another name.
    """
    asked, where = (asked, "dtype") if asked != AUTO else (os.environ.get("TUNINGVEC_DTYPE") or AUTO, "TUNINGVEC_DTYPE")
    if asked not in (AUTO, *DTYPES):
        raise TuningVecError(f"{where} is {asked!r}; it must be {AUTO}, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    return ("bfloat16" if cluster.ask(_computes_in_bfloat16) else "float32") if asked == AUTO else asked


@cache
def _computes_in_bfloat16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    if "avx512_bf16" in known:
        return known["avx512_bf16"] or known["amx_bf16"]
    return gigaflops("bfloat16") > gigaflops("float32")  # what an ARM processor tells says nothing of torch's kernels


def gigaflops(dtype: str) -> float:
    """10⁹ operations per second of a linear map on the CPU, the best of a few trials of milliseconds."""
    rows, columns, outputs = TRIAL
    x, W = (
        torch.ones(rows, columns, dtype=getattr(torch, dtype)),
        torch.ones(outputs, columns, dtype=getattr(torch, dtype)),
    )
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        torch.nn.functional.linear(x, W)
        seconds.append(time.perf_counter() - start)
    return 2 * rows * columns * outputs / min(seconds) / 1e9
