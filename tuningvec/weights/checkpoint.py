"""Weights on disk, read tensor by tensor and written atomically; never a pickle."""

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float32
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from tuningvec.data import first_problem
from tuningvec.errors import TuningVecError, read_json, reading, writing
from tuningvec.weights.engine import device
from tuningvec.weights.shards import Stored, header, write

COPIES = 6  # of a matrix that turning it holds at once
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
ADAPTER = "adapter_config.json"
SHARD_BYTES = 5 * 10**9
COPIED = (".json", ".jinja", ".txt", ".model")  # config, tokenizer, generation config, chat template
ALL = slice(None)
Sides = Literal["left", "both"]


@runtime_checkable
class Term(Protocol):
    """A summand of a model or of a tuning vector: tensors by name, read in float32."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        """Rows of a tensor, or all of it, into `out` where that is given."""
        ...


class _InFolder:
    """Weights that are known by their folder: two readers of the same folder are the same summand."""

    folder: Path

    @property
    def files(self) -> list[Path]:
        """What the weights are read from: first the weights themselves, then what says how to read them."""
        configs = ("config.json", ADAPTER)
        return [*sorted(self.folder.glob("*.safetensors")), *(f for c in configs if (f := self.folder / c).is_file())]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.folder == self.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        """Another process opens the folder anew."""
        return type(self), (self.folder,)


class Checkpoint(_InFolder):
    """A folder of safetensors with `config.json`; nothing is held in memory but the headers.

    Raises TuningVecError for a missing, broken or pickled file, a shard that lies outside the folder, a tensor that is
    absent or there twice, a dtype that is not a float, and for files of which another reader would take others.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).resolve()
        for other, instead in ((INDEX, SINGLE), (ADAPTER, SINGLE), (ADAPTER, INDEX)):
            if (self.folder / other).is_file() and (self.folder / instead).is_file():
                raise TuningVecError(f"{self.folder}: {other} lies beside {instead}; keep the one that the model is of")
        self._stored: dict[str, Stored] = {}
        promised, files = self._shards()
        for file in files:
            for name, stored in header(file).items():
                if name in self._stored:
                    raise TuningVecError(f"{file}: tensor {name} is also in {self._stored[name].file.path.name}")
                self._stored[name] = stored
        if absent := promised - self._stored.keys():
            raise TuningVecError(f"{self.folder / INDEX}: tensor {min(absent)} is in no shard; fetch the folder again")
        self.shapes: dict[str, tuple[int, ...]] = {name: stored.shape for name, stored in self._stored.items()}

    def _shards(self) -> tuple[set[str], list[Path]]:
        """Tensors that an index promises, and the files to look into."""
        index = self.folder / INDEX
        if not index.is_file():
            return set(), [_inside(self.folder, SINGLE)]
        weights = read_json(index).get("weight_map")
        if not isinstance(weights, dict) or not weights or not all(isinstance(file, str) for file in weights.values()):
            raise TuningVecError(f"{index}: no weight_map from tensors to files; fetch the folder again")
        return set(weights), [_inside(self.folder, shard) for shard in sorted(set(weights.values()))]

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(_existing(self.folder / "config.json"))

    @property
    def parameters(self) -> int:
        """N, the number of weights."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def dtype(self, name: str) -> torch.dtype:
        if name not in self._stored:
            raise TuningVecError(f"{self.folder}: no tensor {name}")
        return self._stored[name].dtype

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        self.dtype(name)  # raises for a tensor that is not there
        stored = self._stored[name]
        shape = sliced(stored.shape, rows)
        out = torch.empty(shape) if out is None else out
        row = torch.Size(stored.shape[1:]).numel()
        first = rows.indices(stored.shape[0])[0] if stored.shape else 0
        stored.read(out.view(-1), first * row)
        return out

    def __repr__(self) -> str:
        return f"Checkpoint({self.folder.name})"


def sliced(shape: tuple[int, ...], rows: slice) -> tuple[int, ...]:
    """The shape of some consecutive rows of a tensor of this shape."""
    return (len(range(*rows.indices(shape[0]))), *shape[1:]) if shape else ()


class _LoRA(BaseModel):
    """What makes the scale, of the many fields of an adapter's config."""

    r: Annotated[int, Field(gt=0, lt=2**31, strict=True)]
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)]
    use_rslora: bool | None = False


class LowRank(_InFolder):
    """A LoRA adapter as a summand: T = scale · B A, with B (d_out, r) and A (r, d_in).

    Raises TuningVecError for an adapter that is more than this (DoRA, biases, whole modules, per-layer ranks).
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).resolve()
        self._file = _existing(self.folder / "adapter_model.safetensors")
        self._stored = header(self._file)
        file = _existing(self.folder / ADAPTER)
        config = read_json(file)
        for field in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out"):
            if config.get(field):
                raise TuningVecError(f"{file}: {field} is not supported; use a plain LoRA")
        try:
            plain = _LoRA.model_validate(config)
        except ValidationError as error:
            raise TuningVecError(f"{file}: {first_problem(error)}; write the adapter again") from None
        self.rank = plain.r
        self.scale = plain.lora_alpha / (self.rank**0.5 if plain.use_rslora else self.rank)
        self._keys = self._pairs()
        for b, a in self._keys.values():
            shapes = self._stored[b].shape, self._stored[a].shape
            if [len(shape) for shape in shapes] != [2, 2] or not shapes[0][1] == shapes[1][0] == self.rank:
                of = " and ".join(str(list(shape)) for shape in shapes)
                raise TuningVecError(f"{self._file}: {b} and {a} of shapes {of} are no B and A of rank {self.rank}")

    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Weight name → keys of B and A."""
        keys = self._stored.keys()
        pairs = {}
        for key in sorted(keys):
            found = re.match(r"^base_model\.model\.(.+)\.lora_A\.weight$", key)
            if found:
                pairs[f"{found[1]}.weight"] = (key.replace("lora_A", "lora_B"), key)
        unknown = keys - {k for pair in pairs.values() for k in pair}
        missing = {b for b, _ in pairs.values()} - keys
        if unknown or missing:
            raise TuningVecError(f"{self._file}: tensor {min(unknown | missing)} is not half of a pair lora_A, lora_B")
        return pairs

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: (self._stored[b].shape[0], self._stored[a].shape[1]) for name, (b, a) in self._keys.items()}

    def factors(self, name: str, rows: slice = ALL) -> tuple[Float32[Tensor, "d_out r"], Float32[Tensor, "r d_in"]]:
        """scale · B, or some of its rows, and A, in float32."""
        b, a = (torch.empty(self._stored[key].shape) for key in self._keys[name])
        for key, factor in zip(self._keys[name], (b, a), strict=True):
            self._stored[key].read(factor.view(-1))
        return self.scale * b[rows], a

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "d_out d_in"]:
        b, a = self.factors(name, rows)
        return torch.matmul(b, a, out=out)

    def __repr__(self) -> str:
        return f"LowRank({self.folder.name}, rank {self.rank})"


class Gaussian:
    """A random summand: independent standard normal entries in tensors of these shapes, the same for the same seed."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int):
        self.shapes, self.seed = shapes, seed
        self._drawn = "", torch.empty(0)

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        known, whole = self._drawn
        if known != name:  # rows of one tensor are asked for one after the other
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
            whole = torch.randn(self.shapes[name], generator=generator)
            self._drawn = name, whole
        drawn = whole[rows]
        return drawn.clone() if out is None else out.copy_(drawn)

    def __repr__(self) -> str:
        return f"Gaussian(seed {self.seed})"


class Rotated:
    """A tuning vector T whose matrices are rotated, the same for the same seed: RT, or RTS on both sides.

    R and S are orthogonal and uniform (Haar), each matrix has its own, so that it keeps its singular values and loses
    its directions in the output; on both sides those in the input too. `matrices` holds the rows of those that are
    rotated, by tensor; what it leaves out stays.
    """

    def __init__(self, vector: Term, matrices: Mapping[str, Sequence[slice]], seed: int, sides: Sides = "left"):
        self.vector, self.matrices, self.seed, self.sides = vector, matrices, seed, sides
        self.shapes = vector.shapes
        self.files = [file for term in getattr(vector, "terms", [vector]) for file in term.files]
        self.drawn = f"rotated ({sides}, seed {seed})"  # what tells it from others of the same files
        self._turned = "", torch.empty(0)

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        known, whole = self._turned
        if known != name:  # rows of one tensor are asked for one after the other
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
            whole = self.vector.read(name)
            for matrix in self.matrices.get(name, ()):
                whole[matrix] = self._rotated(name, matrix, whole[matrix], generator)
            self._turned = name, whole
        turned = whole[rows]
        return turned.clone() if out is None else out.copy_(turned)

    def _rotated(self, name: str, rows: slice, matrix: Tensor, generator: torch.Generator) -> Tensor:
        """Of a matrix B A with thin factors these are rotated: the same distribution in a small part of the time."""
        thin = self.vector.factors(name, rows) if hasattr(self.vector, "factors") else None
        B, A = thin or (matrix, None)
        left = _turned(B, generator)
        if self.sides == "left":
            return left if A is None else left @ A
        return _turned(left.T, generator).T if A is None else left @ _turned(A.T, generator).T

    def __repr__(self) -> str:
        return f"Rotated({self.vector!r}, {self.sides}, seed {self.seed})"


def _turned(matrix: Float32[Tensor, "d_out d_in"], generator: torch.Generator) -> Float32[Tensor, "d_out d_in"]:
    """RM, without R: with M = QU, U triangular with k = min(d_out, d_in) rows, RQ is a uniform k-frame; it is drawn.

    Drawn on the processor, so that a seed gives the same draw everywhere; decomposed on a GPU that has room for it.
    """
    where = device()
    if where == "cuda" and torch.cuda.mem_get_info()[0] < COPIES * matrix.nbytes:
        where = "cpu"
    upper = torch.linalg.qr(matrix.to(where), mode="r").R  # (k, d_in)
    frame, r = torch.linalg.qr(torch.randn(len(matrix), len(upper), generator=generator).to(where))
    return (frame * r.diagonal().sign() @ upper).cpu()  # the signs make the frame uniform (Mezzadri 2007)


def write_checkpoint(
    folder: str | os.PathLike[str],
    like: Checkpoint,
    fill: Callable[[str, slice, Float32[Tensor, "..."]], object],
    prompted_as: Checkpoint | None = None,
) -> Checkpoint:
    """Write a checkpoint of the tensors of `like`, in its dtypes; `fill(name, rows, out)` gives the values of rows.

    Config is that of `like`; tokenizer, generation config and chat template are those of `prompted_as`, or of `like`.
    Memory does not grow with the model. The folder appears under its name only when it is complete. Raises
    TuningVecError when the folder exists or the disk has no room.
    """
    folder, place = Path(folder), "free some space, make it writable, or choose another folder"
    if folder.exists():
        raise TuningVecError(f"{folder}: exists already; remove it or choose another folder")
    with writing(folder, place):
        folder.parent.mkdir(parents=True, exist_ok=True)
    shards, total = _plan(like)
    free = shutil.disk_usage(folder.parent).free
    if total > free:
        raise TuningVecError(f"{folder}: needs {total / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free")
    with _hidden(folder) as scratch, writing(folder, place):
        for file, names in shards.items():
            write(scratch / file, {n: (like.dtype(n), like.shapes[n]) for n in names}, fill)
        if len(shards) > 1:
            weight_map = {name: file for file, names in shards.items() for name in names}
            (scratch / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
        for file in (prompted_as or like).folder.iterdir():
            if file.is_file() and file.suffix in COPIED and file.name != INDEX:
                shutil.copyfile(file, scratch / file.name)
        shutil.copyfile(like.folder / "config.json", scratch / "config.json")
        scratch.rename(folder)
    return Checkpoint(folder)


@contextmanager
def _hidden(folder: Path) -> Iterator[Path]:
    """A folder beside this one to write into, gone at the end; what a killed run left of it is removed first.

    Raises TuningVecError where another run writes into it.
    """
    scratch = folder.with_name(f".{folder.name}.unfinished")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TuningVecError(f"{folder}: another run writes it; wait until it ends") from None
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _plan(like: Checkpoint) -> tuple[dict[str, list[str]], int]:
    """File name → tensors, each file within SHARD_BYTES unless one tensor alone is larger; and the total bytes."""
    shards: list[list[str]] = []
    total, filled = 0, SHARD_BYTES
    for name, shape in like.shapes.items():
        size = torch.Size(shape).numel() * like.dtype(name).itemsize
        if filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled, total = filled + size, total + size
    if len(shards) == 1:
        return {SINGLE: shards[0]}, total
    count = len(shards)
    return {f"model-{i:05d}-of-{count:05d}.safetensors": names for i, names in enumerate(shards, 1)}, total


def _existing(file: Path) -> Path:
    if not file.is_file():
        pickles = [f.name for f in file.parent.glob("*.bin")]
        why = f"; {pickles[0]} is a pickle, which can run code when read: convert it to safetensors" if pickles else ""
        raise TuningVecError(f"{file}: no such file{why}")
    return file


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; a name or a link that leads out of it is refused."""
    if Path(name).name != name or "\0" in name:
        raise TuningVecError(f"{folder / INDEX}: shard {name!r} is not a file name inside the folder")
    with reading(f"{folder / INDEX}: shard {name:.40}"):
        file = _existing(folder / name)
    home = folder.parent.parent if folder.parent.name == "snapshots" else folder  # the hub's cache links to its blobs
    if not file.resolve().is_relative_to(home):
        raise TuningVecError(f"{file}: a link that leads out of the folder; copy the file there")
    return file
