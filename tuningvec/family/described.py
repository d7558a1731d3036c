"""A family's file, written from checkpoints and pinned to commits."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError, reading, writing
from tuningvec.family import hub
from tuningvec.family.spec import NAME, Family, Hub

Ask = Callable[[str], str | None]
ON_HUB = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([0-9a-f]{40}))?")
INSTRUCT = "instruct"  # in the place of a domain
HEAD = """\
# Written by `tuningvec new` from what configurations and cards tell. Read it: `summary` and `limits` are shown on the
# pages, a `role` of `control` is for a model that tells apart what causes a result, `benchmarks` and `corpora` take
# others than the shipped ones. All fields: the book's chapter on other models.
"""


def write(name: str, pretrained: str, fine_tuned: Sequence[str], ask: Ask, to: Path | None = None) -> Path:
    """Write `<name>.yaml` of a pretrained member and of `domain=source` each; returns it.

    A source is a folder, an adapter's folder, a GGUF file, or owner/model[@commit] on the hub. `ask` gives a licence
    that no card tells. Raises TuningVecError for a name that is taken or none, and for a source that is not there.
    """
    if not re.fullmatch(NAME, name):
        raise TuningVecError(f"{name}: no name of a family; small letters and digits, then also . _ -")
    folder = data_folder() / "families" if to is None else to
    file = folder / f"{name}.yaml"
    if file.exists():
        raise TuningVecError(f"{file}: is there; choose another name, or remove it")
    taken: set[str] = set()
    first = _member(_unused("base", taken), pretrained, folder, ask)
    rest = [_fine_tuned(text, folder, ask, taken) for text in fine_tuned]
    spec = dict(
        title=name,
        summary=f"{', '.join(m['label'] for m in rest)}, each compared with {first['label']}.",
        limits="Its members were made by others; no control tells what of a result is facts and what is form.",
        pretrained=first,
        fine_tuned=rest,
        prompt={},
    )
    text = HEAD + yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120)
    with writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    try:
        Family.load(file, files=False)
    except TuningVecError:
        file.unlink()
        raise
    return file


def named(file: Path) -> str:
    """What a command calls the family of this file: its name, or the path of a file elsewhere."""
    return file.stem if file.parent.resolve() == (data_folder() / "families").resolve() else str(file)


def unpinned(file: Path) -> list[str]:
    """The models of a family that are on the hub and have no commit."""
    sources = [member.source for member in Family.load(file, files=False).members]
    return [source.repo for source in sources if isinstance(source, Hub) and source.revision is None]


def pin(family: str, update: bool = False) -> dict[str, str]:
    """Write the newest commits of a family's models on the hub into its file; returns {model: commit}.

    Models that have one keep it, unless `update`. Comments and all else stay as they are. Raises as `hub.look_up` does.
    """
    spec = Family.load(family, files=False)
    file, sources = spec.file, [member.source for member in spec.members]
    asked = [s.repo for s in sources if isinstance(s, Hub) and (update or s.revision is None)]
    found = {repo: hub.look_up(repo).commit for repo in dict.fromkeys(asked)}
    text = _pinned(file.read_text(encoding="utf-8"), found)
    with writing(file):
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    return found


def _pinned(text: str, found: Mapping[str, str]) -> str:
    """The text with its commit in each mapping that names one of these as `repo`."""
    edits = []
    for mapping in _mappings(yaml.compose(text, yaml.SafeLoader)):
        values = {key.value: value for key, value in mapping.value}
        if "repo" not in values or (commit := found.get(values["repo"].value)) is None:
            continue
        if "revision" in values:
            edits.append((values["revision"].start_mark.index, values["revision"].end_mark.index, commit))
        else:
            between = ", " if mapping.flow_style else "\n" + " " * mapping.start_mark.column
            edits.append((*[values["repo"].end_mark.index] * 2, f"{between}revision: {commit}"))
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    return text


def _mappings(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _unused(name: str, taken: set[str]) -> str:
    number, own = 1, name
    while own in taken:
        number, own = number + 1, f"{name}{number + 1}"
    taken.add(own)
    return own


def _fine_tuned(text: str, folder: Path, ask: Ask, taken: set[str]) -> dict[str, Any]:
    domain, equals, source = text.partition("=")
    if not equals or not re.fullmatch(NAME, domain):
        raise TuningVecError(f"{text}: write DOMAIN=SOURCE, such as medicine=path/to/it")
    general = domain == INSTRUCT
    about = dict(role=INSTRUCT if general else "domain", domain="chat" if general else domain)
    return _member(_unused(domain, taken), source, folder, ask) | about


def _member(name: str, source: str, folder: Path, ask: Ask) -> dict[str, Any]:
    where = _source(source, folder)
    label = Path(source).name if where["kind"] != "hub" else where["repo"].split("/")[1]
    told = _license(source, where)
    license = told or ask(f"Licence of {label}") or "not stated"
    return dict(name=name, label=label, license=license, source=where)


def _source(text: str, folder: Path) -> dict[str, Any]:
    path = Path(text).expanduser()
    if path.is_dir():
        kind = "adapter" if (path / "adapter_config.json").is_file() else "folder"
        return dict(kind=kind, path=_from(folder, path), **({"base": "base"} if kind == "adapter" else {}))
    if path.is_file() and path.suffix == ".gguf":
        with path.open("rb") as stream:
            return dict(kind="gguf", file=_from(folder, path), sha256=hashlib.file_digest(stream, "sha256").hexdigest())
    if found := ON_HUB.fullmatch(text):
        return dict(kind="hub", repo=found[1], **({"revision": found[2]} if found[2] else {}))
    raise TuningVecError(f"{text}: no folder, no GGUF file, and not of the form owner/model[@commit]")


def _from(folder: Path, path: Path) -> str:
    """A path as the family's file names it: relative to the file where it lies below the same project."""
    path = path.resolve()
    inside = path.is_relative_to(data_folder().parent) or path.is_relative_to(folder.resolve())
    return os.path.relpath(path, folder.resolve()) if inside else str(path)


def _license(source: str, where: dict[str, Any]) -> str | None:
    """The licence that a model's card tells; None where it tells none."""
    if where["kind"] == "hub":
        try:
            return hub.look_up(where["repo"], where.get("revision")).license
        except hub.Unreached:
            return None
    card = Path(source).expanduser() / "README.md"
    if not card.is_file():
        return None
    with reading(card, "correct it, or remove it"):
        from huggingface_hub import ModelCard

        return hub.license_of(ModelCard.load(card, ignore_metadata_errors=True).data.to_dict())
