import json

import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from tuningvec import findings, paper
from tuningvec.components import MATRICES

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
