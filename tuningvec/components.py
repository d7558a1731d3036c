"""One map from an architecture's parameter names to the paper's matrices."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuningvec.errors import TuningVecError

ATTENTION = ("W_Q", "W_K", "W_V", "W_O")
MLP = ("W_gate", "W_up", "W_down")
MATRICES = ATTENTION + MLP
KINDS = (*MATRICES, "embedding", "head", "norm", "bias")
SYMBOLS = {
    "W_Q": "$W_Q$", "W_K": "$W_K$", "W_V": "$W_V$", "W_O": "$W_O$",
    "W_gate": "$W_{gate}$", "W_up": "$W_{up}$", "W_down": "$W_{down}$",
}  # fmt: skip

_PROJECTIONS = {
    "q_proj": ("W_Q",),
    "k_proj": ("W_K",),
    "v_proj": ("W_V",),
    "o_proj": ("W_O",),
    "gate_proj": ("W_gate",),
    "up_proj": ("W_up",),
    "down_proj": ("W_down",),
    "qkv_proj": ("W_Q", "W_K", "W_V"),  # Phi-3
    "gate_up_proj": ("W_gate", "W_up"),  # Phi-3
}
_PROJECTION = re.compile(r"^model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.(weight|bias)$")
_NORM = re.compile(r"^model\.(?:layers\.(\d+)\.)?(?:self_attn\.)?\w*norm\.weight$")
_WHOLE = {"model.embed_tokens.weight": "embedding", "lm_head.weight": "head"}


@dataclass(frozen=True)
class Component:
    """A part of the model: one of KINDS; `layer` is None outside the blocks.

    `rows` are its rows in the tensor that stores it, for matrices that an architecture fuses; None means all.
    """

    kind: str
    layer: int | None = None
    rows: slice | None = None


def components(name: str, config: Mapping[str, Any]) -> tuple[Component, ...]:
    """The components stored in tensor `name` of a model with this `config.json`.

    Raises TuningVecError for a name that belongs to no supported architecture.
    """
    if name in _WHOLE:
        return (Component(_WHOLE[name]),)
    if norm := _NORM.match(name):
        return (Component("norm", None if norm[1] is None else int(norm[1])),)
    found = _PROJECTION.match(name)
    if found is None or found[2] not in _PROJECTIONS:
        raise TuningVecError(f"tensor {name}: no known component; Llama, Qwen2 and Phi-3 names are understood")
    layer, kinds = int(found[1]), _PROJECTIONS[found[2]]
    if found[3] == "bias":
        return (Component("bias", layer),)
    if len(kinds) == 1:
        return (Component(kinds[0], layer),)
    return tuple(Component(k, layer, r) for k, r in zip(kinds, _fused_rows(found[2], config), strict=True))


def _fused_rows(projection: str, config: Mapping[str, Any]) -> tuple[slice, ...]:
    """Row ranges of the matrices stacked in `qkv_proj` or `gate_up_proj`."""
    if projection == "gate_up_proj":
        sizes = [config["intermediate_size"]] * 2
    else:
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or config["hidden_size"] // heads
        sizes = [heads * head] + [(config.get("num_key_value_heads") or heads) * head] * 2
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
