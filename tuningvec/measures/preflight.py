"""Do the members fit, how far are they from θ_pre, is the algebra exact: what is looked at before any measure."""

import math
from collections import Counter
from collections.abc import Mapping

import pandas as pd
import torch
from tqdm import tqdm

from tuningvec.family import members
from tuningvec.family.spec import Adapter, Family
from tuningvec.verdict import Verdict
from tuningvec.weights import fitting
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.delta import Combination
from tuningvec.weights.shards import PIECE


def preflight(family: Family) -> pd.DataFrame:
    """Open every member and compare it with θ_pre: tensors, parameters, those that T changes, and r = ‖T‖ / ‖θ_pre‖.

    A note warns of a T longer than half of θ_pre in most tensors that it changes: of another pretrained model, or of
    one trained much further. Raises TuningVecError for a member that cannot be opened or does not fit.
    """
    pretrained = members.checkpoint(family)
    norms = {name: _norm(pretrained.read(name)) for name in pretrained.shapes}
    rows = [dict(member=family.pretrained.name, tensors=len(pretrained.shapes), parameters=pretrained.parameters)]
    for name, vector in members.tuning_vectors(family, controls=True).items():
        whole = members.weights(family, name).fitted.shapes
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
                note=rf"longer than half of $\theta_\text{{pre}}$ in {len(long)} tensors"
                * (len(long) > len(changed) / 2),
            )
        )
    table = pd.DataFrame(rows).astype({"changed_tensors": "Int64", "changed_parameters": "Int64"})
    table = table.fillna({"note": ""}) if table.note.any() else table.drop(columns="note")
    return table.rename(columns=lambda c: c.replace("_", " "))


def _norm(tensor: torch.Tensor) -> float:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item()


def misfits(family: Family) -> pd.DataFrame:
    """What of each member differs from θ_pre in shape or setting and what follows; a row says so where nothing does."""
    pretrained, rows = members.checkpoint(family), []
    for member in family.fine_tuned:
        if isinstance(member.source, Adapter):
            continue
        found = fitting.misfits(pretrained, members.weights(family, member.name).like)
        nothing = fitting.Misfit("every tensor", "", "", "compared", "the same names, shapes and settings")
        rows += [dict(member=member.name, **misfit._asdict()) for misfit in found or [nothing]]
    return pd.DataFrame(rows).rename(columns=lambda c: c.replace("_", "-"))


def exactness(family: Family) -> pd.DataFrame:
    """Failures of θ_ft − T = θ_pre and θ_pre + T = θ_ft: tensors by the algebra, elements when T is rounded first."""
    pretrained = members.weights(family, family.pretrained.name).fitted
    rows = []
    for name, T in tqdm(members.tuning_vectors(family, controls=True).items(), desc="identities"):
        tuned = members.weights(family, name).fitted
        back, forth = tuned - T, T.apply_to(pretrained)
        wrong: Counter[str] = Counter()
        for tensor in pretrained.shapes:
            pre, ft = pretrained.read(tensor), tuned.read(tensor)
            wrong["θ_ft − T"] += not torch.equal(back.read(tensor), pre)
            wrong["θ_pre + T"] += not torch.equal(forth.read(tensor), ft)
            for dtype, label in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
                a, b = pre.to(dtype), ft.to(dtype)
                wrong[label] += int((a + (b - a) != b).sum())
        n = members.checkpoint(family).parameters
        row = {"member": name, "tensors": len(pretrained.shapes)} | {c: wrong[c] for c in ("θ_ft − T", "θ_pre + T")}
        rows.append(row | {f"rounded first, {c}": wrong[c] / n for c in ("float32", "bfloat16")})
    return pd.DataFrame(rows)


def recovered(family: Family, vectors: Mapping[str, Combination] | None = None) -> pd.DataFrame:
    """θ_ft − 1·T with T formed first, beside the pretrained file: what negation at λ = 1 is, in float32.

    A row a member: the largest |θ_ft − T − θ_pre| (`error`), and the largest of it over what float32 allows in two
    sums, ε (|θ_ft| + |T| + |θ_pre|), `of bound`; NaN where something is no number. T is read from θ_ft's and θ_pre's
    files, or from `vectors`. Rows of tensors are read at a time.
    """
    pretrained, rows = members.checkpoint(family), []
    for name, T in tqdm((vectors or members.tuning_vectors(family)).items(), desc="θ_ft − T"):
        tuned, found = members.weights(family, name).fitted, torch.zeros(2)
        for tensor, shape in pretrained.shapes.items():
            step = max(1, PIECE // torch.Size(shape[1:]).numel())
            for piece in [slice(i, i + step) for i in range(0, shape[0] if shape else 1, step)]:
                found = torch.maximum(found, _missed(tuned, T, pretrained, tensor, piece))
        error, share = found.tolist()
        rows.append({"member": name, "tensors": len(pretrained.shapes), "error": error, "of bound": share})
    return pd.DataFrame(rows)


def _missed(tuned: Combination, T: Combination, pretrained: Checkpoint, tensor: str, rows: slice) -> torch.Tensor:
    """The largest error of some rows of a tensor, and the largest over its bound."""
    ft, pre = tuned.read(tensor, rows), pretrained.read(tensor, rows)
    step = T.read(tensor, rows)
    step = torch.zeros_like(pre) if step is None else step  # a tensor that T does not change
    error = (ft - step - pre).abs()
    bound = torch.finfo(torch.float32).eps * (ft.abs() + step.abs() + pre.abs())
    return torch.stack([error.max(), torch.where(error == 0, error, error / bound).max()])


def negation_recovers(table: pd.DataFrame) -> Verdict:
    """The control of negation: at λ = 1 the weights are the pretrained ones; `table` is of `recovered`."""
    rule = r"$\theta_\text{ft} - T$ is the pretrained file's, in every tensor, within the error of two float32 sums"
    within = table["of bound"] <= 1
    return Verdict(
        "holds" if within.all() else "differs",
        rule,
        why="" if within.all() else f"{(~within).sum()} of {len(table)} members beyond it",
        cases=table.assign(share=table["of bound"]),
        falsified=not within.all(),
    )
