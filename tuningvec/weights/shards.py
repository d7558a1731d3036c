"""One safetensors file: its header, checked, and its tensors read and written in pieces.

The library's own reader maps files into memory, where what was read counts as the process's own; this one reads pieces
into a buffer that is used again, so that memory does not grow with the model. Format: 8 bytes with the header's length,
the header as JSON, then the tensors' bytes (https://huggingface.co/docs/safetensors).
"""

import json
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import safetensors
import torch
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from tuningvec.errors import LARGEST_JSON, TuningVecError, reading
from tuningvec.weights.engine import share

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PIECE = 2**19  # elements read or written at a time: a megabyte of bfloat16

_buffers = threading.local()
_Count = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


class _File:
    """An open file that is closed when nothing refers to it."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its dtype, its shape, and where its bytes begin."""

    file: _File
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    def read(self, out: Float32[Tensor, " n"], first: int = 0) -> None:
        """Fill `out` with elements from number `first` on, in C order."""
        for begin in range(0, out.numel(), PIECE):
            piece = out[begin : begin + PIECE]
            raw = _buffer(piece.numel() * self.dtype.itemsize)
            position = self.start + (first + begin) * self.dtype.itemsize
            if os.preadv(self.file.descriptor, [raw.numpy()], position) != raw.numel():
                raise TuningVecError(f"{self.file.path}: ended early while it was read; was it changed meanwhile?")
            piece.copy_(raw.view(self.dtype))


def _buffer(size: int) -> Tensor:
    """So many bytes to read into, the same memory on each call of a thread."""
    if getattr(_buffers, "raw", None) is None:
        _buffers.raw = torch.empty(8 * PIECE, dtype=torch.uint8)
    return _buffers.raw[:size]


class _Entry(BaseModel):
    """What a header says of a tensor."""

    model_config = ConfigDict(strict=True)
    dtype: str
    shape: Annotated[tuple[_Count, ...], Field(strict=False, max_length=8)]
    data_offsets: Annotated[tuple[_Count, _Count], Field(strict=False)]


def header(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, by name.

    Raises TuningVecError naming file and tensor for a broken header, a tensor named twice, a dtype that is no float, a
    size that does not fit the shape, or a file that ends too early.
    """
    entries, begin, size = _entries(path)
    file, found = _File(path), {}
    for name, raw in entries.items():
        if name == "__metadata__":
            continue
        try:
            entry = _Entry.model_validate(raw)
        except ValidationError:
            raise TuningVecError(f"{path}: tensor {name}: broken header entry; fetch or write the file again") from None
        dtype, shape, (first, last) = entry.dtype, entry.shape, entry.data_offsets
        if dtype not in DTYPES:
            raise TuningVecError(f"{path}: tensor {name} has dtype {dtype}; weights are one of {', '.join(DTYPES)}")
        if last - first != math.prod(shape) * DTYPES[dtype].itemsize:
            raise TuningVecError(f"{path}: tensor {name}: {last - first} bytes do not hold {dtype} {list(shape)}")
        if begin + last > size:
            raise TuningVecError(f"{path}: tensor {name} ends after the end of the file; fetch or write it again")
        found[name] = Stored(file, DTYPES[dtype], shape, begin + first)
    with reading(path), safetensors.safe_open(path, "pt"):  # refuses what is left: gaps, overlaps, more bytes
        return found


def _entries(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header's JSON, the position of the first tensor, the file's size."""
    again = "fetch or write it again"
    with reading(path), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_JSON):
            raise TuningVecError(f"{path}: not a whole safetensors file; {again}")
        text = stream.read(length)
    with reading(f"{path}: the header is not JSON"):
        entries = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
    if not isinstance(entries, dict):
        raise TuningVecError(f"{path}: the header is no table of tensors; {again}")
    return entries, 8 + length, size


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TuningVecError(f"{path}: tensor {twice} stands twice in the header; write the file again")
    return made


Fill = Callable[[str, slice, Float32[Tensor, "..."]], object]


class _Rows(NamedTuple):
    name: str
    rows: slice
    shape: tuple[int, ...]
    dtype: torch.dtype
    position: int


def write(path: Path, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], fill: Fill) -> None:
    """Write tensors of these dtypes and shapes; `fill(name, rows, out)` gives the values of some rows, in any order.

    Values are rounded once, from float32 to the tensor's dtype. Memory does not grow with the tensors, only with a row.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        first, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [first, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pieces = [
        piece
        for name, (dtype, shape) in tensors.items()
        for piece in _rows(name, dtype, shape, 8 + len(text) + entries[name]["data_offsets"][0])
    ]
    with path.open("wb", buffering=0) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        share(pieces, partial(_write, stream.fileno(), fill))


def _rows(name: str, dtype: torch.dtype, shape: tuple[int, ...], position: int) -> Iterator[_Rows]:
    """A tensor in rows of about PIECE elements together, each with its place in the file."""
    if not shape:
        yield _Rows(name, slice(None), shape, dtype, position)
        return
    width = torch.Size(shape[1:]).numel()
    step = max(1, PIECE // max(1, width))
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        yield _Rows(
            name, slice(first, last), (last - first, *shape[1:]), dtype, position + first * width * dtype.itemsize
        )


def _write(descriptor: int, fill: Fill, pieces: Sequence[_Rows]) -> None:
    width = max((torch.Size(piece.shape).numel() for piece in pieces), default=0)
    values, raw = torch.empty(width), torch.empty(8 * width, dtype=torch.uint8)
    for piece in pieces:
        part = values[: torch.Size(piece.shape).numel()]
        fill(piece.name, piece.rows, part.view(piece.shape))
        rounded = raw[: part.numel() * piece.dtype.itemsize]
        rounded.view(piece.dtype).copy_(part)
        try:
            written = os.pwrite(descriptor, rounded.numpy(), piece.position)
        except OSError as error:
            raise TuningVecError(f"tensor {piece.name} could not be written: {error.strerror}") from None
        if written != rounded.numel():
            raise TuningVecError(f"tensor {piece.name} was written in part; is the disk full?")
