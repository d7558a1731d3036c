"""A family: one pretrained model, its fine-tuned members, where their weights come from, how they are prompted."""

import importlib.metadata
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, PrivateAttr, model_validator

from tuningvec.data import Heading, Spec, Words, data_folder
from tuningvec.errors import TuningVecError, reading
from tuningvec.family import hub
from tuningvec.tasks import writes_text

NAME = r"^[a-z0-9][a-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME)]


class Source(Spec):
    """Where a member's weights come from."""

    @abstractmethod
    def missing(self, root: Path) -> list[Path]:
        """The files that have to be there and are not."""

    def at_hand(self, root: Path) -> bool:
        """Whether the weights can be opened without being fetched or made first."""
        return not self.missing(root)


class Folder(Source):
    """A folder of safetensors with its `config.json`."""

    kind: Literal["folder"]
    path: Path

    def missing(self, root: Path) -> list[Path]:
        folder = root / self.path
        weights = [] if any(folder.glob("*.safetensors")) else [folder / "*.safetensors"]
        return weights + [f for f in [folder / "config.json"] if not f.is_file()]


class GGUF(Source):
    """A GGUF file pinned by its checksum: inside an installed Python package, or at a path of its own."""

    kind: Literal["gguf"]
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    package: str | None = None
    version: str | None = None

    @model_validator(mode="after")
    def _package_has_a_version(self) -> "GGUF":
        if (self.package is None) != (self.version is None):
            raise ValueError("package and version are given together, or neither")
        return self

    def at_hand(self, root: Path) -> bool:
        if self.package is None:
            return super().at_hand(root)
        try:
            return importlib.metadata.version(self.package) == self.version
        except importlib.metadata.PackageNotFoundError:
            return False

    def missing(self, root: Path) -> list[Path]:
        if self.package:
            return []  # it is looked for when the member is opened, with the words that install it
        return [] if (root / self.file).is_file() else [root / self.file]


class Hub(Source):
    """A model on the Hugging Face hub at a commit; without one it is named and cannot be opened.

    `gigabytes` is what a download takes; a `gated` model is fetched by those alone who accepted its licence.
    """

    kind: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit, not a branch")] | None = None
    gigabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    gated: bool = False

    def at_hand(self, root: Path) -> bool:
        return self.revision is not None and hub.cached(self.repo, self.revision) is not None

    def missing(self, root: Path) -> list[Path]:
        return []  # fetched when the member is opened


class Adapter(Source):
    """A PEFT LoRA adapter on another member: θ_ft = θ_base + scale · B A."""

    kind: Literal["adapter"]
    path: Path
    base: Name

    def missing(self, root: Path) -> list[Path]:
        names = ["adapter_config.json", "adapter_model.safetensors"]
        return [root / self.path / n for n in names if not (root / self.path / n).is_file()]


class Member(Spec):
    """One model of a family."""

    name: Name
    label: Words
    license: Words
    source: Annotated[Folder | GGUF | Hub | Adapter, Field(discriminator="kind")]


class FineTuned(Member):
    """A fine-tuned model: a general `instruct` model, a specialist of one `domain`, or a `control` of a specialist.

    A control `keeps` the specialist's `facts` and form, and differs by its training run, or the `form` alone; `differs`
    says how, in words that pages show.
    """

    role: Literal["instruct", "domain", "control"]
    domain: Name
    controls: Name | None = None
    keeps: Literal["facts", "form"] | None = None
    differs: Words | None = None

    @model_validator(mode="after")
    def _a_control_says_of_what(self) -> "FineTuned":
        given = [field for field in ("controls", "keeps", "differs") if getattr(self, field) is not None]
        if self.role == "control" and len(given) < 3:
            raise ValueError("a control says which member it `controls`, what of it it `keeps` and how it `differs`")
        if self.role != "control" and given:
            raise ValueError(f"{given[0]}: only a member of role control has it")
        return self


class Prompt(Spec):
    """How members are prompted: system prompts and worked examples by the key that a task names in its metadata.

    Where a key is absent a task has its own; an empty list of examples means none. A Jinja chat template, or the
    tokenizer's own.
    """

    system: dict[str, str] = {}
    worked: dict[str, list[dict[str, JsonValue]]] = {}
    chat_template: Path | None = None


class Text(Spec):
    """Documents up to a budget of `tokens`, in rows of at most `window`; `packed` rows hold one after the other."""

    field: str = "text"
    tokens: Annotated[int, Field(gt=0)] = 100_000
    window: Annotated[int, Field(gt=1)] = 256
    packed: bool = True


SUFFIXES = (".txt", ".jsonl", ".xml", ".nxml", ".gz")


class TextFiles(Text):
    """Text from a file or all files of a folder: .txt, .jsonl, PMC's .xml or .nxml, each also as .gz or in .tar.gz."""

    kind: Literal["files"]
    path: Path

    def files(self, root: Path) -> list[Path]:
        """The file, or all below the folder whose suffix is known, in the order of their names."""
        path = root / self.path
        return [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file())

    def missing(self, root: Path) -> list[Path]:
        return [] if self.files(root) else [root / self.path]


class HubText(Text):
    """Text from a data set on the hub, streamed at a pinned commit."""

    kind: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit, not a branch")]
    subset: str | None = None
    split: str = "train"

    def missing(self, root: Path) -> list[Path]:
        return []  # fetched while it is read


Corpus = TextFiles | HubText


def _shipped(folder: str, file: str) -> Path:
    return data_folder() / folder / file


def _shipped_corpora() -> dict[str, "Corpus"]:
    """Half of the shipped texts, so that documents remain which no neuron was ranked on."""
    paths = {name: _shipped("corpora", f"{name}.jsonl") for name in ("medical", "general")}
    return {name: TextFiles(kind="files", path=path, tokens=24_576) for name, path in paths.items()}


def _shipped_replies() -> dict[str, Path]:
    return {domain: _shipped("replies", f"{domain}.jsonl") for domain in ("medicine", "math", "law", "code")}


class Family(Spec):
    """A validated `data/families/<name>.yaml`; relative paths in it are relative to the file."""

    title: Heading
    summary: Words
    limits: Words
    pretrained: Member
    fine_tuned: Annotated[tuple[FineTuned, ...], Field(min_length=1)]
    prompt: Prompt
    corpora: Annotated[dict[Name, Annotated[Corpus, Field(discriminator="kind")]], Field(min_length=1)] = Field(
        default_factory=_shipped_corpora
    )
    benchmarks: Annotated[dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)] = {
        "medicine": ("tuningvec_drugs", "tuningvec_visits"),
        "math": ("tuningvec_arithmetic",),
        "law": ("tuningvec_law",),
        "code": ("tuningvec_functions",),
    }
    replies: dict[Name, Path] = Field(default_factory=_shipped_replies)
    patching: Path = Field(default_factory=lambda: _shipped("patching", "drugs.yaml"))
    recipe: str | None = None
    beside: Name | None = None
    made: dict[Literal["gain", "form", "length", "directions"], Words] = {}
    left_out: dict[str, Words] = {}
    _file: Path = PrivateAttr()
    _shipped: Path | None = PrivateAttr(default=None)
    _opened: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, family: str | Path, files: bool = True) -> "Family":
        """Read a family by its name in `data/families/`, or by the path of its YAML file.

        Raises TuningVecError naming file and field for an unknown field, a wrong role, a missing file, a model on the
        hub without a commit (`files=False` leaves these unchecked, for what is about to make or name them). Weights may
        be missing where what was measured of the family ships (`shipped`).
        """
        file = _spec_file(family)
        spec = cls.read(file)
        spec._file = file
        if files:
            folder = data_folder() / "measured" / spec.name
            if folder.is_dir() and file.parent == (data_folder() / "families").resolve() and not spec.at_hand:
                spec._shipped = folder
            with reading(file, "correct it"):  # a path that no system takes
                spec._check_files()
        return spec

    @model_validator(mode="after")
    def _consistent(self) -> "Family":
        names = [m.name for m in self.members]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ValueError(f"fine_tuned: member name used twice: {', '.join(sorted(twice))}")
        if isinstance(self.pretrained.source, Adapter):
            raise ValueError("pretrained.source: an adapter cannot be the pretrained member")
        whole = {m.name for m in self.members if not isinstance(m.source, Adapter)}
        for i, m in enumerate(self.fine_tuned):
            if isinstance(m.source, Adapter) and m.source.base not in whole:
                raise ValueError(
                    f"fine_tuned.{i}.source.base: {m.source.base!r} is not a member with weights of its own; "
                    f"one of {', '.join(sorted(whole))}"
                )
            if m.role == "control" and m.controls not in [o.name for o in self.fine_tuned if o.role == "domain"]:
                raise ValueError(f"fine_tuned.{i}.controls: {m.controls!r} is no member of role domain")
        return self

    @property
    def at_hand(self) -> bool:
        """Whether all weights can be opened without being fetched or made first."""
        return all(member.source.at_hand(self.root) for member in self.members)

    def _check_files(self) -> None:
        fields = ["pretrained", *(f"fine_tuned.{i}" for i in range(len(self.fine_tuned)))]
        for field, member in zip(fields, self.members, strict=True):
            for path in () if self.shipped else member.source.missing(self.root):
                raise TuningVecError(f"{self.file}: {field}.source.path: no file {path}{self._remedy(member)}")
            if isinstance(member.source, Hub) and member.source.revision is None:
                raise TuningVecError(
                    f"{self.file}: {field}.source.revision: no commit of {member.source.repo}, whose weights may "
                    f"change; `tuningvec pin {self.name}` looks it up and writes it"
                )
        for name, corpus in self.corpora.items():
            for path in corpus.missing(self.root):
                raise TuningVecError(f"{self.file}: corpora.{name}.path: no {' or '.join(SUFFIXES)} in {path}")
        for domain, replies in self.replies.items():
            if not (path := self.root / replies).is_file():
                raise TuningVecError(f"{self.file}: replies.{domain}: no file {path}")
        if not (path := self.root / self.patching).is_file():
            raise TuningVecError(f"{self.file}: patching: no file {path}")
        template = self.prompt.chat_template
        if template and not (self.root / template).is_file():
            raise TuningVecError(f"{self.file}: prompt.chat_template: no file {self.root / template}")

    def _remedy(self, member: Member) -> str:
        return f"; make it with `python -m tuningvec.recipes {self.recipe} {member.name}`" if self.recipe else ""

    @property
    def name(self) -> str:
        """The file's stem: pages and labels carry it."""
        return self._file.stem

    @property
    def file(self) -> Path:
        return self._file

    @property
    def shipped(self) -> Path | None:
        """The folder of what was measured of this family elsewhere, where its weights are not at hand."""
        return self._shipped

    @property
    def opened(self) -> dict[str, Any]:
        """The weights of the members that were opened, by name."""
        return self._opened

    @property
    def root(self) -> Path:
        """The folder that relative paths start from."""
        return self._file.parent

    @property
    def reading(self) -> list[Path]:
        """The files that members are given to read: corpora, items of tasks, replies, prompt pairs."""
        corpora = [corpus for corpus in self.corpora.values() if isinstance(corpus, TextFiles)]
        texts = [file for corpus in corpora for file in corpus.files(self.root)]
        replies = [self.root / file for file in self.replies.values()]
        return [*texts, *sorted((data_folder() / "tasks").glob("*.jsonl")), *replies, self.root / self.patching]

    @property
    def template(self) -> str | None:
        """The chat template that the family sets."""
        file = self.prompt.chat_template
        with reading(f"{self.file}: prompt.chat_template", "correct it"):
            return (self.root / file).read_text(encoding="utf-8") if file else None

    @property
    def members(self) -> tuple[Member, ...]:
        """The pretrained member first, then the fine-tuned ones in the file's order."""
        return (self.pretrained, *self.fine_tuned)

    @property
    def studied(self) -> tuple[Member, ...]:
        """The members that the paper's claims are about: all but controls."""
        return tuple(m for m in self.members if m not in self.controls)

    @property
    def controls(self) -> tuple[FineTuned, ...]:
        """The members of role control."""
        return tuple(m for m in self.fine_tuned if m.role == "control")

    @property
    def specialists(self) -> tuple[FineTuned, ...]:
        """The domain models whose domain has benchmarks."""
        return tuple(m for m in self.fine_tuned if m.role == "domain" and m.domain in self.benchmarks)

    @property
    def examined(self) -> dict[str, list[str]]:
        """The specialists of each domain whose benchmarks are scored right or wrong, {domain: members}."""
        found: dict[str, list[str]] = {}
        for member in self.specialists:
            if not all(writes_text(task) for task in self.benchmarks[member.domain]):
                found.setdefault(member.domain, []).append(member.name)
        return found

    @property
    def examined_controls(self) -> tuple[FineTuned, ...]:
        """The controls in domains whose benchmarks are scored right or wrong."""
        return tuple(control for control in self.controls if control.domain in self.examined)

    @property
    def specialist_of(self) -> dict[str, str]:
        """The first specialist of each domain in `examined`."""
        return {domain: names[0] for domain, names in self.examined.items()}

    @property
    def compared(self) -> list[str]:
        """The pretrained member and the specialists in `examined`, by name."""
        return [self.pretrained.name, *(name for names in self.examined.values() for name in names)]

    @property
    def compares_domains(self) -> bool:
        """Whether more than one domain has a specialist and benchmarks that are scored right or wrong."""
        return len(self.examined) > 1

    @property
    def has_whole_members(self) -> bool:
        """Whether some fine-tuned member is more than an adapter."""
        return any(not isinstance(m.source, Adapter) for m in self.fine_tuned)

    def member(self, name: str) -> Member:
        """A member by name; raises TuningVecError with the names there are."""
        for m in self.members:
            if m.name == name:
                return m
        raise TuningVecError(f"{self.file}: no member {name!r}; there are {', '.join(m.name for m in self.members)}")


def family_names() -> list[str]:
    """Names of the families in `data/families/`."""
    return sorted(f.stem for f in (data_folder() / "families").glob("*.yaml"))


def _spec_file(family: str | Path) -> Path:
    named = data_folder() / "families" / f"{family}.yaml"
    with reading(f"family {family!s:.60}", "name a file, or a family there is"):
        file = named if named.is_file() else Path(family)
        if file.suffix in (".yaml", ".yml") and file.is_file():
            return file.resolve()
    raise TuningVecError(
        f"no family {str(family)!r}: neither a YAML file nor a name in {named.parent} ({', '.join(family_names())})"
    )
