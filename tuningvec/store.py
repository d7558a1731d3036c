"""Measured tables, kept with what they were measured from, so that nothing is measured twice.

A table is a file of JSON lines: what it was measured from, then one line for each piece of work, appended when the
piece is done. A stopped run goes on with the first piece that has no line. Two runs at once append to the same file;
what both measured is the same and is taken once. Each line ends with its checksum and names that of its arrays: what
was altered since, by a hand or a disk, is measured again, and a warning says so.
"""

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from tuningvec.closure import Closure
from tuningvec.errors import TuningVecError, reading, writing

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

Rows = list[dict[str, Any]]
MARK, END, LENGTH = b', "check": "', b'"}', 24  # what a line ends with, and the digits of its checksum between
FRESH = "TUNINGVEC_FRESH"  # the time in seconds before which nothing counts as measured
FREE = "free some space, make it writable, or name another folder in TUNINGVEC_STORE"


class Told(tuple):
    """What a table tells of itself in `attrs`: pandas copies that at every step, with all in it, but not this."""

    def __deepcopy__(self, _: dict[int, Any]) -> "Told":
        return self


class Record:
    """The pieces of one table; without a file they are kept for this run alone."""

    def __init__(self, file: Path | None = None, about: Mapping[str, Any] | None = None):
        self._file, self.pieces, self.runs = file, {}, []
        self._arrays: dict[str, Mapping[str, Tensor]] = {}
        for line in _lines(file) if file else []:
            if "rows" not in line:
                self.runs.append(line)
            elif self._whole(line):
                self.pieces.setdefault(line["piece"], line["rows"])
        self._about = about

    def _whole(self, line: Mapping[str, Any]) -> bool:
        """Whether the arrays of a piece, if it has any, are those that were kept."""
        if "arrays" not in line or not (file := self._array_file(line["piece"])).is_file():
            return "arrays" not in line
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == line["arrays"]:
                return True
        warnings.warn(f"{file}: damaged; it is measured again", stacklevel=4)
        return False

    def __contains__(self, piece: str) -> bool:
        return piece in self.pieces

    def tell(self, **more: Any) -> None:
        """Let the next piece that is added tell this too of where it comes from."""
        self._about = {**(self._about or {}), **more}

    def add(self, piece: str, rows: Rows, arrays: "Mapping[str, Tensor] | None" = None) -> None:
        """Keep a finished piece; the first of a run tells when and where it was measured.

        Arrays go to a file of their own, which is there whole before the piece is listed.
        """
        if arrays is not None:
            self._arrays[piece] = arrays
        if self._file and self._about is not None:
            run = {"measured": datetime.now(UTC).isoformat(timespec="minutes"), **_machine(), **self._about}
            self.runs.append(run)
            _append(self._file, run)
            self._about = None
        self.pieces[piece] = rows
        if self._file:
            kept = {} if arrays is None else {"arrays": _write(self._array_file(piece), arrays)}
            _append(self._file, {"piece": piece, "rows": rows, **kept})

    def arrays(self, piece: str) -> "dict[str, Tensor]":
        """The arrays of a piece."""
        from safetensors.torch import load_file

        return dict(self._arrays[piece]) if piece in self._arrays else load_file(self._array_file(piece))

    def _array_file(self, piece: str) -> Path:
        return self._file.with_name(f"{self._file.stem}.{piece}.safetensors")

    def rows(self, pieces: Iterable[str]) -> Rows:
        """The rows of these pieces, in their order."""
        return [row for piece in pieces for row in self.pieces[piece]]


class Store:
    """Records in a folder: `$TUNINGVEC_STORE`, or the user's cache.

    With `$TUNINGVEC_FRESH` set to a time in seconds, what was last added to before that time is measured again.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self.folder = Path(
            folder or os.environ.get("TUNINGVEC_STORE") or platformdirs.user_cache_path("tuningvec") / "store"
        )

    def record(self, what: str, inputs: Mapping[str, Any], module: str, on: str = "CPU") -> Record:
        """The record of a table that the module of this name measures from `inputs`, on this device.

        Its key holds all code of the package that the module reaches by imports, less functions that return a Verdict,
        which judge what was measured, and the versions of the packages that this code imports.
        """
        code = Closure.of(module)
        text = json.dumps([what, inputs, code.digest, code.versions], sort_keys=True)
        file = self.folder / f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.jsonl"
        if file.is_file() and file.stat().st_mtime < _since():
            file.unlink()
        return Record(file, {"device": on, "inputs": inputs, "versions": code.versions})

    def digest(self, file: Path) -> str:
        """SHA-256 of a file, computed once as long as its size and time of change stay."""
        state = file.stat()
        known = self.folder / "digests.jsonl"
        key = [str(file), state.st_size, state.st_mtime_ns]
        for line in _lines(known):
            if line["key"] == key:
                return line["sha256"]
        with reading(file), file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        _append(known, {"key": key, "sha256": found})
        return found


def _since() -> float:
    asked = os.environ.get(FRESH) or "0"
    try:
        return float(asked)
    except ValueError:
        raise TuningVecError(f"TUNINGVEC_FRESH is {asked!r}; set it to a time in seconds, `date +%s`") from None


def _append(file: Path, line: Mapping[str, Any]) -> None:
    """Add a line in one write, so that lines of two runs do not mix; after half a line it begins anew.

    Raises TuningVecError where it was not written whole.
    """
    text = json.dumps(line)[:-1].encode() + MARK
    raw = b"\n" + text + _checksum(text) + END + b"\n"
    with writing(file, FREE):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as stream:
            if stream.write(raw) != len(raw):
                raise TuningVecError(f"{file}: written in part; {FREE}")


def _write(file: Path, arrays: "Mapping[str, Tensor]") -> str:
    """Put arrays where they belong when they are whole; their checksum."""
    from safetensors.torch import save

    raw, scratch = save(dict(arrays)), file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with writing(file, FREE):
            file.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(raw)
            scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
    return hashlib.sha256(raw).hexdigest()


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file: half a line of a killed run is passed over, and so is, with a warning, one altered."""
    with reading(file, "make it readable, or remove it"):
        raw = file.read_bytes() if file.is_file() else b""
    whole = [line for line in raw.split(b"\n") if line.endswith(b"}")]
    found = [line for line in whole if line.endswith(_checksum(line[: -LENGTH - len(END)]) + END)]
    if altered := len(whole) - len(found):
        warnings.warn(f"{file}: {altered} altered since measured; measured again", stacklevel=4)
    return [json.loads(line) for line in found]


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:LENGTH].encode()


def _machine() -> dict[str, str]:
    return {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"}


def joined(parts: "Iterable[pd.DataFrame]", runs: Iterable[dict[str, Any]] | None = None) -> "pd.DataFrame":
    """One table of several, with the runs that measured it: those given, else those of the parts."""
    import pandas as pd

    parts = list(parts)
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    table.attrs["runs"] = Told(runs if runs is not None else (run for part in parts for run in part.attrs["runs"]))
    return table
