"""What was measured elsewhere: tables that ship, with where they come from.

`data/measured/<family>/`, of a family whose weights are not at hand, holds a file for each measuring call of a page and
`provenance.json`, which names code, machine and the checksums of weights, texts and files. Such a family is read from
there as a whole or not at all. `data/records/<family>/` is laid out alike and holds pages that take long: they are read
from there as long as weights, texts, parameters and the page's call are the same, else measured here.
"""

import ast
import hashlib
import inspect
import json
import lzma
import os
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, Literal, TypeVar

import pandas as pd
from IPython.display import Markdown, display
from pydantic import BaseModel, ValidationError

from tuningvec.codec import decoded, encoded
from tuningvec.data import data_folder, first_problem, plain
from tuningvec.errors import TuningVecError, read_json, reading
from tuningvec.family.spec import GGUF, Family, Hub, Member
from tuningvec.store import FRESH, Store

T = TypeVar("T")
FORMAT = 1  # of `provenance.json`
PROVENANCE = "provenance.json"
LARGEST = 200 * 2**20  # bytes of an unpacked table
STAGE = "TUNINGVEC_EXPORT"  # the folder that measuring calls are exported to while pages run
Where = Literal["measured", "records"]
_told: set[tuple[str, str]] = set()  # families and pages whose reader was told that their records are read
OF_TEXT = {"title", "summary", "limits", "made", "left_out"}  # fields of a spec on which no measure depends


def kept(family: Family, name: str, call: Callable[[Family], T]) -> T:
    """What a measuring call returns: measured here, or read from what ships of long pages and of absent weights.

    The call takes the family alone; the plain values that it reads from its page are the parameters of the measure.
    Raises TuningVecError where nothing ships under this name, or it was measured by another call, with other
    parameters, of another spec or other texts, or its file was altered since.
    """
    asked = dict(parameters=_parameters(call), call=_text(call))
    if family.shipped is None:
        if (source := _record(family, name, asked)) is not None:
            about = provenance(source)
            if (page := (family.name, _page(name))) not in _told:
                _told.add(page)
                display(Markdown(_admonished(family, about, source, "This page takes long, so that its records ship.")))
            return read(source, name, about)
        found = call(family)
        if stage := os.environ.get(STAGE):
            _write(Path(stage), name, found, asked)
        return found
    about = provenance(family.shipped)
    for change in changes(family, about):
        raise _stale(family, change)
    if name not in about["tables"]:
        raise _stale(family, f"no {name!r} ships; there are {', '.join(about['tables'])}")
    for field, value in asked.items():
        if (had := about["tables"][name][field]) != value:
            differ = _difference(had, value) if field == "parameters" else "the page's call has changed since"
            raise _stale(family, f"{name}: {differ}")
    return read(family.shipped, name, about)


def records(family: Family, page: str) -> Path | None:
    """The folder of the records that ship of a page of this number, unless all is to be measured here."""
    source = data_folder() / "records" / family.name
    own = family.file.parent == (data_folder() / "families").resolve()
    if not own or os.environ.get(STAGE) or os.environ.get(FRESH) or not (source / PROVENANCE).is_file():
        return None
    return source if any(_page(name) == page for name in provenance(source)["tables"]) else None


def _page(name: str) -> str:
    """The number of the page that a table is of."""
    return name.partition("-")[0]


def _record(family: Family, name: str, asked: dict[str, Any]) -> Path | None:
    """The folder of the records, where they hold what would be measured here."""
    if (source := records(family, _page(name))) is None:
        return None
    about = provenance(source)
    same = name in about["tables"] and all(about["tables"][name][field] == value for field, value in asked.items())
    if not same or any(changes(family, about)) or about["weights"] != _weights(family):
        return None
    return source


def read(folder: Path, name: str, about: dict[str, Any]) -> Any:
    """The object of this name; raises TuningVecError where its file is not that of the provenance."""
    file = folder / f"{name}.json.xz"
    found = file.read_bytes() if file.is_file() else b""
    if (digest := hashlib.sha256(found).hexdigest()) != (had := about["tables"][name]["sha256"]):
        raise TuningVecError(f"{file}: sha256 is {digest[:12]}, in {PROVENANCE} {had[:12]}; fetch the folder again")
    return _unpacked(file)


def _unpacked(file: Path) -> Any:
    with reading(file, "fetch the folder again"):
        text = lzma.LZMADecompressor().decompress(file.read_bytes(), LARGEST + 1)
        if len(text) > LARGEST:
            raise TuningVecError(f"{file}: holds more than {LARGEST // 2**20} MB; only pages' tables ship")
        return decoded(json.loads(text))


class _Table(BaseModel):
    sha256: str
    parameters: dict[str, Any]
    call: str
    commit: str | None = None


class _Provenance(BaseModel):
    """What `provenance.json` must hold."""

    format: Literal[1]
    commit: str
    dtype: str
    measured: tuple[str, str]
    machines: list[str]
    spec: str
    reading: dict[str, str]
    weights: dict[str, dict[str, str]]
    tables: dict[str, _Table]


def provenance(folder: Path) -> dict[str, Any]:
    """What `provenance.json` tells; raises TuningVecError where it cannot be read or is of another format."""
    about = read_json(folder / PROVENANCE, "fetch the folder again")
    try:
        _Provenance.model_validate(about)
    except ValidationError as error:
        told = first_problem(error)
        raise TuningVecError(f"{folder / PROVENANCE}: no provenance: {told}; fetch the folder again") from None
    return about


def notice(family: Family) -> str:
    """What a page says above its numbers: where they were measured, and how to measure them again."""
    why = f"The weights of {family.title} are not at hand; cells that need the weights themselves are left out."
    return _admonished(family, provenance(family.shipped), family.shipped, why)


def _admonished(family: Family, about: dict[str, Any], source: Path, why: str) -> str:
    first, last = (time[:16].replace("T", " ") for time in about["measured"])
    own = dict.fromkeys(one.get("commit", about["commit"]) for one in about["tables"].values())
    commits = " and ".join(f"`{plain(commit)}`" for commit in own)
    here = f"`tuningvec run {family.name} --fresh`"
    return (
        f":::{{admonition}} Measured elsewhere\n:class: note\n{why} What follows was measured from {first} to {last} "
        f"(UTC) on {plain('; '.join(about['machines']))}, by the code of commit {commits}, and is read from "
        f"`data/{source.parent.name}/{family.name}/`. "
        f"To measure it again: {_again(family) if family.shipped else here}.\n:::"
    )


def folder(family: Family) -> Path:
    """Where what was measured of a family as a whole ships; raises TuningVecError where nothing does."""
    found = data_folder() / "measured" / family.name
    if not found.is_dir():
        raise TuningVecError(f"{found}: nothing ships of this family; `python -m tuningvec export` makes it")
    return found


def exportable(name: str) -> Family:
    """The family of this name; raises TuningVecError where there is nothing to measure or nobody would look for it."""
    family, families = Family.load(name), (data_folder() / "families").resolve()
    if family.shipped:
        raise TuningVecError(f"{family.file}: its weights are not at hand, so that nothing can be measured")
    if family.file.parent != families:
        raise TuningVecError(
            f"{family.file}: what ships is looked for by a family's name; put the file into {families}"
        )
    return family


def still(family: Family, pages: Sequence[str], dtype: str, where: Where = "measured") -> dict[str, Any]:
    """The tables that ship of a family's other pages; raises TuningVecError where what was measured has changed."""
    source = folder(family) if where == "measured" else data_folder() / where / family.name
    if not (source / PROVENANCE).is_file():
        return {}
    about = provenance(source)
    now = dict(spec=_spec(family), reading=_still_read(family, about), weights=_weights(family), dtype=dtype)
    if changed := [field for field, value in now.items() if about[field] != value]:
        raise TuningVecError(f"{source}: {changed[0]} changed since; export all pages of {family.name}")
    kept = {name: dict(commit=about["commit"]) | one for name, one in about["tables"].items()}
    return {name: one for name, one in kept.items() if _page(name) not in pages}


def export(
    stage: Path, family: Family, about: dict[str, Any], kept: dict[str, Any] | None = None, where: Where = "measured"
) -> Path:
    """Make `data/<where>/<family>/` of what was staged while its pages ran, with `about` in its provenance.

    `kept` are the tables of an older export that remain (`still`); the others are replaced when the new ones are whole.
    Raises TuningVecError where nothing was staged.
    """
    new = {f.name.removesuffix(".about.json"): json.loads(f.read_text()) for f in sorted(stage.glob("*.about.json"))}
    if not new:
        raise TuningVecError(f"{family.file}: no page of this family measured anything")
    target = data_folder() / where / family.name
    files = {name: (stage if name in new else target) / f"{name}.json.xz" for name in sorted({*new, *(kept or {})})}
    staged = dict(
        sorted(({name: dict(one, commit=about["commit"]) for name, one in new.items()} | (kept or {})).items())
    )
    runs = [run for file in files.values() for table in tables(_unpacked(file)) for run in table.attrs.get("runs", ())]
    times = sorted(run["measured"] for run in runs)
    about = dict(
        format=FORMAT, family=family.name, **about, measured=[times[0], times[-1]],
        machines=sorted({", ".join([run["machine"], run["device"]]) for run in runs}),
        versions=dict(sorted(pair for run in runs for pair in run["versions"].items())),
        spec=_spec(family), reading=_reading(family), weights=_weights(family), tables=staged,
    )  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    for file in set(target.iterdir()) - set(files.values()):
        file.unlink()
    for name in new:
        shutil.move(files[name], target / files[name].name)
    (target / PROVENANCE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return target


def tables(value: Any) -> Iterator[pd.DataFrame]:
    """All tables in an object."""
    if isinstance(value, pd.DataFrame):
        yield value
    elif isinstance(value, dict):
        yield from tables(list(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tables(part)


def _write(stage: Path, name: str, found: Any, asked: dict[str, Any]) -> None:
    """Stage an object with what was asked; raises TuningVecError for one that would not come back as it is."""
    text = json.dumps(encoded(found), separators=(",", ":"))
    if json.dumps(encoded(decoded(json.loads(text))), separators=(",", ":")) != text:
        raise TuningVecError(f"{name}: what the call returns does not come back the same from JSON")
    packed = lzma.compress(text.encode(), preset=9)
    stage.mkdir(parents=True, exist_ok=True)
    (stage / f"{name}.json.xz").write_bytes(packed)
    about = dict(sha256=hashlib.sha256(packed).hexdigest(), **asked)
    (stage / f"{name}.about.json").write_text(json.dumps(about))


def changes(family: Family, about: dict[str, Any]) -> Iterator[str]:
    """What of the family's spec, its texts, and the weights of the family beside is no longer what was measured."""
    if about["spec"] != _spec(family):
        yield "the family's spec has changed since in more than its words"
    if about["reading"] != (now := _still_read(family, about)):
        yield f"texts have changed since: {_difference(about['reading'], now)}"
    for prefix, other in _beside(family):
        had = [member for member in other.fine_tuned if prefix + member.name in about["weights"]]
        for member in had if other.shipped is None else ():
            if not _digests(other, member).items() <= about["weights"][prefix + member.name].items():
                yield f"weights of {prefix}{member.name} have changed since"


def _stale(family: Family, why: str) -> TuningVecError:
    return TuningVecError(f"{family.shipped}: {why}; measure it again: {_again(family)}")


def _again(family: Family) -> str:
    make = f"`python -m tuningvec.recipes {family.name}`" if family.recipe else "fetch the weights"
    return f"{make}, then `python -m tuningvec export {family.name}`"


def _difference(had: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in had | now if had.get(name) != now.get(name)]
    return ", ".join(f"{name} {had.get(name)!s:.20} then, {now.get(name)!s:.20} now" for name in names)


def _parameters(call: Callable[[Family], Any]) -> dict[str, Any]:
    """The plain values among the page's names that a call reads, also in its comprehensions."""
    names = () if _ours(call) else _names(call.__code__)
    values = {name: call.__globals__.get(name, ...) for name in sorted(names)}
    return {name: json.loads(json.dumps(value)) for name, value in values.items() if _plain(value)}


def _ours(call: Callable[[Family], Any]) -> bool:
    return call.__module__.startswith("tuningvec.")


def _names(code: CodeType) -> set[str]:
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _text(call: Callable[[Family], Any]) -> str:
    """A function of this package by its name, one of a page by a checksum of its body, whatever its layout."""
    if _ours(call):
        return f"{call.__module__}.{call.__qualname__}"
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(call))).body
    return hashlib.sha256("\n".join(map(ast.unparse, function.body)).encode()).hexdigest()[:24]


def _spec(family: Family) -> str:
    """A checksum of all fields of a spec that measures depend on; texts count by their contents, not their paths."""
    text = json.dumps(
        _without_paths(family.model_dump(mode="json", exclude=OF_TEXT, exclude_defaults=True)), sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items() if k not in ("path", "patching", "label", "license")}
    return [_without_paths(v) for v in value] if isinstance(value, list) else value


def _reading(family: Family) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:24] for file in family.reading}


def _still_read(family: Family, about: dict[str, Any]) -> dict[str, str]:
    """The same of those files alone that there were when it was measured; no measure has read a later one."""
    return {name: digest for name, digest in _reading(family).items() if name in about["reading"]}


def _weights(family: Family) -> dict[str, dict[str, str]]:
    """Where weights come from, and checksums of their files, by member; of the family beside by "family/member"."""
    found = {}
    for prefix, one in [("", family), *_beside(family)]:
        for member in one.members:
            source, files = member.source, _digests(one, member)
            if isinstance(source, GGUF):
                files[Path(source.file).name] = source.sha256
            found[prefix + member.name] = files | ({source.repo: source.revision} if isinstance(source, Hub) else {})
    return found


def _digests(family: Family, member: Member) -> dict[str, str]:
    from tuningvec.family.members import weights

    store, terms = Store(), list(weights(family, member.name).own.terms)
    return {file.name: store.digest(file) for file in terms[-1].files}  # before an adapter stands its base


def _beside(family: Family) -> list[tuple[str, Family]]:
    """The family that page 06 sets beside it, with how its members are told from the family's own."""
    return [(f"{family.beside}/", Family.load(family.beside))] if family.beside else []
