"""Independent pieces of work: in this process one after the other, or on the workers of a Dask cluster.

Workers return what they measured and write nothing. A lost worker costs the pieces that it had at that moment, which
Dask gives to another one. Weights are opened by the workers themselves, at the same paths.
https://distributed.dask.org
"""

import gc
import hashlib
import importlib
import importlib.metadata
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuningvec.errors import TuningVecError

if TYPE_CHECKING:
    import distributed

Key = TypeVar("Key")
Answer = TypeVar("Answer")
Piece = tuple[Key, Callable[[Any], Any], Any]  # what it is called, what is done, and to what

ADDRESS = "TUNINGVEC_CLUSTER"
ANSWER, WORKER = 10, 300  # seconds that a scheduler has to answer, and a worker to be there
AHEAD = 2  # pieces a worker has at a time: the one at hand and the next
SAME = ("numpy", "safetensors", "torch", "transformers")  # packages whose versions change numbers
HANDED_ON = (  # environment variables that change numbers, or whether a network is asked
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_OFFLINE", "NVIDIA_TF32_OVERRIDE",
    "TOKENIZERS_PARALLELISM", "TUNINGVEC_DTYPE",
)  # fmt: skip

DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # Ctrl-C is for the process that asked

_alone = threading.Lock()  # a worker with several threads shares its model among them
_last: dict[bytes, Callable[[Any], Any]] = {}  # what a worker did last, with all that it opened for it


def address() -> str:
    """That of the scheduler in `$TUNINGVEC_CLUSTER`; empty where pieces are done in this process."""
    return os.environ.get(ADDRESS, "")


def each(pieces: Iterable[Piece]) -> Iterator[tuple[Key, Any]]:
    """`work(given)` of every (key, work, given), as they end: here in their order, on a cluster in any.

    A worker keeps the last `work`, with what that has loaded, until a piece with another one comes. Raises what the
    work raises here; of a cluster TuningVecError, which names the piece that failed, and where workers differ in what
    numbers depend on.
    """
    if not (where := address()):
        for key, work, given in pieces:
            yield key, work(given)
        return
    like = ask(device_name)
    for key, device, found in _sent(pieces, where):
        if device != like:
            raise TuningVecError(f"{where}: workers compute on {like} and on {device}; start workers of one kind")
        yield key, found


def ask(question: Callable[[], Answer]) -> Answer:
    """The answer of this process, or of a worker of the cluster, which is asked once."""
    return _answer(question, where) if (where := address()) else question()


@cache
def _answer(question: Callable[[], Answer], where: str) -> Answer:
    ((_, _, found),) = _sent([(question.__name__, _called, question)], where)
    return found


def _called(question: Callable[[], Answer]) -> Answer:
    return question()


def device_name() -> str:
    """The GPU that this process computes on, or "CPU"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def _sent(pieces: Iterable[Piece], where: str) -> Iterator[tuple[Key, str, Any]]:
    """The key of each piece, the device that it was done on, and what came of it, as they end."""
    import cloudpickle
    import torch

    environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    about = _made_of(), environment, torch.get_num_threads()
    due, going, packed = iter(pieces), {}, (None, b"")
    with connected(where) as client:
        while True:
            for key, work, given in islice(due, max(0, AHEAD * _workers(client, where) - len(going))):
                if work is not packed[0]:
                    packed = work, cloudpickle.dumps(work)
                going[client.submit(_done, packed[1], cloudpickle.dumps(given), *about, pure=False)] = key
            if not going:
                return
            for ended in _ended(client, going, where):
                key = going.pop(ended)
                device, found = _result(ended, key, where)
                yield key, device, pickle.loads(found)


def _done(
    work: bytes, given: bytes, made_of: dict[str, str], environment: dict[str, str], threads: int
) -> tuple[str, bytes]:
    """A piece, done by a worker: the device it was done on, and what came of it."""
    if odd := [name for name, version in _made_of().items() if made_of[name] != version]:
        raise TuningVecError(
            f"a worker has another {odd[0]} than this process; start workers from the same environment"
        )
    with _alone:
        os.environ.pop(ADDRESS, None)  # where a worker has it too it sends nothing on
        os.environ.update(environment, TQDM_DISABLE="1")
        import torch

        torch.set_num_threads(threads)  # of this thread: sums depend on it
        if work not in _last:
            _last.clear()
            gc.collect()  # what traces a model refers to itself
            _last[work] = pickle.loads(work)
        return device_name(), pickle.dumps(_last[work](pickle.loads(given)))


@cache
def _made_of() -> dict[str, str]:
    """A checksum of the package's code, and the versions of the packages that compute."""
    code = sorted(Path(__file__).parent.parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in code)).hexdigest()
    return {"tuningvec": digest, **{name: importlib.metadata.version(name) for name in SAME}}


@contextmanager
def connected(where: str) -> Iterator["distributed.Client"]:
    """A client of the scheduler at an address, with a worker there.

    Raises TuningVecError where no scheduler answers, no worker comes, or Dask is not installed.
    """
    distributed = _package("distributed")
    try:
        client = distributed.Client(where, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise _no_scheduler(where, error) from None
    large = {"distributed.admin.large-graph-warning-threshold": "1TB"}  # tokens are as many as they are
    with client, _package("dask").config.set(large):
        try:
            client.wait_for_workers(1, timeout=WORKER)
        except TimeoutError:
            raise _no_worker(where) from None
        yield client


@contextmanager
def started(asked: str) -> Iterator[None]:
    """`$TUNINGVEC_CLUSTER` set to the address that is asked for, or to that of a cluster that ends with the block.

    `local:N` starts N workers on this machine; `slurm:N` keeps N jobs of a worker each with SLURM, as Dask's own
    configuration describes them, and waits for the first. Raises TuningVecError for anything else than these and an
    address that answers.
    """
    kind, _, count = asked.partition(":")
    if not asked:
        yield
    elif kind not in STARTERS:
        with connected(asked):  # before pages are begun
            pass
        with _named(asked):
            yield
    elif not (count.isdecimal() and int(count)):
        raise TuningVecError(f"--cluster {asked}: write {kind}:2, with the number of workers")
    else:
        with STARTERS[kind](int(count)) as begun, _named(begun.scheduler_address):
            begun.wait_for_workers(1)
            yield


@contextmanager
def _named(where: str) -> Iterator[None]:
    os.environ[ADDRESS] = where
    try:
        yield
    finally:
        os.environ.pop(ADDRESS, None)


def _local(count: int) -> "distributed.LocalCluster":
    """Processes that take a piece at a time, use what memory they need and draw no bars."""
    distributed = _package("distributed")  # whose settings dask then knows
    about = dict(threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL)
    with _package("dask").config.set({"distributed.nanny.pre-spawn-environ.TQDM_DISABLE": 1}):
        return distributed.LocalCluster(count, preload=DEAF, **about)


def _slurm(count: int) -> Any:
    """A new job takes the place of one that ended, as at the end of its time."""
    queued, known = _package("dask_jobqueue"), _package("dask").config
    if absent := [name for name in ("cores", "memory") if not known.get(f"jobqueue.slurm.{name}", None)]:
        raise TuningVecError(
            f"--cluster slurm:{count}: Dask's configuration tells no jobqueue.slurm.{absent[0]}; copy "
            "data/cluster/slurm.yaml to ~/.config/dask/ and fill it in"
        )
    more = [*known.get("jobqueue.slurm.worker-extra-args"), "--nthreads", "1", "--memory-limit", "0"]  # the last counts
    begun = queued.SLURMCluster(
        processes=1, worker_extra_args=more, scheduler_options={"dashboard_address": ":0"}, silence_logs="CRITICAL"
    )
    begun.adapt(minimum_jobs=count, maximum_jobs=count)
    return begun


STARTERS = {"local": _local, "slurm": _slurm}


def _package(name: str) -> Any:
    """A package of the extra; raises TuningVecError where it is absent."""
    on_stop = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(name)
    except ImportError:
        raise TuningVecError(f"package {name} is not installed; install the extra `cluster`") from None
    finally:
        if signal.getsignal(signal.SIGINT) is not on_stop:  # dask_jobqueue sets its own when it is imported
            signal.signal(signal.SIGINT, on_stop)


def _no_worker(where: str) -> TuningVecError:
    return TuningVecError(f"{where}: no worker was there for {WORKER} seconds; start workers, or look at their logs")


def _no_scheduler(where: str, error: Exception) -> TuningVecError:
    reason = str(error).partition("\n")[0]
    return TuningVecError(f"no scheduler answers at {where}: {reason}; start one, or work without a cluster")


def _workers(client: "distributed.Client", where: str) -> int:
    try:
        return len(client.nthreads())
    except OSError as error:
        raise _no_scheduler(where, error) from None


def _ended(client: "distributed.Client", going: Iterable[Any], where: str) -> set[Any]:
    """The futures that ended, when some have; raises TuningVecError where no worker or no scheduler is left."""
    from distributed.client import FuturesCancelledError, wait

    while True:
        try:
            with client.as_current():
                return wait(list(going), timeout=WORKER, return_when="FIRST_COMPLETED").done
        except TimeoutError:  # a piece may take longer
            if not _workers(client, where):
                raise _no_worker(where) from None
        except FuturesCancelledError as error:
            raise _no_scheduler(where, error) from None


def _result(ended: Any, key: Key, where: str) -> tuple[str, bytes]:
    """What came of a piece; raises TuningVecError, that of the worker or one that names the piece."""
    try:
        return ended.result()
    except TuningVecError:
        raise
    except Exception as error:
        raise TuningVecError(f"{where}: {key}: {type(error).__name__}: {error}") from error
