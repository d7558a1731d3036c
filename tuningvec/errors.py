"""The one exception of the package, and how what readers raise becomes it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_JSON = 25 * 2**20  # bytes; a header or an index of a hundred thousand tensors has less


class TuningVecError(Exception):
    """Something the user can put right: the message says what is wrong, where, and what to do."""


@contextmanager
def reading(where: object, remedy: str = "fetch or write it again") -> Iterator[None]:
    """The boundary of a reader: whatever input makes it raise becomes a TuningVecError that names `where`."""
    try:
        yield
    except TuningVecError:
        raise
    except RecursionError:
        raise TuningVecError(f"{where}: nested too deeply; {remedy}") from None
    except UnicodeDecodeError as error:
        raise TuningVecError(f"{where}: not UTF-8 at byte {error.start}; {remedy}") from None
    except OSError as error:
        raise TuningVecError(f"{where}: {error.strerror or error}; {remedy}") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TuningVecError(f"{where}: {reason:.300}; {remedy}") from error


@contextmanager
def writing(where: object, remedy: str = "free some space, or make it writable") -> Iterator[None]:
    """The boundary of a writer: a full disk or a folder without leave becomes a TuningVecError that names `where`."""
    try:
        yield
    except OSError as error:
        raise TuningVecError(f"{where}: {error.strerror or error}; {remedy}") from None


def read_json(file: Path, remedy: str = "fetch or write it again") -> dict[str, Any]:
    """The object in a JSON file; raises TuningVecError for a file that is absent, too large, or holds anything else."""
    with reading(file, remedy):
        if (size := os.stat(file).st_size) > LARGEST_JSON:
            raise TuningVecError(f"{file}: {size / 2**20:.0f} MB of JSON; at most {LARGEST_JSON // 2**20} are read")
        found = parsed_json(file.read_bytes(), file, remedy)
    if not isinstance(found, dict):
        raise TuningVecError(f"{file}: no JSON object; {remedy}")
    return found


def parsed_json(text: bytes | str, where: object, remedy: str = "fetch or write it again") -> Any:
    """What a JSON text holds; raises TuningVecError that names `where` for what is no JSON."""
    with reading(f"{where}: not readable as JSON", remedy):
        return json.loads(text)
