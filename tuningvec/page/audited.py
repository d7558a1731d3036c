"""The lines of the audit: each claim of the paper with what the paper's own numbers say of it, by section."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tuningvec.page.finding import Basis, Row
from tuningvec.paper import audit, claims, closed, published
from tuningvec.paper import printed as paper
from tuningvec.verdict import Verdict


@dataclass(frozen=True)
class Audit:
    """What the lines are computed from, each thing once: `level` is that of intervals, `alpha` that of corrected tests,
    `seed` that of the bootstrap."""

    level: float = 0.95
    alpha: float = 0.05
    seed: int = 0

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
        return [line.row(name, self) for name in sections or LINES for line in LINES[name]]

    def closed_rows(self) -> dict[str, Row]:
        """The lines with a verdict in closed form, by its judge."""
        rows = self.rows("energy", "shape", "length")
        return {name: row for name, verdict in self.closed.items() for row in rows if row.verdict is verdict}


class Line(NamedTuple):
    """A line of a section; its fields are those of `Row`, with the judge in the place of the verdict."""

    claim: str
    says: str
    judge: Callable[[Audit], Verdict]
    basis: Basis
    each: str = ""
    claimed: bool = True
    of: str = ""
    more: str = ""

    def row(self, section: str, found: Audit) -> Row:
        """The line with its verdict."""
        about = self._asdict()
        return Row(verdict=about.pop("judge")(found), section=section, **about)


LINES: dict[str, tuple[Line, ...]] = {
    "energy": (
        Line(
            r"SSA, $E_\parallel$ and $E_\perp$ are made of norms (§4, Tables 4–6)",
            "Of {cells} cells, Table 4 fits Tables 5 and 6 in {squared} if those hold squared norms, in {norms} if "
            "norms.",
            lambda found: found.closed["squared_norms"],
            "arithmetic",
        ),
        Line(
            f"Table 6 is what Tables 4 and 5 give, within a factor of {audit.MISPRINT}",
            "{agree} of {total} cells are.",
            lambda found: found.closed["misprints"],
            "inference",
            more="The others, as printed for what would fit: {wrong}. Each is a misprint, or its layers are very "
            "uneven.",
        ),
    ),
    "shape": (
        Line(
            r"$W_\text{gate}$ and $W_\text{up}$ avoid the directions of $W$ more than chance (§4, Table 4)",
            "SSA is above the most that chance can give in {clear} of {cells} cells; below that, "
            "nothing can be told from chance.",
            lambda found: found.closed["least_aligned"],
            "inference",
            of=r"$W_\text{gate}$ and $W_\text{up}$ get more new directions than the other "
            "matrices do on average",
            more="By how many standard deviations, of a mean over layers (of one layer): {above}. Whether gate and up "
            "get more new directions than other matrices, relative to chance, cannot be known from printed numbers, "
            "since $k$ is not printed: the pages of §4 measure that. The bound alone has an $R^2$ of {unfitted:.2f} "
            "over all of Table 4 ({by_vector:.2f} by vector), the mere split into gate and up and the rest "
            "{factor:.2f}; within gate and up the bound has {tall:.2f}.",
        ),
        Line(
            "The excess of code and maths in gate and up is a multiple of $W$",
            "As others measured neighbouring models, that explains {part:.0%} of the excess at most.",
            lambda found: found.closed["is_minus_W"],
            "inference",
            each="{vector} {kind} {predicted:.2f}, the rest {effect:.2f} of the room above",
            claimed=False,
            more="They found {share:.0%} of the energy of $T$ along $-W$. SSA with that share, and what is left above "
            "it: {each}.",
        ),
        Line(
            "Attention is better aligned than the MLP, so more new directions are in the MLP (§4, Table 4)",
            "Mean SSA is {gap:.2f} higher in attention; the shapes of the matrices alone can give up to "
            "{shape:.2f}, by vector.",
            lambda found: found.closed["attention_better_aligned"],
            "inference",
            of="Attention is better aligned than the MLP, which gets more new directions",
            more="It is {attention:.2f} in attention, {MLP:.2f} in the MLP: {gate_up:.2f} in gate and up, "
            "{W_down:.3f} in $W_\\text{down}$, which is above attention in {above} of {vectors} vectors. A random $T$ "
            "differs as much as the paper's where $k$ is {rank_share:.0%} of the full rank.",
        ),
    ),
    "length": (
        Line(
            "High cosines mean that a small part of the representation space changes (§2, Table 15)",
            "Cosines of {cosine:.4f} tell how far weights turn, by {angle:.1f} degrees, and not in how many "
            "directions.",
            lambda found: found.closed["near_cosines"],
            "inference",
            of="Fine-tuning leaves the weights nearly parallel to the pretrained ones",
            more=r"If $T$ is orthogonal to $\theta_\text{pre}$, its length is {r:.3f} of that of $\theta_\text{pre}$.",
        ),
        Line(
            "Fine-tuning makes only marginal changes (§2, Table 15)",
            "If orthogonal to the pretrained weights, the changes are {r:.3f} of their length.",
            lambda found: found.closed["marginal_changes"],
            "inference",
            each="{pretrained} {member} {r:.3f} ({low:.3f} to {high:.3f})",
            of="What fine-tuning changes is marginal (§2)",
            more=r"$\lVert T\rVert/\lVert\theta_\text{pre}\rVert$ is {each}.",
        ),
        Line(
            "The vectors of code and maths are marginal, too (§4, Tables 5, 6)",
            "Theirs are {r:.2f} of that length, {summed:.2f} if the printed energies were sums over layers.",
            lambda found: found.closed["marginal_changes_elsewhere"],
            "inference",
            each="{vector} {r:.2f} ({r_low:.2f} to {r_high:.2f})",
            claimed=False,
            more="{each}. §2 has neither model: both went through further pretraining before they were fine-tuned.",
        ),
        Line(
            "Within Qwen the medical vector has much less energy than code and maths (§4)",
            "Theirs have {ratio:,.0f} times as much squared norm, {root:.0f} times as much norm.",
            lambda found: found.closed["low_energy"],
            "inference",
            of="Medical vectors have less energy than those of code and maths",
            more="By the cells as printed, misprints and all, the squared norm is {as_printed:,.0f} times as much.",
        ),
        Line(
            "Medical vectors are completely orthogonal to maths and code (§3.1, Fig. 3)",
            "A heat map alone.",
            lambda found: claims.figure_alone(),
            "not printed",
            of="Vectors of medicine are orthogonal to those of maths and code",
        ),
    ),
    "negation": (
        Line(
            "Without $T$ accuracy falls, and that is the effect of $T$ (§3.1, Table 1)",
            "Where the fall is clear, {share:.0%} of it lies between two evaluations of the same weights.",
            lambda found: claims.fall_is_of_T(audit.parts_of_the_fall(found.level), found.level, found.alpha),
            "inference",
            each="{family} {what} {effect:+.1f} ({low:.1f}, {high:.1f})",
            of="Removing the tuning vector lowers the scores",
            more="In points of {n:,} items: {each}.",
        ),
        Line(
            "Two evaluations of the pretrained weights give the same (Tables 1, 3 against 7, 9)",
            "They differ by {points:.1f} points; furthest apart is {where}, by at least {apart:,} of {n:,} outputs.",
            lambda found: claims.evaluations_agree(audit.same_weights(), found.level),
            "inference",
            claimed=False,
        ),
        Line(
            "Without $T$ MediPhi follows instructions no worse (§3.1, Table 3)",
            "The change without $T$ is {change:+.2f} points, by instruction.",
            lambda found: claims.unharmed_without_T(found.evidence.comparisons),
            "inference",
            each="{column} {effect:+.2f} ({low:.1f}, {high:.1f})",
            of="Removing the tuning vector lowers instruction following",
            more="{each}.",
        ),
        Line(
            "Scores without $T$, or out of domain, are low, and not for the form of answers (§3.1, A.9; Tables 1, 13)",
            "They are {lower:.0f} points lower; {count} of {total} have fewer right than by guessing, which a wrong "
            "form alone can do.",
            lambda found: claims.lost_ability(audit.below_chance(found.level, found.alpha), found.level, found.alpha),
            "inference",
            each="{member} by {lower:.1f} than {better}",
            claimed=False,
            more="Lower, in points: {each}. Fewer right than by guessing: {below}.",
        ),
    ),
    "sizes": (
        Line(
            "Accuracy is right answers over questions (A.3; Tables 1, 7, 13, 14)",
            "In {agree} of {total} benchmarks every value is a count of items.",
            lambda found: claims.counts_of_items(audit.sizes()),
            "inference",
            more="The smallest has {least} items, of which one is {point:.1f} points.",
        ),
        Line(
            "Instruction following is measured on ten data sets (§3.1, A.3; Tables 3, 9)",
            "The printed values are shares of {smallest:,} outputs; the {sets} data sets have {items:,} items.",
            lambda found: claims.ten_data_sets(audit.sizes()),
            "inference",
            more="Numbers of outputs that give every printed value: {fitting}; with rounded digits: {rounded}. That "
            "number is all items but those of one of these: {left_out}.",
        ),
        Line(
            "The averages are those of their rows (Tables 1, 2, 7, 8, 13, 14)",
            "{agree} of {total} are, within the digits of their cells.",
            lambda found: claims.printed_averages(audit.averages()),
            "arithmetic",
            more="{equal} are the mean of the cells as printed. Not a mean: {wrong}.",
        ),
        Line(
            "The average ranks the models of a family (Tables 1, 7, 13, 14)",
            "If benchmarks are weighted by their items, {turns} of {pairs} pairs turn round.",
            lambda found: claims.ranks_by_average(found.evidence),
            "inference",
            more="They are {turned}.",
        ),
    ),
    "differences": (
        Line(
            "Bold and shaded cells are differences between models (Tables 1, 3, 7, 9, 13, 14)",
            "{clear} of {cells} differences are clear, and large enough to matter.",
            lambda found: claims.compared_cells(found.evidence),
            "inference",
            more="Of {total} pairs of cells of one family and column {equal} are equal and left out here; the paper "
            "shades the better or the same.",
        ),
        Line(
            "Fine-tuning improves medical accuracy (§3, A.3; Table 7)",
            "Over all {n:,} items accuracy moves by {points:.1f} points, clearly upward for: {names}.",
            lambda found: claims.medical_accuracy(found.evidence),
            "inference",
            of="Fine-tuning makes a model better at the benchmarks of its domain",
            more="The average over benchmarks moves by {averages:.1f}: above 0, uncorrected, for {above_items} of "
            "{models} models if items are drawn for each model, for {above_nested} if they are shared and right "
            "answers nested. Of {cells} cells {higher} are higher ({higher_survive} clearly), {equal} equal, {lower} "
            "lower ({lower_survive}).",
        ),
        Line(
            "Without $T$ Llama and Qwen follow instructions worse (§3.1, Table 3)",
            "Of {cells} cells {higher} are higher with $T$ ({higher_survive} clearly), {lower} lower "
            "({lower_survive}).",
            lambda found: claims.instructions_without_T(found.evidence),
            "inference",
            of="Removing the tuning vector lowers instruction following",
            more="Against the claim: {against}.",
        ),
        Line(
            "Fine-tuned models follow instructions better (A.3, Table 9)",
            "Of {cells} cells {higher} are higher after fine-tuning ({higher_survive} clearly), {lower} lower "
            "({lower_survive}).",
            lambda found: claims.instructions_of_fine_tuned(found.evidence),
            "inference",
            of="Fine-tuned models follow the instructions of the prompt better than the pretrained one",
            more="Against the claim: {against}.",
        ),
        Line(
            "Fine-tuning improves generation (A.3, Table 8)",
            "The mean over the sets moves by {points:+.1f} points.",
            lambda found: claims.rouge_gains(found.evidence),
            "inference",
            each="{family} {first} {effect:+.1f} ({low:.1f}, {high:.1f})",
            of="A fine-tuned model writes better texts in its domain",
            more="{each}.",
        ),
    ),
    "floor": (
        Line(
            "The notes of Table 8 on ACI-Bench are nearer to their references than another patient's note (A.3)",
            "{above} of {cells} cells score more than another patient's note does, by up to {most:.1f} points.",
            lambda found: published.notes_are_read(published.notes_above_floor()),
            "inference",
            claimed=False,
            more="ROUGE-1 of another patient's note is {floor:.1f}.",
        ),
    ),
    "text": (
        Line(
            "The percentages of the text are those of the tables (§3.1)",
            "{agree} of {total} are.",
            lambda found: claims.text_percentages(audit.percentages()),
            "arithmetic",
            more="Not: {wrong}.",
        ),
        Line(
            "Ablation lowers performance by 20, 62.6 and 93% (§2, A.2; Fig. 5)",
            "For scale: guessing among four options would be a fall of {guess:.0f}%.",
            lambda found: claims.ablation_percentages(),
            "not printed",
            of="Ablating the most active neurons lowers performance",
            more="That is on the benchmarks that have four options.",
        ),
        Line(
            "Adding vectors improves three of nine maths benchmarks (§3.1; Figs. 4, 6)",
            "For scale: the maths vector is {ratio:.0f} times as long as the medical one.",
            lambda found: claims.addition_gains(audit.lengths()),
            "not printed",
            of="The sum is better on medicine than the vector of maths alone, and on maths than that of medicine",
            more="By Tables 5 and 6; {summed:.0f} times if its energies were summed over layers.",
        ),
        Line(
            "Activation by layer, edit distance, activation patching (§2, A.6; Figs. 1, 2, 7)",
            "Curves and heat maps alone.",
            lambda found: claims.figure_alone(),
            "not printed",
        ),
    ),
    "examples": (
        Line(
            "The prompt's worked example is not among the test items (A.5)",
            "{hits} of the {n} items of MMLU college medicine have its text: {points:.1f} points of that column.",
            lambda found: claims.worked_example(paper.text()),
            "inference",
            claimed=False,
        ),
        Line(
            "Tables 10 to 12 show outputs to one input with $T$ and without (A.5)",
            "{count} of {total} pairs are about different things.",
            lambda found: claims.outputs_to_the_same_input(audit.output_pairs()),
            "inference",
            more="They are {wrong}. In {copied} of these the output without $T$ is the prompt's worked example.",
        ),
        Line(
            "Every output of Aloe-Beta has a valid answer (Tables 3, 9, 11)",
            "{valid:.2f}% are printed as valid; the example of Table 11 {form} the form that the prompt asks for.",
            lambda found: claims.always_valid(),
            "inference",
        ),
    ),
}
