import json

import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from tuningvec.page import finding as findings
from tuningvec.paper import printed as paper
from tuningvec.weights.components import MATRICES

pytestmark = pytest.mark.usefixtures("shell")
NULL = dict(zip(MATRICES, [0.7, 0.9, 0.98, 0.8, 0.36, 0.37, 0.97], strict=True))
FLAT = dict.fromkeys(MATRICES, 0.1)
NEW_IN_MLP = dict(FLAT, W_gate=0.01, W_up=0.01)


def verdict(show, *tables):
    with capture_output() as captured:
        show(*tables)
    (output,) = captured.outputs
    return json.loads(output.metadata[findings.KEY])["verdict"]


def means(excess, vector="medical", z=0.0):
    table = pd.DataFrame({"vector": vector, "kind": MATRICES, "null": NULL.values(), "excess": excess.values(), "z": z})
    return table.assign(SSA=table.null + table.excess * (1 - table.null))


TABLE_4, TABLE_6 = paper.wide(paper.alignment()), paper.wide(paper.orthogonal_energy())
LOW, HIGH = ["W_gate", "W_up"], ["W_Q", "W_K", "W_V", "W_O", "W_down"]


def test_low_alignment_that_the_null_has_too_is_explained_by_it():
    assert "null explains it" in verdict(findings.alignment, means(FLAT), TABLE_4, LOW, HIGH)


def test_low_alignment_beyond_the_null_holds():
    assert "holds" in verdict(findings.alignment, means(NEW_IN_MLP), TABLE_4, LOW, HIGH)


def test_alignment_that_is_not_lowest_in_gate_and_up_differs():
    assert "differs" in verdict(findings.alignment, means(dict(FLAT, W_gate=0.9)), TABLE_4, LOW, HIGH)


@pytest.mark.parametrize("z, expected", [(0.5, "holds"), (9.0, "differs")])
def test_the_control_can_fail(z, expected):
    assert expected in verdict(findings.random_on_null, means(FLAT, "random", z))


def layers(perp, null):
    rows = [
        dict(vector="medical", kind=kind, E_perp=perp[kind], E_par=1 - perp[kind], null=null[kind], null_sd=0.001)
        for kind in MATRICES
    ]
    return pd.DataFrame(rows)


def test_orthogonal_energy_of_turned_matrices_is_no_finding():
    perp = {kind: 1 - NULL[kind] for kind in MATRICES}
    assert "null explains it" in verdict(findings.energy, layers(perp, NULL), TABLE_6)
    above = dict(perp, W_gate=0.75, W_up=0.75)
    assert "holds" in verdict(findings.energy, layers(above, NULL), TABLE_6)
    elsewhere = dict.fromkeys(MATRICES, 0.5)
    assert "differs" in verdict(findings.energy, layers(elsewhere, NULL), TABLE_6)


@pytest.mark.parametrize("cosine, expected", [(0.999, "holds"), (0.99, "differs")])
def test_similarity_is_judged_by_the_papers_smallest_cosine(cosine, expected):
    table = pd.DataFrame([dict(vector="medical", kind="all", cosine=cosine, r=0.05, orthogonal=0.998)])
    assert expected in verdict(findings.similarity, table, paper.weight_cosines())


def trends(step=-0.3, rho=0.9, p=0.001, gap=0.01):
    row = dict(first=0.6, second=0.6 + step, step=step, low=step - 0.01, high=step + 0.01, others=0.02, rho=rho, p=p)
    return pd.DataFrame([dict(member="pre", gap=0.0, **row), dict(member="ft", gap=gap, **row)])


@pytest.mark.parametrize(("step", "said"), [(-0.3, "holds"), (0.005, "within chance"), (0.3, "differs")])
def test_a_drop_after_the_first_layer_is_judged_by_its_interval(step, said):
    assert said in verdict(findings.first_layer, trends(step=step))


@pytest.mark.parametrize(("rho", "p", "said"), [(0.9, 0.001, "holds"), (0.9, 0.3, "chance"), (-0.9, 0.001, "differs")])
def test_growth_with_depth_is_judged_by_its_test(rho, p, said):
    assert said in verdict(findings.depth, trends(rho=rho, p=p))


@pytest.mark.parametrize(("gap", "said"), [(0.01, "holds"), (0.03, "differs")])
def test_similar_shares_are_closer_than_layers_are(gap, said):
    assert said in verdict(findings.similar_shares, trends(gap=gap))


@pytest.mark.parametrize(("edit", "said"), [(0.1, "holds"), (0.25, "null explains it")])
def test_a_distance_as_large_as_that_of_random_places_is_explained_by_them(edit, said):
    row = dict(layer=0, criterion="mean", hamming=edit, edit_null=0.26, edit_null_sd=0.01, edit_floor=0.02)
    table = pd.DataFrame([dict(member="pre", edit=0.0, **row), dict(member="ft", edit=edit, **row)])
    assert said in verdict(findings.edit_distance, table)


def effects(top=0.8, random=0.05, general=0.8):
    rows = []
    for task, ablated, share, change in [
        *(("medical", "top", share, top) for share in (0.01, 0.05, 1.0)),
        *(("general", "top", share, general) for share in (0.01, 0.05, 1.0)),
        *((task, "random", share, random) for task in ("medical", "general") for share in (0.01, 0.05, 1.0)),
    ]:
        about = dict(member="pre", task=task, unit="nats per token", ablated=ablated, share=share, change=change)
        rows.append(about | dict(change_low=change - 0.1, change_high=change + 0.1))
    choice = dict(member="pre", task="drugs", unit="ΔP (%)", ablated="top", change_low=0, change_high=9, change=5)
    return pd.DataFrame([*rows, *(choice | dict(share=share) for share in (0.01, 0.05, 1.0))])


PRINTED = paper.text()[paper.text().row == "ablation: fall of performance"]


@pytest.mark.parametrize(("random", "said"), [(0.05, "holds"), (0.8, "within chance"), (2.0, "differs")])
def test_top_neurons_are_judged_by_random_ones(random, said):
    assert said in verdict(findings.top_neurons, effects(random=random), PRINTED)


@pytest.mark.parametrize(("general", "said"), [(0.1, "holds"), (0.8, "null explains it")])
def test_domain_neurons_are_judged_by_other_text(general, said):
    assert said in verdict(findings.medical_neurons, effects(general=general), "medical")


@pytest.mark.parametrize(("gap", "said"), [(-0.3, "holds"), (0.05, "within chance"), (0.3, "differs")])
def test_resilience_is_judged_by_its_interval(gap, said):
    table = pd.DataFrame([dict(member="ft", difference=gap, low=gap - 0.1, high=gap + 0.1)])
    assert said in verdict(findings.resilience, table)


@pytest.mark.parametrize(("low", "said"), [(0.8, "holds"), (0.3, "null explains it")])
def test_regions_are_judged_by_shuffled_maps(low, said):
    row = dict(kind="one", site="mlp", correlation=0.9, low=low, high=0.95, halves=0.9, null=0.5)
    table = pd.DataFrame([row | dict(member=name) for name in ("pre", "ft")])
    assert said in verdict(findings.regions, table, "pre")


@pytest.mark.parametrize(
    ("name", "low", "said"), [(1.0, 0.1, "holds"), (1.0, -0.1, "null explains it"), (-1.0, -0.1, "differs")]
)
def test_knowing_a_name_is_not_knowing_the_fact(name, low, said):
    rows = [
        dict(member="pre", kind="name", difference=2.0, low=name),
        dict(member="pre", kind="fact", difference=0.2, low=low),
    ]
    assert said in verdict(findings.truth, pd.DataFrame(rows), "name", "fact")


@pytest.mark.parametrize(("effect", "said"), [(0.0, "holds"), (1e-9, "differs")])
def test_identical_prompts_must_have_no_effect_at_all(effect, said):
    assert said in verdict(findings.no_change, {"pre": 0.0, "ft": effect})


def gaps(points, clear=True, **columns):
    """Differences of one specialist on one benchmark."""
    about = dict(
        who="ft", reference="pre", member="ft", task="tuningvec_t", what="score", low=points - 1, high=points + 1
    )
    return pd.DataFrame([about | dict(points=points, p=0.01, clear=clear) | columns])


OUTCOMES = [(30.0, True, "holds"), (30.0, False, "within chance"), (-30.0, True, "differs")]
KEPT, NEGATED = (paper.by_member(cells) for cells in (paper.instructions(), paper.negation_instructions()))
ACCURACY, NEGATION = (paper.by_member(cells) for cells in (paper.accuracy(), paper.negation_accuracy()))


@pytest.mark.parametrize(("points", "clear", "said"), OUTCOMES)
def test_gains_hold_beyond_chance_alone(points, clear, said):
    assert said in verdict(findings.domain_gain, gaps(points, clear), ACCURACY)
    assert said in verdict(findings.text_gain, gaps(points, clear), paper.by_member(paper.rouge()))
    assert said in verdict(findings.keeps_instructions, gaps(points, clear, what="thought"), ["thought"], KEPT)
    assert said in verdict(findings.negation_falls, gaps(-points, clear), NEGATION)
    assert said in verdict(findings.instructions_fall, gaps(-points, clear, what="valid"), ["valid"], NEGATED)
    assert said in verdict(findings.across_domains, gaps(-points, clear), paper.maths_across_domains().head(1))
    ratios = pd.DataFrame([dict(vectors="sum", scale=1.0, task="t", ratio=0.9, low=0.8, high=1.0)])
    assert said in verdict(findings.sum_of_vectors, ratios, gaps(points, clear), pd.Series(dict(value=3.0, n=9)))


@pytest.mark.parametrize(("points", "clear", "said"), OUTCOMES)
def test_weights_are_judged_under_both_prompts(points, clear, said):
    prompt = gaps(90.0, effect="prompt")
    both = pd.concat(
        [gaps(points, clear, effect="weights"), gaps(points, clear, effect="weights", what="lenient"), prompt]
    )
    assert said in verdict(findings.weights_or_prompt, both)
    mixed = pd.concat([gaps(30.0, True, effect="weights"), gaps(2.0, False, effect="weights"), prompt])
    assert "within chance" in verdict(findings.weights_or_prompt, mixed)


def test_negation_at_one_is_a_control():
    assert "holds" in verdict(findings.negation_is_the_pretrained_model, {"a": True})
    assert "differs" in verdict(findings.negation_is_the_pretrained_model, {"a": True, "b": False})
