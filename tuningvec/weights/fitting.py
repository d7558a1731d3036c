"""Does a fine-tuned checkpoint fit its pretrained one: what is compared, what is left out, what stops the run."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from tuningvec.errors import TuningVecError
from tuningvec.weights.checkpoint import ALL, Checkpoint, sliced
from tuningvec.weights.components import components

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SAME = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "num_hidden_layers")
TOLD = ("rope_theta", "rope_scaling", "rope_parameters", "hidden_act", "rms_norm_eps", "sliding_window")

Outcome = Literal["compared", "left out", "stops"]


class Misfit(NamedTuple):
    """A tensor or a setting in which two checkpoints differ, and what follows."""

    what: str
    pretrained: str
    fine_tuned: str
    outcome: Outcome
    how: str


def misfits(pretrained: Checkpoint, fine_tuned: Checkpoint) -> list[Misfit]:
    """Every tensor and setting in which the two differ; none for a plain fine-tune.

    Rows of embedding and head are compared as far as both have them, a head tied to the embedding as what it is.
    Anything else that one of the two lacks stops the run, and so does another number of heads.
    """
    found = [m for key in (*SAME, *TOLD) if (m := _setting(key, pretrained.config, fine_tuned.config))]
    for name in sorted(pretrained.shapes.keys() | fine_tuned.shapes.keys()):
        shapes = pretrained.shapes.get(name), fine_tuned.shapes.get(name)
        if shapes[0] != shapes[1]:
            found.append(_tensor(name, *shapes))
    return found


def _setting(key: str, pretrained: Mapping[str, Any], fine_tuned: Mapping[str, Any]) -> Misfit | None:
    one, other = (config.get(key) for config in (pretrained, fine_tuned))
    if one == other or (None in (one, other) and key in ("head_dim", "sliding_window", "rope_scaling")):
        return None
    if key in SAME:
        return Misfit(key, str(one), str(other), "stops", "another architecture")
    return Misfit(key, str(one), str(other), "compared", "weights alone; sums keep the pretrained setting")


def _tensor(name: str, one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> Misfit:
    texts = [str(list(shape)) if shape is not None else "absent" for shape in (one, other)]
    vocabulary = name in (EMBEDDING, HEAD)
    if one and other and vocabulary and one[1:] == other[1:]:
        common = min(one[0], other[0])
        how = f"the first {common:,} rows; " + (
            "further rows are left out" if other[0] > one[0] else "T is 0 in the others"
        )
        return Misfit(name, *texts, "compared", how)
    if name == HEAD and one and not other:
        return Misfit(name, *texts, "compared", "with the embedding that the fine-tuned head is tied to")
    if name == HEAD and other and not one:
        return Misfit(name, *texts, "left out", "the pretrained head is tied to the embedding")
    if "rotary_emb" in name and not one:
        return Misfit(name, *texts, "left out", "a table of positions and no weight")
    return Misfit(name, *texts, "stops", "not a fine-tune of this model")


def fit(pretrained: Checkpoint, fine_tuned: Checkpoint) -> "Checkpoint | Fitted":
    """The fine-tuned weights in the shapes of the pretrained ones; the checkpoint itself where nothing differs.

    Raises TuningVecError with every misfit that stops the run.
    """
    found = misfits(pretrained, fine_tuned)
    stops = [m for m in found if m.outcome == "stops"]
    if stops:
        lines = [f"{m.what}: {m.pretrained} in one, {m.fine_tuned} in the other" for m in stops[:8]]
        more = [f"and {len(stops) - 8} more"] if len(stops) > 8 else []
        said = "\n  ".join([f"{fine_tuned.folder} was not fine-tuned from {pretrained.folder}:", *lines, *more])
        raise TuningVecError(f"{said}\n  name the pretrained model that it was trained from")
    for name in pretrained.shapes:
        components(name, pretrained.config)  # raises for a tensor of an unknown architecture
    return fine_tuned if fine_tuned.shapes == pretrained.shapes else Fitted(fine_tuned, pretrained)


class Fitted:
    """A fine-tuned checkpoint in the shapes of its pretrained one, from which come the rows that it lacks."""

    def __init__(self, fine_tuned: Checkpoint, pretrained: Checkpoint):
        self.fine_tuned, self.pretrained = fine_tuned, pretrained
        self.shapes = pretrained.shapes
        self.files = fine_tuned.files + pretrained.files

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        source = EMBEDDING if name == HEAD and HEAD not in self.fine_tuned.shapes else name
        out = torch.empty(sliced(self.shapes[name], rows)) if out is None else out
        if not self.shapes[name] or self.fine_tuned.shapes[source] == self.shapes[name]:
            return self.fine_tuned.read(source, rows, out)
        first, last, _ = rows.indices(self.shapes[name][0])
        known = min(max(self.fine_tuned.shapes[source][0], first), last)
        if known > first:
            self.fine_tuned.read(source, slice(first, known), out[: known - first])
        if last > known:
            self.pretrained.read(name, slice(known, last), out[known - first :])
        return out

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fitted) and (self.fine_tuned, self.pretrained) == (other.fine_tuned, other.pretrained)

    def __hash__(self) -> int:
        return hash((self.fine_tuned, self.pretrained))

    def __repr__(self) -> str:
        return f"{self.fine_tuned!r} as {self.pretrained!r}"
