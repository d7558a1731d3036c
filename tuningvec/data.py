"""Where the project's data lie."""

import os
from pathlib import Path

from tuningvec.errors import TuningVecError


def data_folder() -> Path:
    """The project's `data/`: `$TUNINGVEC_DATA` if set, else the folder beside the package."""
    folder = Path(os.environ.get("TUNINGVEC_DATA") or Path(__file__).resolve().parent.parent / "data")
    if not folder.is_dir():
        raise TuningVecError(f"{folder}: no data folder; set TUNINGVEC_DATA to the project's data/")
    return folder
