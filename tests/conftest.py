"""Small real checkpoints of each architecture, made in a temporary folder."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

settings.register_profile("tuningvec", deadline=None, derandomize=True)  # the same examples in every run
settings.load_profile("tuningvec")

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
)
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}


@pytest.fixture(autouse=True)
def store_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test measures is not kept for the user, and what the user measured is not taken for a test."""
    monkeypatch.setenv("TUNINGVEC_STORE", str(tmp_path_factory.mktemp("store")))


@pytest.fixture(autouse=True)
def code_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the models of the tests write is known; where there is bubblewrap it is shut off all the same."""
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a randomly initialised two-layer model in bfloat16; returns its folder."""

    def make(name: str, architecture: str = "llama", seed: int = 0, **changes: object) -> Path:
        config, model = ARCHITECTURES[architecture]
        torch.manual_seed(seed)
        folder = tmp_path / name
        model(config(**{**SIZES, **changes})).bfloat16().save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def evidence() -> Any:
    """The compared rows of the paper's tables as they are printed."""
    from tuningvec.paper import claims

    return claims.gather(level=0.95, alpha=0.05, seed=0)


@pytest.fixture(scope="session")
def shell() -> None:
    """An IPython shell, without which nothing is displayed."""
    InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    gc.freeze()  # modules stay: each model that is let go has them searched for what refers to itself
