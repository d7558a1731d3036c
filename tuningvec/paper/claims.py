"""The paper's claims, what its own printed numbers say, and the verdict: one function a row of the audit's summary."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Literal, NamedTuple

import pandas as pd

from tuningvec import stats
from tuningvec.page import tables
from tuningvec.page.finding import VERDICTS, badge
from tuningvec.page.text import formatted
from tuningvec.paper import audit
from tuningvec.paper import printed as paper
from tuningvec.weights.components import SYMBOLS

Verdict = str


def span(values, digits):
    return formatted(values, f".{digits}f")


Basis = Literal["arithmetic", "inference", "not printed"]


class Claim(NamedTuple):
    claim: str
    says: str
    basis: Basis
    verdict: Verdict
    section: str


class Evidence(NamedTuple):
    """What several claims are judged by: confidence level, α of the corrected tests, and the compared rows."""

    level: float
    alpha: float
    comparisons: pd.DataFrame
    pooled: pd.DataFrame
    averages: pd.DataFrame


def gather(level: float, alpha: float, seed: int) -> Evidence:
    """Compare the rows of the paper's tables once for all claims; `seed` is the bootstrap's."""
    rows = audit.comparisons(level, alpha), audit.pooled(level, alpha), audit.average_differences(level, seed)
    return Evidence(level, alpha, *rows)


def judge(evidence: Evidence) -> list[Claim]:
    """Every claim with its verdict, in the order of the page's sections."""
    return [claim(evidence) for claim in CLAIMS]


def show(judged: Sequence[Claim], name: str, caption: str) -> None:
    """Display the summary; the front page tells how many verdicts there are of each kind."""
    rows = [
        {
            "claim": c.claim,
            "verdict": badge(c.verdict),
            "the paper's own numbers": c.says,
            "where": f"{{ref}}`sec-audit-{c.section}`, {c.basis}",
        }
        for c in judged
    ]
    counted = Counter(c.verdict for c in judged)
    tables.show(pd.DataFrame(rows), name, caption, metadata={VERDICTS: json.dumps(counted)})


def squared_norms(_: Evidence) -> Claim:
    cells = audit.energies()
    sound = cells[~cells.misprint]
    squared, norms = ((sound[reading] - sound.SSA).abs().max() for reading in ("squared", "norms"))
    return Claim(
        r"SSA, $E_\parallel$ and $E_\perp$ are made of norms (§4, Tables 4–6)",
        rf"In {len(sound)} of {len(cells)} cells Table 4 is $E_\parallel/(E_\parallel+E_\perp)$ within {squared:.3f}, "
        f"as it is for squared norms. Read as norms, the tables are up to {norms:.2f} apart.",
        "arithmetic",
        "differs" if squared < norms else "holds",
        "energy",
    )


def misprints(_: Evidence) -> Claim:
    wrong = audit.energies().query("misprint")
    each = _list(
        f"{c.vector} {SYMBOLS[c.kind]} {c.E_perp:,.0f} where {c.implied:,.0f} would fit" for c in wrong.itertuples()
    )
    return Claim(
        "Table 6 as printed",
        f"{len(wrong)} cells contradict Tables 4 and 5: {each}." if len(wrong) else "It agrees with Tables 4 and 5.",
        "arithmetic",
        "differs" if len(wrong) else "holds",
        "energy",
    )


def least_aligned(_: Evidence) -> Claim:
    cells = audit.shape_bound()
    explained = audit.variance_explained(cells).set_index("vector").loc["all", "unfitted"]
    tall = cells[cells.bound < 1]
    above = [
        f"{vector} {' and '.join(SYMBOLS[kind] for kind in part.kind)}"
        for vector, part in tall[tall.clear].groupby("vector", sort=False)
    ]
    return Claim(
        "Gate and up get new directions, since their SSA is lowest (§4, Table 4)",
        "There the null is at most $d_{in}/d_{out}$. This bound alone, with nothing fitted, accounts for "
        f"{explained:.0%} of the variance of Table 4. {tall.clear.sum()} of {len(tall)} cells are clearly above it "
        f"({_list(above)}): old directions more than chance, not new ones.",
        "inference",
        "null explains it" if explained >= 0.5 else "differs",
        "shape",
    )


def attention_better_aligned(_: Evidence) -> Claim:
    parts = audit.by_part()
    down = SYMBOLS["W_down"]
    return Claim(
        "Attention is better aligned than the MLP (§4, Table 4)",
        f"On average, {span(parts.attention, 2)} against {span(parts.MLP, 2)}. Not so matrix by matrix: gate and up "
        f"have {span(parts.gate_up, 2)}, {down} {span(parts.W_down, 3)}, above attention in "
        f"{(parts.W_down > parts.attention).sum()} of {len(parts)} vectors.",
        "arithmetic",
        "holds" if (parts.attention > parts.MLP).all() else "differs",
        "shape",
    )


def near_cosines(_: Evidence) -> Claim:
    table = audit.cosines()
    return Claim(
        "High cosines mean that a small part of the representation space changes (§2, Table 15)",
        rf"Cosines of {span(table.cosine, 4)} are turns by {span(table.angle, 1)} degrees and a "
        rf"$\lVert T\rVert/\lVert\theta_{{pre}}\rVert$ of {span(pd.concat([table.r_low, table.r_high]), 3)}. Any $T$ "
        "that short gives them, in few directions or in all.",
        "arithmetic",
        "null explains it" if table.cosine.min() > 0.99 else "differs",
        "length",
    )


def small_moves(_: Evidence) -> Claim:
    table = audit.lengths()
    long = table[table.r_low > 0.5]
    each = _list(f"{v.vector} {v.r:.2f} ({v.r_low:.2f} to {v.r_high:.2f})" for v in long.itertuples())
    return Claim(
        "Fine-tuning makes only marginal changes (§2)",
        rf"True of Table 15. With Tables 5 and 6, $\lVert T\rVert/\lVert\theta_{{pre}}\rVert$ is {each}: as long as "
        f"the model itself, where two unrelated models of one norm have {2**0.5:.2f}. ({span(long.r_summed, 2)} if "
        "those energies were summed over layers.)"
        if len(long)
        else r"True of Table 15, and no $T$ of Tables 5 and 6 is longer than half of $\theta_{pre}$.",
        "inference",
        "differs" if len(long) else "holds",
        "length",
    )


def low_energy(_: Evidence) -> Claim:
    energy = audit.lengths().set_index("vector").energy
    ratio = energy[["Q Code", "Q Math"]] / energy["Aloe β"]
    return Claim(
        "Within Qwen the medical vector has much less energy than code and maths (§4)",
        f"{span(ratio, 0)} times less squared norm, {span(ratio**0.5, 0)} times less norm.",
        "arithmetic",
        "holds" if ratio.min() > 1 else "differs",
        "length",
    )


def orthogonal_domains(_: Evidence) -> Claim:
    row = audit.orthogonality().iloc[-1]
    return Claim(
        "Medical vectors are completely orthogonal to maths and code (§3.1, Fig. 3)",
        "The figure's numbers are not in the text. Chance alone has a standard deviation of "
        f"{tables.number(row.naive, 2)}, so a cosine that rounds to 0.00 may still be {row.ratio:.0f} of them "
        "away from 0.",
        "not printed",
        "cannot be known",
        "length",
    )


def fall_without_T(_: Evidence) -> Claim:
    without = audit.same_weights().query("table == '1' and column == 'Average'").set_index("family")
    tuned = paper.by_member(paper.negation_accuracy()).query("column == 'Average'")
    tuned = tuned[~tuned.member.str.startswith(audit.WITHOUT)].set_index("family").value
    share = (without.value_pre - without.value) / (tuned - without.value)
    most = share.idxmax()
    each = _list(f"{v.value:.2f} and {v.value_pre:.2f} ({v.Index})" for v in without.itertuples())
    return Claim(
        "Without $T$ accuracy falls, and that is the effect of $T$ (§3.1, Table 1)",
        rf"$\theta_{{ft}} - T$ is $\theta_{{pre}}$: its row in Table 1 and that of the pretrained model in Table 7 "
        f"have the same weights. They average {each}. For {most} {share[most]:.0%} of the fall lies between these two, "
        "so prompting or scoring made it.",
        "arithmetic",
        "differs" if share[most] > 0.5 else "holds",
        "negation",
    )


def mediphi_unharmed(evidence: Evidence) -> Claim:
    rows = audit.same_weights().query("table == '3' and family == 'Phi-3.5'")
    worst = rows.loc[rows["items"].abs().idxmax()]
    return Claim(
        "Without $T$ MediPhi follows instructions as before (§3.1, Table 3)",
        f"That row is Phi-3.5-Instruct. {worst.column}: {worst.value:.2f}% in Table 3, {worst.value_pre:.2f}% in Table "
        f"9, {abs(worst['items'])} of {worst.n:,} outputs apart with the same weights.",
        "arithmetic",
        "differs" if stats.paired_p_bounds(worst.right, worst.right_pre, worst.n).high <= evidence.alpha else "holds",
        "negation",
    )


def knowledge(evidence: Evidence) -> Claim:
    table = audit.below_chance(evidence.level, evidence.alpha)
    low = table[table.below]
    each = _list(f"{v.member} {v.right} of {v.n:,} ({v.share:.1%})" for v in low.itertuples())
    return Claim(
        "Low scores without $T$, or out of domain, are lost ability (§3.1, A.9; Tables 1, 13)",
        f"On the benchmarks with four options {each} are right: fewer than by guessing. An output without a valid "
        "answer counts as wrong, so these rows measure the form of the answers first."
        if len(low)
        else "No row is below guessing on the benchmarks with four options.",
        "inference",
        "cannot be known" if len(low) else "holds",
        "negation",
    )


def counts_of_items(_: Evidence) -> Claim:
    table = audit.sizes().query("digits == 'rounded'")
    least = table.n.min()
    return Claim(
        "Accuracy is right answers over questions (A.3; Tables 1, 7, 13, 14)",
        f"In {table.fits.sum()} of {len(table)} benchmarks every value is a count of that benchmark's split or of 500. "
        f"The smallest has {least} items, of which one is {100 / least:.1f} points.",
        "arithmetic",
        "holds" if table.fits.all() else "differs",
        "sizes",
    )


def ten_data_sets(_: Evidence) -> Claim:
    outputs = audit.sizes().set_index("benchmark").loc[audit.CUT_OFF_TABLES]
    n = paper.accuracy().drop_duplicates("column").set_index("column").n.dropna()
    said = paper.text().set_index(["row", "column"]).value["benchmarks", "instruction following"]
    fits = outputs.fitting == 1 and outputs.smallest == n.sum()
    without = [name for name in n.index if outputs.fitting == 1 and n.sum() - n[name] == outputs.smallest]
    return Claim(
        f"Instruction following is measured on {said:.0f} data sets (§3.1, A.3; Tables 3, 9)",
        (
            f"Of all numbers of outputs up to {audit.LARGEST_N:,} one gives every printed value, {outputs.smallest:,}"
            if outputs.fitting == 1
            else f"{outputs.fitting} numbers of outputs up to {audit.LARGEST_N:,} give every printed value"
        )
        + (f": all items but those of {_list(without, 'or')}" if without else "")
        + f". The {len(n)} have {n.sum():,}.",
        "arithmetic",
        "holds" if fits else "differs",
        "sizes",
    )


def printed_averages(_: Evidence) -> Claim:
    table = audit.averages()
    wrong = table[~table.agrees]
    each = _list(f"{v.row}, {v.printed:g} for {v.mean:.3f}" for v in wrong.drop_duplicates("row").itertuples())
    return Claim(
        "The averages are those of their rows (Tables 1, 2, 7, 8, 13, 14)",
        f"{len(table) - len(wrong)} of {len(table)} are the plain mean" + (f". Not so {each}." if len(wrong) else "."),
        "arithmetic",
        "differs" if len(wrong) else "holds",
        "sizes",
    )


def ranks_by_average(_: Evidence) -> Claim:
    table = paper.by_member(audit.averages().dropna(subset="weighted"))
    turned = [
        f"{a.member} over {b.member} ({_signed(a.mean - b.mean)} points plain, "
        f"{_signed(a.weighted - b.weighted)} weighted)"
        for _key, part in table.groupby(["table", "family"], sort=False)
        for a, b in permutations(part.itertuples(), 2)
        if a.mean > b.mean and a.weighted < b.weighted
    ]
    return Claim(
        "The average ranks the models of a family (Tables 1, 7, 13, 14)",
        "A plain mean gives benchmarks of very different sizes one weight. Weighted by items the order "
        + (f"turns round for {_list(turned)}." if turned else "stays."),
        "arithmetic",
        "differs" if turned else "holds",
        "sizes",
    )


def compared_cells(evidence: Evidence) -> Claim:
    outcome = evidence.comparisons.outcome
    survive, depends, chance = ((outcome == name).sum() for name in audit.OUTCOMES)
    return Claim(
        "Bold and shaded cells are differences between models (Tables 1, 3, 7, 9, 13, 14)",
        f"Of {len(outcome)} pairs of cells {survive} differ whatever the pairing of items, {depends} may or may not, "
        f"{chance} are within chance.",
        "inference",
        _majority(outcome),
        "differences",
    )


def medical_accuracy(evidence: Evidence) -> Claim:
    cells, pooled, averages = (
        _against_pretrained(rows[rows.table == "7"])
        for rows in (evidence.comparisons, evidence.pooled, evidence.averages)
    )
    clear = pooled[(pooled.points > 0) & (pooled.outcome == audit.OUTCOMES[0])]
    return Claim(
        "Fine-tuning improves medical accuracy (§3, A.3; Table 7)",
        f"{_ways(cells, 'after fine-tuning')} With all items together accuracy moves by {span(pooled.points, 1)} "
        f"points, for {len(clear)} of {len(pooled)} models surely upward ({_list(clear['first'])}); the average over "
        f"benchmarks moves by {span(averages.points, 1)}, above 0 with its interval over items for "
        f"{(averages.items_low > 0).sum()}.",
        "inference",
        _majority(pooled.outcome.where(pooled.points > 0, audit.OUTCOMES[2])),
        "differences",
    )


def instructions_without_T(evidence: Evidence) -> Claim:
    cells = evidence.comparisons.query("table == '3'")
    return _instructions(cells, "Without $T$ models follow instructions worse (§3.1, Table 3)", "with $T$")


def instructions_of_fine_tuned(evidence: Evidence) -> Claim:
    cells = _against_pretrained(evidence.comparisons.query("table == '9'"))
    return _instructions(cells, "Fine-tuned models follow instructions better (A.3, Table 9)", "after fine-tuning")


def _instructions(cells: pd.DataFrame, claim: str, when: str) -> Claim:
    against = cells[(cells.outcome == audit.OUTCOMES[0]) & (cells["items"] < 0)]
    each = _list(f"{c.first} {c.column} {_signed(c.points)} points" for c in against.itertuples())
    says = _ways(cells, when) + (f" Lower: {each}." if each else "")
    return Claim(claim, says, "inference", "differs" if len(against) else "holds", "differences")


def rouge_gains(evidence: Evidence) -> Claim:
    table = _against_pretrained(evidence.averages.query("table == '8'"))
    clear = (table.both_low > 0).sum()
    return Claim(
        "Fine-tuning improves generation (A.3, Table 8)",
        f"ROUGE-1 moves by {span(table.points, 1)} points; drawn over its sets, the interval is above 0 for "
        f"{clear} of {len(table)} models. Scores by item are not printed, so their noise is unknown.",
        "inference",
        "holds" if clear == len(table) else "cannot be known",
        "differences",
    )


def text_percentages(_: Evidence) -> Claim:
    table = audit.percentages()
    wrong, borne = table[table.agrees == ""], table[table.agrees == "as_printed"]
    not_found = _list(
        f"{v.text:.0f}% ({v.number}, {v.of}), where Table {v.table} gives {v.relative:.0f}% or {v.points:.0f} points"
        for v in wrong.itertuples()
    )
    from_print = _list(f"{v.text:.0f}% ({v.number}, {v.of})" for v in borne.itertuples())
    return Claim(
        "The percentages of the text are those of the tables (§3.1)",
        f"{len(table) - len(wrong)} of {len(table)} are."
        + (f" Not {not_found}." if not_found else "")
        + (f" Only from averages as printed, one of which is wrong: {from_print}." if from_print else ""),
        "arithmetic",
        "differs" if len(wrong) else "holds",
        "text",
    )


def ablation_percentages(_: Evidence) -> Claim:
    falls = paper.text().query("row == 'ablation: fall of performance'").value
    cells = paper.by_member(paper.accuracy()).query("family != 'Phi-3.5' and column not in ['Average', 'BioRED']")
    guess = 100 - 100 * 100 * audit.CHANCE / cells.groupby("row").value.mean()
    return Claim(
        f"Ablation lowers performance by {_list(f'{v:g}' for v in falls)}% (§2, A.2; Fig. 5)",
        "The heat map's cells are not in the text. For scale: answers by guessing among four options would be a fall "
        f"of {span(guess, 0)}% on these benchmarks; a larger one means outputs without a valid answer.",
        "not printed",
        "cannot be known",
        "text",
    )


def addition_gains(_: Evidence) -> Claim:
    row = paper.text().query("row == 'addition: better than the specialist'").iloc[0]
    table = audit.lengths().set_index("vector")
    ratio, summed = ((table[r]["Q Math"] / table.r["Aloe β"]) for r in ("r", "r_summed"))
    return Claim(
        f"Adding vectors improves {row.value:.0f} of {row.n} maths benchmarks (§3.1; Figs. 4, 6)",
        "The figures' values are not in the text. By Tables 5 and 6 the maths vector is "
        f"{ratio:.0f} times as long as the medical one ({summed:.0f} if its energies were summed over layers): the sum "
        "is nearly the maths model.",
        "not printed",
        "cannot be known",
        "text",
    )


def figures_without_numbers(_: Evidence) -> Claim:
    return Claim(
        "Activation by layer, edit distance, activation patching (§2, A.6; Figs. 1, 2, 7)",
        "Curves and heat maps alone, nothing to recompute.",
        "not printed",
        "cannot be known",
        "text",
    )


def worked_example(_: Evidence) -> Claim:
    row = paper.text().query("row == 'prompt: worked examples'").iloc[0]
    points = 100 * row.value / row.n
    return Claim(
        "The prompt's worked example is not among the test items (A.5)",
        f"{row.value:.0f} of the {row.n} items of MMLU college medicine is that example, whose answer the prompt "
        f"gives: {points:.1f} points of that column."
        if row.value
        else "It is not.",
        "arithmetic",
        "differs" if row.value else "holds",
        "examples",
    )


def outputs_to_the_same_input(_: Evidence) -> Claim:
    pairs = audit.output_pairs()
    other = pairs[~pairs.same]
    each = _list(f"{v.member} {v.example}" for v in other.itertuples())
    return Claim(
        "Tables 10 to 12 show outputs to one input with $T$ and without (A.5)",
        f"{len(other)} of {len(pairs)} pairs are about different things" + (f": {each}." if each else "."),
        "inference",
        "differs" if len(other) else "holds",
        "examples",
    )


def always_valid(_: Evidence) -> Claim:
    cells = paper.by_member(paper.negation_instructions()).set_index(["member", "column"])
    valid = cells.value["Aloe-Beta", "Valid"]
    shown = paper.outputs_of_aloe_beta().set_index("column").value["with T: valid answer"]
    return Claim(
        "Every output of Aloe-Beta has a valid answer (Tables 3, 9)",
        f"{valid:.2f}% are printed as valid. The example of Table 11 "
        + ("has the form that the prompt asks for." if shown else "lacks the brackets that the prompt asks for: ")
        + ("" if shown else "the check is lenient, or the example was edited."),
        "arithmetic",
        "differs" if valid == 100 and not shown else "holds",
        "examples",
    )


CLAIMS: tuple[Callable[[Evidence], Claim], ...] = (
    squared_norms, misprints, least_aligned, attention_better_aligned, near_cosines, small_moves, low_energy,
    orthogonal_domains, fall_without_T, mediphi_unharmed, knowledge, counts_of_items, ten_data_sets,
    printed_averages, ranks_by_average, compared_cells, medical_accuracy, instructions_without_T,
    instructions_of_fine_tuned, rouge_gains, text_percentages, ablation_percentages, addition_gains,
    figures_without_numbers, worked_example, outputs_to_the_same_input, always_valid,
)  # fmt: skip


def _against_pretrained(rows: pd.DataFrame) -> pd.DataFrame:
    """The comparisons whose second row is the pretrained model: those that the paper shades."""
    first = paper.by_member(paper.accuracy()).groupby("family").member.first()
    return rows[rows.second == rows.family.map(first)]


def _majority(outcome: pd.Series) -> Verdict:
    """What more than half of the outcomes are; the doubtful ones count with either side."""
    survive, depends, _chance = ((outcome == name).mean() for name in audit.OUTCOMES)
    if survive > 0.5:
        return "holds"
    return "cannot be known" if survive + depends > 0.5 else "within chance"


def _ways(cells: pd.DataFrame, when: str) -> str:
    """How many cells go which way and survive."""
    total = audit.survivors(cells).sum(numeric_only=True)
    survive = total.higher_survive + total.lower_survive
    return (
        f"Of {total.cells} cells {total.higher} are higher {when}, {total.equal} equal, {total.lower} lower; {survive} "
        f"differ whatever the pairing of items ({total.higher_survive} higher, {total.lower_survive} lower), for "
        f"{total.depends} it depends on the pairing."
    )


def _list(parts: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; semicolons where the parts hold commas."""
    words = list(parts)
    if any("," in word or " and " in word for word in words):
        return "; ".join(words)
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")
