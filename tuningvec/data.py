"""Where the project's data lie, and how a YAML file is read into a checked spec."""

import os
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tuningvec.errors import TuningVecError


def data_folder() -> Path:
    """The project's `data/`: `$TUNINGVEC_DATA` if set, else the folder beside the package."""
    folder = Path(os.environ.get("TUNINGVEC_DATA") or Path(__file__).resolve().parent.parent / "data")
    if not folder.is_dir():
        raise TuningVecError(f"{folder}: no data folder; set TUNINGVEC_DATA to the project's data/")
    return folder


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, file: Path) -> "Spec":
        """The spec in a YAML file; raises TuningVecError naming file and field for what is not as it must be."""
        try:
            return cls.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise TuningVecError(f"{file}: {first_problem(error)}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TuningVecError(f"{file}: not readable as YAML: {error}") from None


def first_problem(error: ValidationError) -> str:
    """`field: what is wrong`, for the first problem, with the number of further ones."""
    problems = error.errors(include_url=False, include_context=False)
    first, more = problems[0], len(problems) - 1
    kinds = {"folder", "gguf", "hub", "adapter", "files"}  # pydantic puts the matched kind into the path
    where = ".".join(str(p) for p in first["loc"] if p not in kinds)
    if first["type"] == "extra_forbidden":
        text = f"{where}: unknown field; correct its spelling or remove it"
    else:
        text = first["msg"].removeprefix("Value error, ")
        text = f"{where}: {text} (found {first['input']!r:.60})" if where else text
    return text + (f" (and {more} more)" if more else "")
