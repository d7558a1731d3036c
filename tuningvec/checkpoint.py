"""Weights on disk, read tensor by tensor and written atomically; never a pickle."""

import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tuningvec.errors import TuningVecError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHARD_BYTES = 512 * 2**20


@runtime_checkable
class Term(Protocol):
    """A summand of a model or of a tuning vector: tensors by name, read in float32."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Float[Tensor, "..."]: ...


class _InFolder:
    """Weights that are known by their folder: two readers of the same folder are the same summand."""

    folder: Path

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.folder == self.folder

    def __hash__(self) -> int:
        return hash(self.folder)


class Checkpoint(_InFolder):
    """A folder of safetensors with `config.json`; nothing is held in memory but the headers.

    Raises TuningVecError for a missing, broken or pickled file, an absent tensor, a dtype that is not a float.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).resolve()
        self._files: dict[str, Path] = {}
        self._dtypes: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self._shards():
            opened = _open(file)
            for name in sorted(opened.keys()):
                header = opened.get_slice(name)
                self._files[name], self._dtypes[name] = file, header.get_dtype()
                self.shapes[name] = tuple(header.get_shape())

    def _shards(self) -> list[Path]:
        index = self.folder / INDEX
        if not index.is_file():
            return [_existing(self.folder / SINGLE)]
        shards = sorted(set(_json(index)["weight_map"].values()))
        outside = [s for s in shards if Path(s).name != s]
        if outside:
            raise TuningVecError(f"{index}: shard {outside[0]!r} is not a file name inside the folder")
        return [_existing(self.folder / s) for s in shards]

    @cached_property
    def config(self) -> dict[str, Any]:
        return _json(_existing(self.folder / "config.json"))

    @property
    def parameters(self) -> int:
        """N, the number of weights."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def dtype(self, name: str) -> torch.dtype:
        if name not in self._files:
            raise TuningVecError(f"{self.folder}: no tensor {name}")
        stored = self._dtypes[name]
        if stored not in DTYPES:
            known = ", ".join(DTYPES)
            raise TuningVecError(f"{self._files[name]}: tensor {name} has dtype {stored}; weights are one of {known}")
        return DTYPES[stored]

    def read(self, name: str) -> Float[Tensor, "..."]:
        self.dtype(name)  # refuses what is no weight
        return _open(self._files[name]).get_tensor(name).float()

    def __repr__(self) -> str:
        return f"Checkpoint({self.folder.name})"


class LowRank(_InFolder):
    """A LoRA adapter as a summand: T = scale · B A, with B (d_out, r) and A (r, d_in).

    Raises TuningVecError for an adapter that is more than this (DoRA, biases, whole modules, per-layer ranks).
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).resolve()
        self._file = _existing(self.folder / "adapter_model.safetensors")
        config = _json(_existing(self.folder / "adapter_config.json"))
        for field in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out"):
            if config.get(field):
                raise TuningVecError(f"{self.folder}/adapter_config.json: {field} is not supported; use a plain LoRA")
        self.rank = config["r"]
        self.scale = config["lora_alpha"] / (self.rank**0.5 if config.get("use_rslora") else self.rank)
        self._keys = self._pairs()

    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Weight name → keys of B and A."""
        keys = set(_open(self._file).keys())
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
        file = _open(self._file)
        return {
            name: (file.get_slice(b).get_shape()[0], file.get_slice(a).get_shape()[1])
            for name, (b, a) in self._keys.items()
        }

    def factors(self, name: str) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"]]:
        """scale · B and A, in float32."""
        file = _open(self._file)
        b, a = (file.get_tensor(key).float() for key in self._keys[name])
        return self.scale * b, a

    def read(self, name: str) -> Float[Tensor, "d_out d_in"]:
        b, a = self.factors(name)
        return b @ a

    def __repr__(self) -> str:
        return f"LowRank({self.folder.name}, rank {self.rank})"


class Gaussian:
    """A random summand: independent standard normal entries in tensors of these shapes, the same for the same seed."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int):
        self.shapes, self.seed = shapes, seed

    def read(self, name: str) -> Float[Tensor, "..."]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        return torch.randn(self.shapes[name], generator=generator)

    def __repr__(self) -> str:
        return f"Gaussian(seed {self.seed})"


def write_checkpoint(folder: str | os.PathLike[str], like: Checkpoint, read: Callable[[str], Tensor]) -> Checkpoint:
    """Write `read(name)` for every tensor of `like`, in its dtypes and with its config and tokenizer files.

    At most 512 MiB of weights are held at a time. The folder appears under its name only when it is complete.
    Raises TuningVecError when the folder exists or the disk has no room.
    """
    folder = Path(folder)
    if folder.exists():
        raise TuningVecError(f"{folder}: exists already; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shards, total = _plan(like)
    free = shutil.disk_usage(folder.parent).free
    if total > free:
        raise TuningVecError(f"{folder}: needs {total / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free")
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for file, names in shards.items():
            save_file({n: read(n).to(like.dtype(n)).contiguous() for n in names}, scratch / file, {"format": "pt"})
        if len(shards) > 1:
            weight_map = {name: file for file, names in shards.items() for name in names}
            (scratch / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
        for file in like.folder.iterdir():
            if file.is_file() and file.suffix in (".json", ".jinja", ".txt", ".model") and file.name != INDEX:
                shutil.copyfile(file, scratch / file.name)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Checkpoint(folder)


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


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TuningVecError(f"{file}: not readable as JSON: {error}") from None


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise TuningVecError(f"{file}: not a whole safetensors file ({error}); fetch or write it again") from None
