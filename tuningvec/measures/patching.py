"""Attribution patching and exact activation patching of true and false statements (paper A.6, Fig. 7)."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import nnsight
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from tuningvec.family.spec import Family
from tuningvec.measures import models
from tuningvec.measures.prompts import Aligned, Prompt, Prompts, answers
from tuningvec.stats import mean_interval
from tuningvec.store import Store

SITES = ("residual", "attention", "mlp")  # output of a block, of its attention, of its feed-forward layer
METHODS = ("plain", "integrated", "exact")  # attribution at the corrupt prompt, averaged along the way, and patching


@dataclass(frozen=True)
class Effects:
    """Metrics of both prompts, logit(true) − logit(false), and what patching the clean activation in adds to it."""

    clean: float
    corrupt: float
    effect: Float[Tensor, "site L corrupt"]  # NaN where a token has no partner


class Patcher:
    """Patches clean activations into the run of a corrupt prompt, one layer, site and token at a time."""

    def __init__(self, model: PreTrainedModel, answers: tuple[int, int]):
        self._net, self._answers = NNsight(model), answers
        self._device = model.get_input_embeddings().weight.device

    def _ids(self, prompt: Prompt, rows: int = 1) -> Int64[Tensor, "rows tokens"]:
        return torch.tensor([prompt.ids] * rows, device=self._device)

    def attribution(self, pair: Aligned, steps: int = 1, drop: bool = False) -> Effects:
        """First-order estimate (a_clean − a_corrupt) · ∂metric/∂a at the corrupt prompt (A.6).

        With `steps` > 1 the gradient is the mean over as many points on the way from the corrupt prompt's embeddings to
        the clean one's (integrated gradients). With `drop` the effect is the mean over layers of |estimate|, each with
        the gradient that passes the attention and feed-forward outputs of that layer dropped (GradDrop of AtP*).
        """
        clean, at_clean, start = self._run(pair.clean)
        corrupt, at_corrupt, embedded = self._run(pair.corrupt)
        has = pair.places >= 0
        difference = torch.full_like(at_corrupt, float("nan"))
        difference[..., has, :] = at_clean[..., pair.places[has], :] - at_corrupt[..., has, :]
        towards = torch.zeros_like(embedded)
        towards[has] = start[pair.places[has]] - embedded[has]
        points = torch.stack([embedded + towards * (i / steps) for i in range(steps)])
        dropped = range(len(at_corrupt[0])) if drop else [None]
        found = [torch.sum(difference * self._gradient(pair.corrupt, points, layer), -1) for layer in dropped]
        return Effects(clean, corrupt, torch.stack(found).abs().mean(0) if drop else found[0])

    def exact(self, pair: Aligned, layers: int | None = None) -> Effects:
        """The same by running the model once for each place; with so many layers alone, even over depth, else NaN.

        A place is a row of a batch. All runs have the same rows, patched or not, so that rounding is the same in all
        and a patch that changes nothing gives exactly 0.
        """
        clean, at_clean, _ = self._run(pair.clean)
        corrupt, _, _ = self._run(pair.corrupt)
        has = torch.nonzero(pair.places >= 0)[:, 0]
        ids = self._ids(pair.corrupt, len(SITES) * len(has))
        depth = at_clean.shape[1]
        chosen = np.unique(np.linspace(0, depth - 1, min(layers or depth, depth)).round().astype(int)).tolist()
        _, patches, _ = self._rows(self._ids(pair.clean, len(ids)), pair.places[has], chosen)
        whole, _, before = self._rows(ids, has, chosen)
        effect = torch.full((*at_clean.shape[:2], len(pair.places)), float("nan"))
        for layer in chosen:
            metric = self._patched(ids, layer, has, patches[layer], before[layer])
            effect[:, layer, has] = (metric - whole).reshape(len(SITES), len(has))
        return Effects(clean, corrupt, effect)

    def _metric(self) -> Tensor:
        one, other = self._answers
        logits = self._net.output.logits[:, -1].float()
        return logits[:, one] - logits[:, other]

    def _run(self, prompt: Prompt) -> tuple[float, Float[Tensor, "site L tokens d"], Float[Tensor, "tokens d"]]:
        """The metric, what every site holds, and the embeddings."""
        net, found = self._net, []
        ids = self._ids(prompt)
        with torch.no_grad(), net.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            embedded = nnsight.save(net.model.embed_tokens.output[0].clone())
            for layer in net.model.layers:
                found.append([site[0].float().cpu() for site in _sites(layer)])
            metric = nnsight.save(self._metric())
        return metric.item(), torch.stack([torch.stack(site) for site in zip(*found, strict=True)]), embedded

    def _gradient(
        self, prompt: Prompt, points: Float[Tensor, "steps tokens d"], dropped: int | None = None
    ) -> Float[Tensor, "site L tokens d"]:
        """∂metric/∂a of every site, the mean over these embeddings of the prompt; none passes the layer `dropped`."""
        net, refs = self._net, []
        ids = self._ids(prompt, len(points))
        with net.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            net.model.embed_tokens.output = points.clone().requires_grad_(True)
            for i, layer in enumerate(net.model.layers):
                refs.extend(_cut(layer) if i == dropped else _sites(layer))
            gradients = torch.autograd.grad(self._metric().sum(), refs)
            found = nnsight.save([g.float().mean(0).cpu() for g in gradients])
        return torch.stack(found).unflatten(0, (-1, len(SITES))).transpose(0, 1)

    def _rows(
        self, ids: Tensor, places: Tensor, chosen: Iterable[int]
    ) -> tuple[Tensor, dict[int, list[Tensor]], dict[int, Tensor | None]]:
        """The metric of each row; what each row's site holds at its place, and what goes into the block, by layer."""
        net, held, before = self._net, {}, {}
        with torch.no_grad(), net.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            previous = None
            for i, layer in enumerate(net.model.layers):
                if i in chosen:
                    before[i] = previous
                    held[i] = [site[at, places] for at, site in zip(_at(places), _sites(layer), strict=True)]
                previous = layer.output
            metric = nnsight.save(self._metric())
        return metric.cpu(), held, before

    def _patched(
        self, ids: Tensor, layer: int, places: Tensor, patches: Sequence[Tensor], before: Tensor | None
    ) -> Tensor:
        """The metric of each row, patched at its own place; the layers below are skipped."""
        net = self._net
        rows = _at(places)
        with torch.no_grad(), net.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            for lower in net.model.layers[:layer]:
                lower.skip(before)
            block = net.model.layers[layer]
            block.self_attn.output[0][rows[1], places] = patches[1]
            block.mlp.output[rows[2], places] = patches[2]
            block.output[rows[0], places] = patches[0]
            metric = nnsight.save(self._metric())
        return metric.cpu()


def _at(places: Tensor) -> list[Tensor]:
    """The rows of each site: as many as there are places."""
    return list(torch.arange(len(SITES) * len(places)).chunk(len(SITES)))


def _sites(layer: Envoy) -> list[Tensor]:
    """What the sites of a block hold, read in the order in which they run and given in that of SITES."""
    attention, mlp = layer.self_attn.output[0], layer.mlp.output
    return [layer.output, attention, mlp]


def _cut(layer: Envoy) -> list[Tensor]:
    """The sites of a block whose attention and feed-forward outputs are leaves: gradients end there."""
    attention, *rest = layer.self_attn.output
    attention = attention.detach().requires_grad_(True)
    layer.self_attn.output = (attention, *rest)
    layer.mlp.output = mlp = layer.mlp.output.detach().requires_grad_(True)
    return [layer.output, attention, mlp]


class Maps(NamedTuple):
    """Patching of every pair in every member.

    `metrics`: a row a member and pair, with both prompts' logit(true) − logit(false). `effects[member, kind]`: a map a
    pair, with the tokens of a column added up. `examples[member, kind]`: of the first pair of a kind, its prompts and
    a map a method with every token. `agreement`: how each method agrees with exact patching there.
    """

    metrics: pd.DataFrame
    effects: dict[tuple[str, str], Float[Tensor, "pair site L column"]]
    columns: list[str]
    examples: dict[tuple[str, str], tuple[Aligned, dict[str, Float[Tensor, "site L token"]]]]
    agreement: pd.DataFrame

    @property
    def kinds(self) -> list[str]:
        """The kinds of pairs, in the file's order."""
        return list(dict.fromkeys(kind for _, kind in self.effects))


def study(
    family: Family,
    *,
    needed: Sequence[str],
    pairs: int,
    steps: int,
    layers: int,
    chat: bool,
    dtype: str,
    store: Store | None = None,
) -> Maps:
    """Integrated attribution of up to `pairs` of the family's prompt pairs of each kind; all `needed` must be there.

    Of the first pair of a kind also plain attribution and exact patching, this of so many layers. What the store
    holds is not measured again. Raises as `Prompts.read`, `prompt` and `answers` do.
    """
    given = Prompts.read(family.root / family.patching)
    given.check(needed, family.root / family.patching)
    options = dict(steps=steps, layers=layers)
    metrics, effects, examples, agreement, runs = [], {}, {}, [], []
    columns: list[str] = []
    about = dict(prompts=given.model_dump(), pairs=pairs, chat=chat, **options)
    for member in models.opened(family, dtype, "patching"):
        tokens = answers(member.tokenizer, given.answers, chat)
        record = member.record(store, "patching", __name__, **about)
        for kind in given.kinds:
            some = [pair for pair in given.pairs if pair.kind == kind][:pairs]
            aligned = [given.aligned(member.tokenizer, pair, chat) for pair in some]
            columns = list(dict.fromkeys(aligned[0].corrupt.columns))
            if kind not in record:
                record.add(kind, *_measured(Patcher(member.model, tokens), aligned, columns, **options))
            arrays = record.arrays(kind)
            effects[member.name, kind] = arrays.pop("effects")
            examples[member.name, kind] = aligned[0], {method: arrays[method] for method in METHODS}
            rows = record.pieces[kind]
            metrics += [dict(member=member.name, kind=kind, pair=i, **row) for i, row in enumerate(rows)]
            agreement += [dict(member=member.name, kind=kind, **row) for row in _agreement(arrays)]
        runs += record.runs
    table = pd.DataFrame(metrics)
    table.attrs["runs"] = runs
    return Maps(table, effects, columns, examples, pd.DataFrame(agreement))


def _measured(
    patcher: Patcher, pairs: Sequence[Aligned], columns: Sequence[str], steps: int, layers: int
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Metrics of each pair; maps of all pairs by column, and of the first pair by token and method."""
    found = [patcher.attribution(pair, steps) for pair in pairs]
    rows = [dict(clean=one.clean, corrupt=one.corrupt) for one in found]
    sums = torch.stack(
        [_by_column(one.effect, pair.corrupt.columns, columns) for one, pair in zip(found, pairs, strict=True)]
    )
    first = {"plain": patcher.attribution(pairs[0]), "integrated": found[0], "exact": patcher.exact(pairs[0], layers)}
    return rows, {"effects": sums} | {method: one.effect for method, one in first.items()}


def _by_column(
    effect: Float[Tensor, "site L token"], of_tokens: Sequence[str], columns: Sequence[str]
) -> Float[Tensor, "site L column"]:
    """Sums over the tokens of each column that have a partner."""
    member = torch.tensor([[name == column for column in columns] for name in of_tokens], dtype=effect.dtype)
    return effect.nan_to_num() @ member


def _agreement(maps: dict[str, Tensor]) -> list[dict[str, object]]:
    """Correlation over layers and tokens with exact patching, by method and site."""
    exact, rows = maps["exact"], []
    for method, (i, site) in itertools.product(METHODS[:-1], enumerate(SITES)):
        one, other = exact[i].flatten(), maps[method][i].flatten()
        known = ~one.isnan()
        one, other = one[known], other[known]
        if one.any() and other.any():  # identical prompts have no correlation
            values = [float(correlation(one.numpy(), other.numpy()).statistic) for correlation in (pearsonr, spearmanr)]
            rows.append(dict(method=method, site=site, pearson=values[0], spearman=values[1], places=len(one)))
    return rows


def knowledge(maps: Maps) -> pd.DataFrame:
    """How far the metric of the clean prompt lies above that of the corrupt one, by member and kind of pair.

    `difference` is the mean over pairs with its t interval, `above` the number of pairs with a higher clean metric.
    """
    rows = []
    for (member, kind), part in maps.metrics.groupby(["member", "kind"], sort=False):
        gap = (part.clean - part.corrupt).to_numpy()
        low, high = (float(end) for end in mean_interval(gap))
        row = dict(member=member, kind=kind, pairs=len(part), clean=part.clean.mean(), corrupt=part.corrupt.mean())
        rows.append(row | dict(difference=gap.mean(), low=low, high=high, above=int(np.sum(gap > 0))))
    return pd.DataFrame(rows)


def largest(maps: Maps, kind: str) -> dict[str, float]:
    """The largest |effect| of any method on pairs of a kind, by member."""
    found = {}
    for (member, k), effects in maps.effects.items():
        if k == kind:
            every = [effects, *maps.examples[member, k][1].values()]
            found[member] = max(one.nan_to_num().abs().max().item() for one in every)
    return found


def similarity(maps: Maps, pretrained: str, seed: int, draws: int = 1000) -> pd.DataFrame:
    """Correlation over layers and columns of each member's mean |effect| with the pretrained one's, by kind and site.

    Where patching matters is asked, so signs are left out, which differ from pair to pair. With a bootstrap interval
    over pairs, drawn alike for both (`low`, `high`); `halves`, the pretrained map's correlation between its even and
    odd pairs; and `null`, what 97.5 % of maps with shuffled layers and columns stay below. Kinds with fewer than four
    pairs, and maps that are zero, are left out.
    """
    rows = []
    for (member, kind), effects in maps.effects.items():
        own = maps.effects[pretrained, kind].abs().numpy()  # (pair, site, L, column)
        other, n = effects.abs().numpy(), len(effects)
        if n < 4 or not own.any() or not other.any():
            continue
        for i, site in enumerate(SITES):
            random = np.random.default_rng(seed)
            a, b = own[:, i].reshape(n, -1), other[:, i].reshape(n, -1)
            weights = random.multinomial(n, np.full(n, 1 / n), size=draws) / n  # (draw, pair)
            low, high = np.quantile(_correlations(weights @ a, weights @ b), [0.025, 0.975])
            shuffled = np.stack([_shuffled(other[:, i].mean(0), random).ravel() for _ in range(draws)])
            null = np.quantile(_correlations(np.broadcast_to(a.mean(0), shuffled.shape), shuffled), 0.975)
            halves = _correlations(a[::2].mean(0)[None], a[1::2].mean(0)[None])[0]
            whole = _correlations(a.mean(0)[None], b.mean(0)[None])[0]
            row = dict(member=member, kind=kind, site=site, correlation=whole, low=low, high=high)
            rows.append(row | dict(halves=halves, null=null))
    return pd.DataFrame(rows)


def _shuffled(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same rows and columns in another order."""
    return random.permutation(random.permutation(values, axis=0), axis=1)


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of a with that of b."""
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return np.sum(a * b, 1) / np.sqrt(np.sum(a**2, 1) * np.sum(b**2, 1))
