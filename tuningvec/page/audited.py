"""The lines of the audit: each claim of the paper with what the paper's own numbers say of it, by section."""

from dataclasses import dataclass
from functools import cached_property

from tuningvec.page.finding import Row
from tuningvec.page.text import each
from tuningvec.paper import audit, claims, closed, published
from tuningvec.paper import printed as paper
from tuningvec.verdict import Verdict


@dataclass(frozen=True)
class Audit:
    """What the lines are computed from, each thing once: `level` is that of intervals, `alpha` that of corrected tests,
    `seed` that of the bootstrap."""

    level: float
    alpha: float
    seed: int

    @cached_property
    def closed(self) -> dict[str, Verdict]:
        """The verdicts that follow from Tables 4, 5, 6 and 15 in closed form."""
        return closed.verdicts()

    @cached_property
    def evidence(self) -> claims.Evidence:
        """Every pair of rows that is compared."""
        return claims.gather(self.level, self.alpha, self.seed)

    def rows(self, *sections: str) -> list[Row]:
        """The lines of these sections, or of all."""
        return [row for name in sections or SECTIONS for row in SECTIONS[name](self)]

    def closed_rows(self) -> dict[str, Row]:
        """The lines with a verdict in closed form, by its judge."""
        rows = self.rows("energy", "shape", "length")
        return {name: row for name, verdict in self.closed.items() for row in rows if row.verdict is verdict}


def _energy(found: Audit) -> list[Row]:
    return [
        Row(
            r"SSA, $E_\parallel$ and $E_\perp$ are made of norms (§4, Tables 4–6)",
            "Of {cells} cells, Table 4 fits Tables 5 and 6 in {squared} if those hold squared norms, in {norms} if norms.",
            found.closed["squared_norms"],
            "energy",
            "arithmetic",
        ),
        Row(
            f"Table 6 is what Tables 4 and 5 give, within a factor of {audit.MISPRINT}",
            "{agree} of {total} cells are.",
            found.closed["misprints"],
            "energy",
            "inference",
            more="The others, as printed for what would fit: {wrong}. Each is a misprint, or its layers are very uneven.",
        ),
    ]


def _shape(found: Audit) -> list[Row]:
    return [
        Row(
            r"$W_\text{gate}$ and $W_\text{up}$ avoid the directions of $W$ more than chance (§4, Table 4)",
            "SSA is above the most that chance can give in {clear} of {cells} cells, and no other cell can be told from chance.",
            found.closed["least_aligned"],
            "shape",
            "inference",
            of=r"$W_\text{gate}$ and $W_\text{up}$ get more new directions than the other "
            "matrices do on average",
            more="By how many standard deviations, of a mean over layers (of one layer): {above}. Whether gate and up get "
            "more new directions than other matrices, relative to chance, cannot be known from printed numbers, since $k$ "
            "is not printed: the pages of §4 measure that. The bound alone has an $R^2$ of {unfitted:.2f} over all of Table 4 "
            "({by_vector:.2f} by vector), the mere split into gate and up and the rest {factor:.2f}; within gate and up "
            "the bound has {tall:.2f}.",
        ),
        Row(
            "The excess of code and maths in gate and up is a multiple of $W$",
            "By others' measurements on neighbouring models, that explains {part:.0%} of the excess at most.",
            found.closed["is_minus_W"],
            "shape",
            "inference",
            each="{vector} {kind} {predicted:.2f}, the rest {effect:.2f} of the room above",
            claimed=False,
            more="They found {share:.0%} of the energy of $T$ along $-W$. SSA with that share, and what is left above it: "
            "{each}.",
        ),
        Row(
            "Attention is better aligned than the MLP, so more new directions are in the MLP (§4, Table 4)",
            "Mean SSA is {gap:.2f} higher in attention; the matrices' shapes alone can give up to {shape:.2f}.",
            found.closed["attention_better_aligned"],
            "shape",
            "inference",
            of="Attention is better aligned than the MLP, which gets more new directions",
            more="It is {attention:.2f} in attention, {MLP:.2f} in the MLP: {gate_up:.2f} in gate and up, {W_down:.3f} in "
            "$W_\\text{down}$, which is above attention in {above} of {vectors} vectors. A random $T$ differs as much as the "
            "paper's where $k$ is {rank_share:.0%} of the full rank.",
        ),
    ]


def _length(found: Audit) -> list[Row]:
    return [
        Row(
            "High cosines mean that a small part of the representation space changes (§2, Table 15)",
            "Cosines of {cosine:.4f} tell how far weights turn, by {angle:.1f} degrees, and not in how many directions.",
            found.closed["near_cosines"],
            "length",
            "inference",
            of="Fine-tuning leaves the weights nearly parallel to the pretrained ones",
            more=r"If $T$ is orthogonal to $\theta_\text{pre}$, its length is {r:.3f} of that of $\theta_\text{pre}$.",
        ),
        Row(
            "Fine-tuning makes only marginal changes (§2, Table 15)",
            "If orthogonal to the pretrained weights, the changes are {r:.3f} of their length.",
            found.closed["marginal_changes"],
            "length",
            "inference",
            each="{pretrained} {member} {r:.3f} ({low:.3f} to {high:.3f})",
            of="What fine-tuning changes is marginal (§2)",
            more=r"$\lVert T\rVert/\lVert\theta_\text{pre}\rVert$ is {each}.",
        ),
        Row(
            "The vectors of code and maths are marginal, too (§4, Tables 5, 6)",
            "Theirs are {r:.2f} of that length, {summed:.2f} if the printed energies were sums over layers.",
            found.closed["marginal_changes_elsewhere"],
            "length",
            "inference",
            each="{vector} {r:.2f} ({r_low:.2f} to {r_high:.2f})",
            claimed=False,
            more="{each}. §2 has neither model: both went through further pretraining before they were fine-tuned.",
        ),
        Row(
            "Within Qwen the medical vector has much less energy than code and maths (§4)",
            "Theirs have {ratio:,.0f} times as much squared norm, {root:.0f} times as much norm.",
            found.closed["low_energy"],
            "length",
            "inference",
            of="Medical vectors have less energy than those of code and maths",
            more="By the cells as printed, misprints and all, the squared norm is {as_printed:,.0f} times as much.",
        ),
        Row(
            "Medical vectors are completely orthogonal to maths and code (§3.1, Fig. 3)",
            "A heat map alone.",
            claims.figure_alone(),
            "length",
            "not printed",
            of="Vectors of medicine are orthogonal to those of maths and code",
        ),
    ]


LOST = (
    "{family} {tuned:.1f}, {pretrained:.1f}, {without:.1f}, {rest_points:.1f} ({rest_low:.1f}, {rest_high:.1f}, uncorrected), "
    "{prompt_share:.0%} of the fall, {share_of_averages:.0%} in the mean over benchmarks"
)


def _negation(found: Audit) -> list[Row]:
    fall = audit.parts_of_the_fall(found.level)
    chance = audit.below_chance(found.level, found.alpha)
    return [
        Row(
            "Without $T$ accuracy falls, and that is the effect of $T$ (§3.1, Table 1)",
            "Where the fall is clear, {share:.0%} of it lies between two evaluations of the same weights.",
            claims.fall_is_of_T(fall, found.level, found.alpha),
            "negation",
            "inference",
            each="{family} {what} {effect:+.1f} ({low:.1f}, {high:.1f})",
            of="Removing the tuning vector lowers the scores",
            more="With $T$, pretrained and without, % of {n:,} items, and what prompting or scoring lost in points: "
            + each(fall, LOST)
            + ". {each}.",
        ),
        Row(
            "Two evaluations of the pretrained weights give the same (Tables 1, 3 against 7, 9)",
            "They differ by {points:.1f} points; furthest apart is {where}, by at least {apart:,} of {n:,} outputs.",
            claims.evaluations_agree(audit.same_weights(), found.level),
            "negation",
            "inference",
            each="{family} {what} {effect:+.1f}",
            claimed=False,
            more="By points: {each}.",
        ),
        Row(
            "Without $T$ MediPhi follows instructions no worse (§3.1, Table 3)",
            "The change without $T$ is {change:+.2f} points, by instruction.",
            claims.unharmed_without_T(found.evidence.comparisons),
            "negation",
            "inference",
            each="{column} {effect:+.2f} ({low:.1f}, {high:.1f})",
            of="Removing the tuning vector lowers instruction following",
            more="{each}.",
        ),
        Row(
            "Scores without $T$, or out of domain, are low, and not for the form of answers (§3.1, A.9; Tables 1, 13)",
            "They are {lower:.0f} points lower; {count} of {total} have fewer right than by guessing, which a wrong form alone "
            "can do.",
            claims.lost_ability(chance, found.level, found.alpha),
            "negation",
            "inference",
            each="{member} by {lower:.1f} than {better}",
            claimed=False,
            more="Lower, in points: {each}. Fewer right than by guessing: {below}.",
        ),
    ]


def _sizes(found: Audit) -> list[Row]:
    sizes = audit.sizes()
    return [
        Row(
            "Accuracy is right answers over questions (A.3; Tables 1, 7, 13, 14)",
            "In {agree} of {total} benchmarks every value is a count of items.",
            claims.counts_of_items(sizes),
            "sizes",
            "inference",
            more="The smallest has {least} items, of which one is {point:.1f} points.",
        ),
        Row(
            "Instruction following is measured on ten data sets (§3.1, A.3; Tables 3, 9)",
            "The printed values are shares of {smallest:,} outputs; the {sets} data sets have {items:,} items.",
            claims.ten_data_sets(sizes),
            "sizes",
            "inference",
            more="Numbers of outputs that give every printed value: {fitting}; with rounded digits: {rounded}. That number is "
            "all items but those of one of these: {left_out}.",
        ),
        Row(
            "The averages are those of their rows (Tables 1, 2, 7, 8, 13, 14)",
            "{agree} of {total} are, within the digits of their cells.",
            claims.printed_averages(audit.averages()),
            "sizes",
            "arithmetic",
            more="{equal} are the mean of the cells as printed. Not a mean: {wrong}.",
        ),
        Row(
            "The average ranks the models of a family (Tables 1, 7, 13, 14)",
            "Weighted by their items, {turns} of {pairs} pairs turn round; the rest of the doubt is chance.",
            claims.ranks_by_average(found.evidence),
            "sizes",
            "inference",
            more="With benchmarks weighted by their items the order turns round for: {turned}.",
        ),
    ]


def _differences(found: Audit) -> list[Row]:
    evidence = found.evidence
    return [
        Row(
            "Bold and shaded cells are differences between models (Tables 1, 3, 7, 9, 13, 14)",
            "{clear} of {cells} differences are clear, and large enough to matter.",
            claims.compared_cells(evidence),
            "differences",
            "inference",
            more="Of {total} pairs of cells of one family and column {equal} are equal and left out here; the paper shades the "
            "better or the same.",
        ),
        Row(
            "Fine-tuning improves medical accuracy (§3, A.3; Table 7)",
            "Over all {n:,} items accuracy moves by {points:.1f} points, clearly upward for: {names}.",
            claims.medical_accuracy(evidence),
            "differences",
            "inference",
            of="Fine-tuning makes a model better at the benchmarks of its domain",
            more="The average over benchmarks moves by {averages:.1f}: above 0, uncorrected, for {above_items} of {models} "
            "models if items are drawn for each model, for {above_nested} if they are shared and right answers nested. Of "
            "{cells} cells {higher} are higher ({higher_survive} clearly), {equal} equal, {lower} lower ({lower_survive}).",
        ),
        Row(
            "Without $T$ Llama and Qwen follow instructions worse (§3.1, Table 3)",
            "Of {cells} cells {higher} are higher with $T$ ({higher_survive} clearly), {lower} lower ({lower_survive}).",
            claims.instructions_without_T(evidence),
            "differences",
            "inference",
            of="Removing the tuning vector lowers instruction following",
            more="Against the claim: {against}.",
        ),
        Row(
            "Fine-tuned models follow instructions better (A.3, Table 9)",
            "Of {cells} cells {higher} are higher after fine-tuning ({higher_survive} clearly), {lower} lower "
            "({lower_survive}).",
            claims.instructions_of_fine_tuned(evidence),
            "differences",
            "inference",
            of="Fine-tuned models follow the instructions of the prompt better than the pretrained one",
            more="Against the claim: {against}.",
        ),
        Row(
            "Fine-tuning improves generation (A.3, Table 8)",
            "The mean over the sets moves by {points:+.1f} points.",
            claims.rouge_gains(evidence),
            "differences",
            "inference",
            each="{family} {first} {effect:+.1f} ({low:.1f}, {high:.1f})",
            of="A fine-tuned model writes better texts in its domain",
            more="{each}.",
        ),
    ]


def _floor(found: Audit) -> list[Row]:
    return [
        Row(
            "The notes of Table 8 on ACI-Bench are nearer to their references than another patient's note (A.3)",
            "{above} of {cells} cells score more than another patient's note does, by up to {most:.1f} points.",
            published.notes_are_read(published.notes_above_floor()),
            "floor",
            "inference",
            claimed=False,
            more="ROUGE-1 of another patient's note is {floor:.1f}.",
        ),
    ]


def _text(found: Audit) -> list[Row]:
    return [
        Row(
            "The percentages of the text are those of the tables (§3.1)",
            "{agree} of {total} are.",
            claims.text_percentages(audit.percentages()),
            "text",
            "arithmetic",
            more="Not: {wrong}.",
        ),
        Row(
            "Ablation lowers performance by 20, 62.6 and 93% (§2, A.2; Fig. 5)",
            "For scale: guessing among four options would be a fall of {guess:.0f}%.",
            claims.ablation_percentages(),
            "text",
            "not printed",
            of="Ablating the most active neurons lowers performance",
            more="That is on the benchmarks that have four options.",
        ),
        Row(
            "Adding vectors improves three of nine maths benchmarks (§3.1; Figs. 4, 6)",
            "For scale: the maths vector is {ratio:.0f} times as long as the medical one.",
            claims.addition_gains(audit.lengths()),
            "text",
            "not printed",
            of="The sum is better on medicine than the vector of maths alone, and on maths than that of medicine",
            more="By Tables 5 and 6; {summed:.0f} times if its energies were summed over layers.",
        ),
        Row(
            "Activation by layer, edit distance, activation patching (§2, A.6; Figs. 1, 2, 7)",
            "Curves and heat maps alone.",
            claims.figure_alone(),
            "text",
            "not printed",
        ),
    ]


def _examples(found: Audit) -> list[Row]:
    return [
        Row(
            "The prompt's worked example is not among the test items (A.5)",
            "{hits} of the {n} items of MMLU college medicine have its text: {points:.1f} points of that column.",
            claims.worked_example(paper.text()),
            "examples",
            "inference",
            claimed=False,
        ),
        Row(
            "Tables 10 to 12 show outputs to one input with $T$ and without (A.5)",
            "{count} of {total} pairs are about different things.",
            claims.outputs_to_the_same_input(audit.output_pairs()),
            "examples",
            "inference",
            more="They are {wrong}. In {copied} of these the output without $T$ is the prompt's worked example.",
        ),
        Row(
            "Every output of Aloe-Beta has a valid answer (Tables 3, 9, 11)",
            "{valid:.2f}% are printed as valid; the example of Table 11 {form} the form that the prompt asks for.",
            claims.always_valid(),
            "examples",
            "inference",
        ),
    ]


SECTIONS = {
    "energy": _energy, "shape": _shape, "length": _length, "negation": _negation, "sizes": _sizes,
    "differences": _differences, "floor": _floor, "text": _text, "examples": _examples,
}  # fmt: skip
