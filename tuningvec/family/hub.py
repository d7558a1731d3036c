"""What the Hugging Face hub tells of a model before anything of it is fetched."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from tuningvec.errors import TuningVecError

FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]  # weights, config, tokenizer; no pickles


class Unreached(TuningVecError):
    """The hub was not reached, so nothing is known."""


class OnHub(NamedTuple):
    """A model at a commit: what a download takes, its licence as its card tells it, whether it is gated."""

    commit: str
    gigabytes: float
    license: str | None
    gated: bool


def look_up(repo: str, revision: str | None = None) -> OnHub:
    """What the hub tells of a model, at its newest commit or at `revision`.

    Raises Unreached without a network, TuningVecError for a model or commit that is not there, or that is gated and the
    user has no leave to read.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    try:
        found = api.model_info(repo, revision=revision, files_metadata=True)
        if found.gated:
            api.auth_check(repo)
    except GatedRepoError:
        raise TuningVecError(
            f"{repo} is gated: accept its licence at {api.endpoint}/{repo}, then `hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise TuningVecError(f"{repo}: no commit {revision}; `tuningvec pin --update` looks up the newest") from None
    except RepositoryNotFoundError:
        raise TuningVecError(f"{repo}: no such model on the hub, or a private one; correct its name") from None
    except OfflineModeIsEnabled:
        raise Unreached(f"{repo}: the hub was not asked; unset HF_HUB_OFFLINE") from None
    except (HTTPError, HfHubHTTPError, OSError) as error:
        raise Unreached(f"{repo}: the hub was not reached: {error}") from None
    size = sum(f.size or 0 for f in found.siblings if any(fnmatch(f.rfilename, pattern) for pattern in FILES))
    license = license_of(found.card_data.to_dict() if found.card_data else {})
    return OnHub(found.sha, round(size / 1e9, 2), license, bool(found.gated))


def license_of(card: Mapping[str, Any]) -> str | None:
    """The licence that the metadata of a model's card tells; None where they tell none."""
    license = card.get("license_name") or card.get("license")
    return license if isinstance(license, str) else None


def cached(repo: str, revision: str) -> Path | None:
    """The folder of a model in the hub's own cache; None where it is not there, or not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, IncompleteSnapshotError):
        return None


def cache_folder() -> Path:
    """Where downloads go."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
