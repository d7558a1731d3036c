"""Attribution patching and exact activation patching of true and false statements (paper A.6, Fig. 7).

The paper describes the swap of activations and prints no formula; the first-order estimate is that of arXiv 2403.00745.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import nnsight
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from scipy.stats import pearsonr, spearmanr, t, ttest_1samp
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models, turned
from tuningvec.measures.prompts import Aligned, Prompt, Prompts, answers
from tuningvec.stats import holm, mean_interval
from tuningvec.store import Record, Store, joined
from tuningvec.verdict import Verdict, judge, unknown
from tuningvec.weights import cluster

SITES = ("residual", "attention", "mlp")  # output of a block, of its attention, of its feed-forward layer
METHODS = ("plain", "integrated", "exact")  # attribution at the corrupt prompt, averaged along the way, and patching
FEWEST = 4  # pairs of a kind: two in each half
COMPARED = ("agreement", "halves", "own", "corrected", "low", "high", "error", "null")  # columns of `similarity`
NOTHING = 1e-4  # of the largest effect: less is rounding


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

    def attribution(self, pair: Aligned, steps: int = 1) -> Effects:
        """First-order estimate (a_clean − a_corrupt) · ∂metric/∂a at the corrupt prompt (arXiv 2403.00745).

        With `steps` > 1 the gradient is the mean over as many points on the way from the corrupt prompt's embeddings to
        the clean one's (integrated gradients).
        """
        clean, at_clean, start = self._run(pair.clean)
        corrupt, at_corrupt, embedded = self._run(pair.corrupt)
        has = pair.places >= 0
        difference = torch.full_like(at_corrupt, float("nan"))
        difference[..., has, :] = at_clean[..., pair.places[has], :] - at_corrupt[..., has, :]
        towards = torch.zeros_like(embedded)
        towards[has] = start[pair.places[has]] - embedded[has]
        points = torch.stack([embedded + towards * (i / steps) for i in range(steps)])
        return Effects(clean, corrupt, torch.sum(difference * self._gradient(pair.corrupt, points), -1))

    def exact(self, pair: Aligned, layers: int | None = None) -> Effects:
        """The same by running the model once for each place; with so many layers alone, even over depth, else NaN.

        A token is a row of a batch. All batches have the same rows, patched or not, so that rounding is the same in
        all and a patch that changes nothing gives exactly 0.
        """
        clean, at_clean, _ = self._run(pair.clean)
        corrupt, _, _ = self._run(pair.corrupt)
        has = torch.nonzero(pair.places >= 0)[:, 0]
        chosen = _chosen(at_clean.shape[1], layers)
        ids, partners = self._ids(pair.corrupt, len(has)), pair.places[has]
        _, patches, _ = self._rows(self._ids(pair.clean, len(has)), partners, chosen)
        whole, _, before = self._rows(ids, has, chosen)
        effect = torch.full((*at_clean.shape[:2], len(pair.places)), float("nan"))
        for layer, site in itertools.product(chosen, range(len(SITES))):
            metric = self._patched(ids, layer, site, has, patches[layer][site], before[layer])
            effect[site, layer, has] = metric - whole
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

    def _gradient(self, prompt: Prompt, points: Float[Tensor, "steps tokens d"]) -> Float[Tensor, "site L tokens d"]:
        """∂metric/∂a of every site, the mean over these embeddings of the prompt."""
        net, refs = self._net, []
        ids = self._ids(prompt, len(points))
        with net.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            net.model.embed_tokens.output = points.clone().requires_grad_(True)
            for layer in net.model.layers:
                refs.extend(_sites(layer))
            gradients = torch.autograd.grad(self._metric().sum(), refs)
            found = nnsight.save([g.float().mean(0).cpu() for g in gradients])
        return torch.stack(found).unflatten(0, (-1, len(SITES))).transpose(0, 1)

    def _rows(
        self, ids: Tensor, places: Tensor, chosen: Iterable[int]
    ) -> tuple[Tensor, dict[int, list[Tensor]], dict[int, Tensor | None]]:
        """The metric of each row; what its sites hold at its place, and what goes into the block, by layer."""
        net, held, before, rows = self._net, {}, {}, torch.arange(len(places))
        with torch.no_grad(), net.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            previous = None
            for i, layer in enumerate(net.model.layers):
                if i in chosen:
                    before[i], held[i] = previous, [site[rows, places] for site in _sites(layer)]
                previous = layer.output
            metric = nnsight.save(self._metric())
        return metric.cpu(), held, before

    def _patched(
        self, ids: Tensor, layer: int, site: int, places: Tensor, patches: Tensor, before: Tensor | None
    ) -> Tensor:
        """The metric of each row, its site patched at its own place; the layers below are skipped."""
        net, rows = self._net, torch.arange(len(places))
        with torch.no_grad(), net.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            for lower in net.model.layers[:layer]:
                lower.skip(before)
            block = net.model.layers[layer]
            held = block.output if site == 0 else block.self_attn.output[0] if site == 1 else block.mlp.output
            held[rows, places] = patches
            metric = nnsight.save(self._metric())
        return metric.cpu()


def _sites(layer: Envoy) -> list[Tensor]:
    """What the sites of a block hold, read in the order in which they run and given in that of SITES."""
    attention, mlp = layer.self_attn.output[0], layer.mlp.output
    return [layer.output, attention, mlp]


def _chosen(depth: int, layers: int | None) -> list[int]:
    """So many layers, even over depth; all of them without a number."""
    return np.unique(np.linspace(0, depth - 1, min(layers or depth, depth)).round().astype(int)).tolist()


class Plan(NamedTuple):
    """How much is measured: up to `pairs` of each kind, in so many `steps`, exactly in so many `layers`.

    Without `layers` maps are of integrated attribution alone, which is all that `moves` needs of a turned T.
    `chat` gives the statement as a user's turn of the chat template, else it is plain text.
    """

    pairs: int
    steps: int
    layers: int | None
    chat: bool = False


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
    family: Family, plan: Plan, needed: Sequence[str] = (), dtype: str = "float32", store: Store | None = None
) -> Maps:
    """Integrated attribution of the family's prompt pairs; all kinds in `needed` must be there.

    Of the first pair of a kind also plain attribution and exact patching. What the store holds is not measured again.
    Raises as `Prompts.check`, `prompt` and `answers` do, and TuningVecError where a metric or an effect is no number.
    """
    given = _given(family, needed)
    metrics, effects, examples, agreement, runs = [], {}, {}, [], []
    columns: list[str] = []
    asked = [models.Opened(family, member.name, dtype) for member in family.studied]
    for one, record, pairs in _records(family, asked, given, given.kinds, plan, store, "patching"):
        for kind, aligned in pairs.items():
            columns = _columns(aligned)
            arrays = record.arrays(kind)
            effects[one.name, kind] = arrays.pop("effects")
            examples[one.name, kind] = aligned[0], {method: arrays[method] for method in METHODS}
            rows = pd.DataFrame(record.pieces[kind])
            metrics.append(rows.assign(member=one.name, kind=kind, pair=rows.index))
            agreement += [dict(member=one.name, kind=kind, **row) for row in _agreement(arrays)]
        runs += record.runs
    return Maps(joined(metrics, runs), effects, columns, examples, pd.DataFrame(agreement))


def _given(family: Family, needed: Sequence[str]) -> Prompts:
    given = Prompts.read(family.root / family.patching)
    given.check(needed, family.root / family.patching)
    return given


def _records(
    family: Family,
    asked: Sequence[models.Opened],
    given: Prompts,
    kinds: Sequence[str],
    plan: Plan,
    store: Store | None,
    desc: str,
) -> list[tuple[models.Opened, Record, dict[str, list[Aligned]]]]:
    """Each model, its record with a piece for each of these kinds, and their pairs as it reads them."""
    found: list[tuple[models.Opened, Record, dict[str, list[Aligned]]]] = []
    bar = tqdm(total=len(asked) * len(kinds), desc=desc)

    def due() -> Iterator[cluster.Piece]:
        for one in models.in_turn(asked):
            work = partial(_patched, one, answers(one.tokenizer, given.answers, plan.chat), plan)
            record, pairs = one.record(store, "patching", __name__, prompts=given.model_dump(), **plan._asdict()), {}
            found.append((one, record, pairs))
            for kind in kinds:
                some = [pair for pair in given.pairs if pair.kind == kind][: plan.pairs]
                pairs[kind] = [given.aligned(one.tokenizer, pair, plan.chat) for pair in some]
                names = [f"{family.file}: {one.name}: {kind} {pair.clean} against {pair.corrupt}" for pair in some]
                if kind in record:
                    bar.update()
                else:
                    yield _Kind(one.name, kind, record), work, (pairs[kind], names)

    for kind, measured in cluster.each(due()):
        kind.record.add(kind.kind, *measured)
        bar.update()
    bar.close()
    return found


class _Kind(NamedTuple):
    """Where the maps of a kind of pairs belong."""

    model: str
    kind: str
    record: Record

    def __str__(self) -> str:
        return f"{self.model}, pairs of {self.kind}"


def _columns(aligned: Sequence[Aligned]) -> list[str]:
    return list(dict.fromkeys(aligned[0].corrupt.columns))


def _patched(
    one: models.Opened, tokens: tuple[int, int], plan: Plan, given: tuple[list[Aligned], list[str]]
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    pairs, names = given
    return _measured(Patcher(one.model, tokens), pairs, names, _columns(pairs), plan)


def _measured(
    patcher: Patcher, pairs: Sequence[Aligned], names: Sequence[str], columns: Sequence[str], plan: Plan
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Metrics of each pair; maps of all pairs by column, and, with `layers`, of the first pair by token and method."""
    found = [
        _finite(patcher.attribution(pair, plan.steps), pair, name) for pair, name in zip(pairs, names, strict=True)
    ]
    rows = [dict(clean=one.clean, corrupt=one.corrupt) for one in found]
    sums = torch.stack([_by_column(one.effect, pair, columns) for one, pair in zip(found, pairs, strict=True)])
    if plan.layers is None:
        return rows, {"effects": sums}
    chosen = _chosen(sums.shape[2], plan.layers)
    plain = _finite(patcher.attribution(pairs[0]), pairs[0], names[0])
    exact = _finite(patcher.exact(pairs[0], plan.layers), pairs[0], names[0], chosen)
    return rows, {"effects": sums, "plain": plain.effect, "integrated": found[0].effect, "exact": exact.effect}


def _finite(found: Effects, pair: Aligned, name: str, layers: Sequence[int] | None = None) -> Effects:
    """The effects as they are; raises TuningVecError for a metric, or an effect where a token has a partner, of NaN."""
    patched = found.effect if layers is None else found.effect[:, layers]
    if not (np.isfinite([found.clean, found.corrupt]).all() and patched[..., pair.places >= 0].isfinite().all()):
        raise TuningVecError(
            f"{name}: logit(true) − logit(false), or an effect on it, is not finite; check this member's weights, "
            "and that its dtype is wide enough"
        )
    return found


def _by_column(
    effect: Float[Tensor, "site L token"], pair: Aligned, columns: Sequence[str]
) -> Float[Tensor, "site L column"]:
    """Sums over the tokens of each column that have a partner."""
    has = pair.places >= 0
    member = torch.tensor([[name == column for column in columns] for name in pair.corrupt.columns], dtype=effect.dtype)
    return effect[..., has] @ member[has]


def _agreement(maps: dict[str, Tensor]) -> list[dict[str, object]]:
    """Correlation over layers and tokens with exact patching, by method and site."""
    exact, rows = maps["exact"], []
    for method, (i, site) in itertools.product(METHODS[:-1], enumerate(SITES)):
        one, other = exact[i].flatten(), maps[method][i].flatten()
        known = ~one.isnan()  # where it was patched
        one, other = one[known], other[known]
        if all(len(x.unique()) > 1 for x in (one, other)):  # identical prompts have no correlation
            values = [float(correlation(one.numpy(), other.numpy()).statistic) for correlation in (pearsonr, spearmanr)]
            rows.append(dict(method=method, site=site, pearson=values[0], spearman=values[1], places=len(one)))
    return rows


def moves(
    family: Family,
    plan: Plan,
    maps: Maps,
    kinds: Sequence[str],
    *,
    draws: int,
    seed: int,
    dtype: str = "float32",
    store: Store | None = None,
) -> pd.DataFrame:
    """How far T moves the maps of θ_pre, and T turned at random (`models.turned`); a row a move, kind and site.

    Columns member, sides, draw, what (kind and site) and value: 1 − the correlation over layers and columns of the mean
    |effect| over pairs with that of θ_pre, in [0, 2]. `maps` are of `study` with the same plan. Raises as `study` and
    `models.turned` do.
    """
    given, pretrained = _given(family, kinds), family.pretrained.name
    drawn = models.turned(family, [member.name for member in family.studied[1:]], draws, seed, dtype)
    found = [
        (dict(member=member.name, sides=turned.NONE, draw=0), {kind: maps.effects[member.name, kind] for kind in kinds})
        for member in family.studied[1:]
    ]
    runs, asked = [], [model for _, model in drawn]
    records = _records(family, asked, given, kinds, plan._replace(layers=None), store, "turned T")
    for (about, _), (_, record, _) in zip(drawn, records, strict=True):
        found.append((about, {kind: record.arrays(kind)["effects"] for kind in kinds}))
        runs += record.runs
    rows = [
        about
        | dict(what=f"{kind}, {site}", value=1 - _alike(maps.effects[pretrained, kind][:, i], effects[kind][:, i]))
        for about, effects in found
        for kind, (i, site) in itertools.product(kinds, enumerate(SITES))
    ]
    return joined([pd.DataFrame(rows)], runs)


def _alike(one: Float[Tensor, "pair L column"], other: Float[Tensor, "pair L column"]) -> float:
    """Correlation of two maps of mean |effect|, without places where neither has any; NaN where a map is flat."""
    size = torch.maximum(one.abs(), other.abs()).amax(0)
    used = size > NOTHING * size.max()
    both = torch.stack([x.abs().double().mean(0)[used] for x in (one, other)])
    return float(torch.corrcoef(both)[0, 1]) if used.sum() > 1 else np.nan


def knowledge(maps: Maps) -> pd.DataFrame:
    """How far the metric of the clean prompt lies above that of the corrupt one, by member and kind of pair.

    `difference` is the mean over pairs in logits, with its t interval and the p value of none; `above` the number of
    pairs with a higher clean metric.
    """
    rows = []
    for (member, kind), part in maps.metrics.groupby(["member", "kind"], sort=False):
        gap = (part.clean - part.corrupt).to_numpy()
        low, high = (float(end) for end in mean_interval(gap))
        row = dict(member=member, kind=kind, pairs=len(part), clean=part.clean.mean(), corrupt=part.corrupt.mean())
        p = float(ttest_1samp(gap, 0).pvalue) if np.ptp(gap) else 1.0
        rows.append(row | dict(difference=gap.mean(), low=low, high=high, p=p, above=int(np.sum(gap > 0))))
    return pd.DataFrame(rows)


def largest(maps: Maps, kind: str) -> dict[str, float]:
    """The largest |effect| of any method on pairs of a kind, by member; NaN where an effect is."""
    found = {}
    for (member, k), effects in maps.effects.items():
        if k == kind:
            pair, methods = maps.examples[member, k]
            patched = [one[:, ~one.isnan().all(0).all(-1)][..., pair.places >= 0] for one in methods.values()]
            found[member] = float(np.max([one.abs().max() for one in (effects, *patched)]))
    return found


def similarity(maps: Maps, pretrained: str, seed: int, splits: int = 100, draws: int = 500) -> pd.DataFrame:
    """How each fine-tuned member's maps agree with the pretrained one's, by kind of pair and site.

    A map is the mean |effect| over pairs by layer and column: where patching matters is asked, and signs differ from
    pair to pair. `agreement` is the correlation of one member's map of half the pairs with the other's of the other
    half, the mean over random splits; `halves` and `own` are what the pretrained and the fine-tuned member's two halves
    agree, so that all three differ by the choice of pairs alike. `corrected` is the correction for attenuation
    agreement / √(halves · own) (Spearman 1904), with `own` at least `halves`: a member whose map changes more from pair
    to pair than the pretrained one's gets no credit for it. It is 1 for maps that differ by the choice of pairs alone.
    Its t interval is the jackknife's over pairs, left out of both alike (a bootstrap would put copies of a pair in both
    halves). `null` is what 97.5 % of maps with shuffled layers and columns stay below. Places where neither member has
    an effect are left out. `left_out` says why nothing could be compared, else it is empty.
    """
    rows = []
    for (member, kind), effects in maps.effects.items():
        for i, site in enumerate(SITES if member != pretrained else ()):
            one, other = (x[:, i].abs().double().numpy() for x in (maps.effects[pretrained, kind], effects))
            row = dict(member=member, kind=kind, site=site, pairs=len(one))
            rows.append(row | _compared(one, other, np.random.default_rng(seed), splits, draws))
    return pd.DataFrame(rows, columns=["member", "kind", "site", "pairs", *COMPARED, "left_out"])


def _compared(
    one: Float[np.ndarray, "pair L column"],
    other: Float[np.ndarray, "pair L column"],
    random: np.random.Generator,
    splits: int,
    draws: int,
) -> dict[str, object]:
    """The columns of `similarity` for one map of two members."""
    n, reached = len(one), np.maximum(one, other).max(0)
    if n < FEWEST:
        return dict(left_out=f"{n} pairs, of which halves need {FEWEST}")
    used = reached > NOTHING * reached.max()
    if not used.any() or not np.ptp(one.mean(0)[used]):
        return dict(left_out="no effect differs from another in the pretrained member")
    columns = used.any(0)
    one, other, used = one[..., columns], other[..., columns], used[:, columns]
    grams, whole = _grams(one[:, used], other[:, used]), _halves(n, splits, random)
    agreement, halves, own = _agreements(*grams, whole)
    rest, fewer = [np.delete(np.arange(n), i) for i in range(n)], _halves(n - 1, splits, random)
    without = [_corrected(*_agreements(*(gram[np.ix_(keep, keep)] for gram in grams), fewer)) for keep in rest]
    corrected = _corrected(agreement, halves, own)
    error = float(np.sqrt((n - 1) / n * np.sum((without - np.mean(without)) ** 2)))
    shuffled = [_grams(one[:, used], _shuffled(other, random)[:, used]) for _ in range(draws)]
    null = np.quantile([_agreements(*some, whole)[0] for some in shuffled], 0.975)
    half = t.ppf(0.975, n - 1) * error
    ends = corrected - half, corrected + half, error, _corrected(float(null), halves, own)
    return dict(zip(COMPARED, (agreement, halves, own, corrected, *ends), strict=True)) | dict(left_out="")


def _halves(n: int, splits: int, random: np.random.Generator) -> Float[np.ndarray, "split n"]:
    """1 for the pairs of the first half of each split, else 0."""
    return random.permuted(np.tile(np.where(np.arange(n) < n // 2, 1.0, 0.0), (splits, 1)), axis=1)


def _grams(one: Float[np.ndarray, "pair place"], other: Float[np.ndarray, "pair place"]) -> tuple[np.ndarray, ...]:
    """Products of the maps of all pairs, each less its mean: of one member, of the other, of one with the other."""
    one, other = (x - x.mean(1, keepdims=True) for x in (one, other))
    return one @ one.T, other @ other.T, one @ other.T


def _agreements(
    one: np.ndarray, other: np.ndarray, both: np.ndarray, first: Float[np.ndarray, "split n"]
) -> tuple[float, float, float]:
    """Correlations between halves, the means over splits: of both members, of one, of the other; 0 without effects."""
    second = 1 - first
    crosswise = [_correlation(both, *halves, one, other) for halves in ((first, second), (second, first))]
    return sum(crosswise) / 2, *(_correlation(gram, first, second, gram, gram) for gram in (one, other))


def _correlation(gram: np.ndarray, u: np.ndarray, v: np.ndarray, of_u: np.ndarray, of_v: np.ndarray) -> float:
    """Mean over splits of the correlation of the maps that u and v pick; 0 where one of them is the same everywhere."""
    inner, *sizes = (np.sum(a @ g * b, axis=1) for g, a, b in ((gram, u, v), (of_u, u, u), (of_v, v, v)))
    size = np.sqrt(sizes[0] * sizes[1])
    return float(np.divide(inner, size, out=np.zeros_like(size), where=size > 0).mean())


def _corrected(agreement: float, halves: float, own: float) -> float:
    """Agreement less what differences between pairs take from it; NaN where the pretrained member's halves disagree."""
    return agreement / (halves * max(own, halves)) ** 0.5 if halves > 0 else np.nan


def _shuffled(values: Float[np.ndarray, "pair L column"], random: np.random.Generator) -> np.ndarray:
    """The same layers and columns in another order, one for all pairs."""
    _, layers, columns = values.shape
    return values[:, random.permutation(layers)][..., random.permutation(columns)]


def same_regions(alike: pd.DataFrame, *, least: float = 0.1, level: float = 0.95) -> Verdict:
    """Whether members' maps are as alike as their own halves are, less than `least`, and more than shuffled ones."""
    floor = f"{1 - least:g}"
    rule = (
        "For each map: the correlation of the fine-tuned member's map of half the pairs with the pretrained one's of "
        "the other half, over that of two halves within the pretrained member (within both where the fine-tuned one's "
        f"agree more). For the claim: clearly above {floor} and above 97.5 % of shuffled maps; against it: clearly "
        f"below {floor}, a loss of {least:g} that would matter. Effect: this ratio less {floor}, {100 * level:g} % "
        "jackknife interval over pairs; Holm over maps"
    )
    known, rest = (alike[(alike.left_out == "") == measured] for measured in (True, False))
    left = "; ".join(dict.fromkeys(rest.kind + ": " + rest.left_out))
    margin, beyond = known.corrected - (1 - least), known.low > known.null
    p = 2 * t.sf((margin / known.error).abs(), known.pairs - 1)
    clear = holm(np.nan_to_num(p, nan=1.0)) <= 1 - level if len(known) else beyond
    lost, kept = clear & (margin < 0), clear & (margin > 0) & beyond
    numbers = dict(agreement=known.agreement, halves=known.halves, corrected=known.corrected, shuffled=known.null)
    numbers |= dict(maps=len(known), as_alike=int((known.agreement >= known.halves).sum()), left_out=left or "none")
    numbers |= dict(smallest=least, kept=int(kept.sum()), lost=int(lost.sum()), beyond=int(beyond.sum()))
    if margin.isna().all():
        return unknown(rule, left if known.empty else "in no map do the pretrained member's halves agree", **numbers)
    ends = {end: known[end] - (1 - least) for end in ("low", "high")}
    cases = known.drop(columns="left_out").assign(effect=margin, **ends, clear=lost | kept)
    falsified = True if lost.any() else False if kept.all() else None
    return judge(cases, rule, least=0, unit="of correlation", falsified=falsified, **numbers)


def as_turned_moves(compared: pd.DataFrame, least: float = 0.2) -> Verdict:
    """Whether T moves the maps as far as a turned T does; `compared` is of `turned.against_draws` of `moves`."""
    rule = (
        "1 − the correlation with the pretrained member's map, of the mean |effect| over the same pairs, is within "
        f"{least:.0%} of the mean of the draws, for every kind of pair and site, turned on the left and on both sides; "
        f"{turned.intervals(compared)}"
    )
    return turned.judged(compared, rule, least * compared["mean"], unit="of correlation", smallest=least)


def tells_truth(known: pd.DataFrame, named: str, wrong: str, *, least: float = 0.4, level: float = 0.95) -> Verdict:
    """Whether a wrong condition lowers the metric of every member by `least` logits; beside it, invented names."""
    rule = (
        "The metric of the right condition less that of a wrong one, mean over pairs of the same drugs, is above 0 by "
        f"{least:g} logits or more in every member: {least:g} multiplies the odds of true by {np.exp(least):.1f}. "
        f"{100 * level:g} % t interval over pairs, Holm over members. It can be decided only where the metric moves "
        "that far at all, if only by an invented name"
    )
    names, cases = (known[known.kind == kind].rename(columns={"difference": "effect"}) for kind in (named, wrong))
    numbers = dict(wrong=cases.effect, named=names.effect, members=len(cases), pairs=cases.pairs.max())
    numbers |= dict(smallest=least, wrong_above=int((cases.low > 0).sum()), named_above=int((names.low > 0).sum()))
    if cases.empty or cases.pairs.min() < FEWEST:
        return unknown(rule, f"fewer than {FEWEST} pairs of kind {wrong!r}", **numbers)
    cases = cases.assign(clear=holm(cases.p) <= 1 - level)
    found = judge(cases, rule, least=least, unit="logits", falsified=bool((cases.high < least).any()), **numbers)
    if found.kind == "null explains it" and not (names.effect.abs() >= least).any():
        why = f"no name moves the metric by {least:g} logits in any member"
        return replace(found, kind="cannot be known here", why=why, falsified=None)
    return found


def no_effect(found: Mapping[str, float]) -> Verdict:
    """The control: whether patching between identical prompts gives exactly 0 in every member."""
    cases = pd.DataFrame(dict(member=list(found), effect=list(found.values())))
    rule = "The largest |effect| of any method, layer, site and token is exactly 0 in every member"
    if cases.empty:
        return unknown(rule, "no pair of identical prompts")
    return Verdict("holds" if (cases.effect == 0).all() else "differs", rule, cases=cases)
