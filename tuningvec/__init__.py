"""Tuning vectors T = θ_ft − θ_pre: measure what fine-tuning writes into a language model."""

import importlib
from typing import Any

_HOME = {
    "Checkpoint": "weights.checkpoint",
    "Combination": "weights.delta",
    "TuningVector": "weights.delta",
    "subspace_alignment": "weights.subspace",
    "Family": "family.spec",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Imported when it is asked for, so that the command line does not wait for torch."""
    if name in _HOME:
        return getattr(importlib.import_module(f"tuningvec.{_HOME[name]}"), name)
    raise AttributeError(f"module 'tuningvec' has no attribute {name!r}")
