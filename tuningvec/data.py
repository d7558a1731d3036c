"""Where the project's data lie, and how a YAML file is read into a checked spec."""

import os
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tuningvec.errors import TuningVecError, reading

LARGEST = 2**18  # bytes of a spec


def data_folder() -> Path:
    """The project's `data/`: `$TUNINGVEC_DATA` if set, else the folder beside the package."""
    folder = Path(os.environ.get("TUNINGVEC_DATA") or Path(__file__).resolve().parent.parent / "data")
    if not folder.is_dir():
        raise TuningVecError(f"{folder}: no data folder; set TUNINGVEC_DATA to the project's data/")
    return folder


class _Loader(yaml.SafeLoader):
    """Scalars, lists and mappings alone: a date stays text, and nothing stands for something else."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few lines of them stand for more than fits into memory
            raise yaml.YAMLError(f"alias *{self.peek_event().anchor}: write out what it stands for")
        return super().compose_node(parent, index)


MARKED = re.compile(r"`[\w .,:=+*/()\[\]'-]+`|\$[A-Za-z0-9_^ .,=+-]+\$")  # code and a letter of a formula
ACTIVE = re.compile(r"([\\`*\[\]{}<>|~#&$^])")  # what Markdown or HTML would take for more than text


def plain(text: str) -> str:
    """Words as Markdown that shows them as they are, in one line: nothing in them is markup but `code` and $A$."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    parts, begin = [], 0
    for found in MARKED.finditer(text):
        parts += [ACTIVE.sub(r"\\\1", text[begin : found.start()]), found[0]]
        begin = found.end()
    return "".join([*parts, ACTIVE.sub(r"\\\1", text[begin:])])


def _heading(text: str) -> str:
    if found := re.search("[<>&]", text):
        raise ValueError(f"it holds {found[0]!r}, which the built book's search takes for HTML; leave it out")
    return plain(text)


Words = Annotated[str, AfterValidator(plain)]
Heading = Annotated[str, AfterValidator(_heading)]


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, file: Path) -> "Spec":
        """The spec in a YAML file; raises TuningVecError naming file and field for what is not as it must be."""
        with reading(file, "correct it"):
            if (size := file.stat().st_size) > LARGEST:
                raise TuningVecError(f"{file}: {size // 1024} KB of YAML; at most {LARGEST // 1024} are read")
            text = file.read_text(encoding="utf-8")
        with reading(f"{file}: not readable as YAML", "correct it"):
            found = yaml.load(text, _Loader)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise TuningVecError(f"{file}: {first_problem(error)}") from None


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
        text = f"{where}: {text} (found {reprlib.repr(first['input']):.60})" if where else text
    return text + (f" (and {more} more)" if more else "")
