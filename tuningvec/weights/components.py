"""One map from an architecture's parameter names to the paper's matrices."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from tuningvec.errors import TuningVecError

ATTENTION = ("W_Q", "W_K", "W_V", "W_O")
MLP = ("W_gate", "W_up", "W_down")
MATRICES = ATTENTION + MLP
KINDS = (*MATRICES, "embedding", "head", "norm", "bias")
SYMBOLS = {kind: rf"$W_\text{{{kind[2:]}}}$" for kind in MATRICES}

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
    return tuple(Component(k, layer, r) for k, r in zip(kinds, _fused_rows(kinds, config), strict=True))


def matrix_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """d_out and d_in of each of MATRICES by a model's `config.json`; grouped queries make W_K and W_V smaller.

    Raises TuningVecError for a size that is no whole number above 0.
    """
    d, d_m, heads = (_size(config, name) for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = _size(config, "head_dim", d // heads)
    queries, keys = heads * head, _size(config, "num_key_value_heads", heads) * head
    shapes = [(queries, d), (keys, d), (keys, d), (d, queries), (d_m, d), (d_m, d), (d, d_m)]
    return dict(zip(MATRICES, shapes, strict=True))


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    found = config.get(name) or default
    if type(found) is not int or found <= 0:
        raise TuningVecError(f"config.json: {name} is {found!r:.60}; it must be a whole number above 0")
    return found


def _fused_rows(kinds: tuple[str, ...], config: Mapping[str, Any]) -> tuple[slice, ...]:
    """Row ranges of the matrices stacked in one tensor."""
    ends = list(accumulate(matrix_shapes(config)[kind][0] for kind in kinds))
    return tuple(slice(start, end) for start, end in pairwise([0, *ends]))
