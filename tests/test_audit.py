import numpy as np
import pandas as pd
import pytest

from tuningvec.paper import audit
from tuningvec.paper import printed as paper
from tuningvec.weights.components import MATRICES


def test_misprinted_cells_are_those_that_the_data_notes():
    wrong = audit.energies().query("misprint")
    noted = paper.orthogonal_energy().query("note != ''")
    assert set(zip(wrong.vector, wrong.kind, strict=True)) == set(zip(noted.row, noted.column, strict=True))


def test_implied_energies_give_the_printed_alignment_back():
    cells = audit.energies()
    assert (cells.E_par / (cells.E_par + cells.implied)).to_numpy() == pytest.approx(cells.SSA.to_numpy())


def test_the_bound_is_below_one_for_gate_and_up_alone():
    cells = audit.shape_bound()
    assert set(cells[cells.bound < 1].kind) == {"W_gate", "W_up"} and len(cells) == 4 * len(MATRICES)
    bounds = cells[cells.kind == "W_gate"].drop_duplicates("pretrained").bound
    assert list(bounds) == pytest.approx([4096 / 14336, 3584 / 18944])


def test_no_random_matrix_of_that_shape_is_clearly_above_the_bound():
    random = np.random.default_rng(0)
    d_out, d_in, bound = 40, 10, 0.25
    sd = (2 * d_in * (d_out - d_in) / (d_out**2 * (d_out + 2))) ** 0.5
    U = np.linalg.svd(random.normal(size=(d_out, d_in)), full_matrices=False)[0]
    T = random.normal(size=(4000, d_out))  # of rank one: the widest null
    ssa = np.square(T @ U).sum(axis=1) / np.square(T).sum(axis=1)
    assert ssa.mean() == pytest.approx(bound, abs=4 * sd / 4000**0.5)
    assert ssa.std() == pytest.approx(sd, rel=0.05)


def test_the_spread_of_a_mean_over_layers_is_that_of_one_over_their_root():
    random = np.random.default_rng(0)
    d_out, d_in, layers = 40, 10, 16
    sd = (2 * d_in * (d_out - d_in) / (d_out**2 * (d_out + 2)) / layers) ** 0.5
    U = np.linalg.svd(random.normal(size=(d_out, d_in)), full_matrices=False)[0]
    T = random.normal(size=(2000, layers, d_out))
    ssa = (np.square(T @ U).sum(axis=2) / np.square(T).sum(axis=2)).mean(axis=1)
    assert ssa.std() == pytest.approx(sd, rel=0.05)
    cells = audit.shape_bound().set_index(["vector", "kind"])
    d_out, d_in = cells.loc[("Aloe β", "W_gate"), ["d_out", "d_in"]]
    one_layer = (2 * d_in * (d_out - d_in) / (d_out**2 * (d_out + 2))) ** 0.5
    assert cells.sd["Aloe β", "W_gate"] == pytest.approx(one_layer / 28**0.5)
    assert cells.z["Aloe β", "W_gate"] == pytest.approx(7, abs=0.05)


def test_a_bound_that_is_the_measure_explains_all_of_it():
    cells = audit.shape_bound()
    exact = audit.variance_explained(cells.assign(SSA=cells.bound)).set_index("vector")
    assert exact.unfitted.to_numpy() == pytest.approx(1) and exact.tall["all"] == pytest.approx(1)


def test_a_split_that_knows_no_shape_explains_table_4_better_than_the_bound():
    found = audit.variance_explained(audit.shape_bound()).set_index("vector")
    assert found.factor["all"] == pytest.approx(0.92, abs=0.005) and found.tall["all"] == pytest.approx(
        -1.78, abs=0.005
    )
    assert (found.factor > found.unfitted).all()


def test_a_random_change_in_all_directions_sets_attention_above_the_mlp_by_shape():
    cells = audit.shape_bound()
    at_the_null = audit.by_part(cells.assign(SSA=0.7 * cells.bound))
    assert at_the_null.rank_share.to_numpy() == pytest.approx(0.7)


def test_the_parts_of_the_fall_add_up_and_have_the_interval_of_the_widest_pairing():
    parts = audit.parts_of_the_fall(0.95).set_index("family")
    assert (parts.of_T_points + parts.rest_points).to_numpy() == pytest.approx(parts.fall_points.to_numpy())
    assert (parts.of_T_points - parts.rest_points).to_numpy() == pytest.approx(parts.excess_points.to_numpy())
    assert (parts.n == 2123).all()
    row = parts.loc["Qwen2.5-7B"]
    rows = audit.pooled(0.95).query("family == 'Qwen2.5-7B' and claimed").set_index(["table", "first"])
    alone = rows.loc[("7", "Aloe-Beta")]
    assert row.of_T_points == pytest.approx(alone.points)
    assert row.of_T_high - row.of_T_low > alone.high - alone.low
    assert [row.excess_low, row.excess_high] == pytest.approx([-0.77, 12.91], abs=0.01)


def test_a_fall_that_is_not_clear_has_no_share():
    shares = audit.parts_of_the_fall(0.95).set_index("family")[["prompt_share", "share_of_averages"]].round(2)
    assert shares[:2].to_numpy().tolist() == [[0.79, 0.94], [0.16, 0.15]] and shares.loc["Phi-3.5"].isna().all()


def test_an_average_of_rounded_cells_is_only_known_within_their_digits():
    rows = audit.averages()
    assert rows.agrees.all() and set(rows[~rows.equal].row) == {"Meta-Llama-3-8B · Aloe-Alpha"}


def test_phi_is_evaluated_twice_with_the_same_result_but_for_one_item():
    rows = audit.same_weights().query("family == 'Phi-3.5' and table == '1'").dropna(subset="items")
    assert list(rows["items"]) == [0] * 8 + [1, 0]


def test_sizes_are_recognised_from_rounded_and_from_cut_off_percentages():
    counts = np.array([3, 77, 150, 211, 266])
    exact = 100 * counts / 271
    rounded = pd.DataFrame({"value": np.round(exact, 2), "step": 0.01})
    cut_off = pd.DataFrame({"value": np.floor(100 * exact) / 100, "step": 0.01})
    assert 271 in audit.fitting_sizes(rounded, cut_off=False)
    assert 271 in audit.fitting_sizes(cut_off, cut_off=True)
    assert 270 not in audit.fitting_sizes(rounded, cut_off=False)


def test_every_comparison_is_made_once_and_its_points_are_those_printed(evidence):
    cells = evidence.comparisons
    assert len(cells) == 149 and not cells.duplicated(["table", "first", "second", "family", "column"]).any()
    assert (cells.low <= cells.points).all() and (cells.points <= cells.high).all()
    assert (cells.p_min <= cells.p_max).all()
    row = cells.query("table == '7' and first == 'Aloe-Beta' and second == 'Base' and column == 'MedQA'").iloc[0]
    assert row.points == pytest.approx(66.60 - 57.80) and row["items"] == 44


def test_what_survives_the_widest_pairing_survives_the_narrowest(evidence):
    cells = audit.corrected(evidence.comparisons, evidence.alpha)
    assert (cells[cells.outcome == "survives"].p_min <= 0.05).all()
    assert (cells[cells["items"] == 0].outcome == "within chance").all()


def test_pooled_rows_add_up_the_items_of_the_benchmarks(evidence):
    rows = evidence.pooled.set_index(["table", "first", "second"])
    cells = evidence.comparisons.groupby(["table", "first", "second"])[["n", "items"]].sum()
    for key, row in rows.iterrows():
        if key[0] != "7":  # Instruct against Base is there for two families
            assert (row.n, row["items"]) == tuple(cells.loc[key])


def test_nested_answers_give_the_narrower_interval(evidence):
    rows = evidence.averages.dropna(subset="items_low")
    assert (rows.nested_high - rows.nested_low < rows.items_high - rows.items_low).all()
    assert (rows.items_high - rows.items_low < rows.both_high - rows.both_low).all()


def test_the_same_seed_gives_the_same_intervals(evidence):
    pd.testing.assert_frame_equal(audit.average_differences(evidence.level, seed=0), evidence.averages)


def test_a_quoted_fall_is_found_in_the_reading_that_gives_it():
    rows = audit.percentages().set_index(["number", "of"]).agrees
    assert rows["negation: fall of accuracy", "Aloe-Alpha"] == "relative"
    assert rows["negation: fall of instruction following", "Aloe-Alpha"] == ""
    assert "relative" in rows["negation: fall of ROUGE-1", "Aloe-Alpha"].split(", ")  # 20.4 to 28.0 within the digits


def test_relative_lengths_follow_from_the_cosine():
    rows = audit.cosines().set_index("member")
    assert np.cos(np.arctan(rows.r["Aloe α"])) == pytest.approx(0.9975)
    assert (rows.r_low < rows.r).all() and (rows.r < rows.r_high).all()
    vectors = audit.lengths().set_index("vector")
    assert vectors.r["Aloe β"] == pytest.approx(rows.r["Aloe β"])
    assert vectors.r["Q Math"] / vectors.r["Aloe β"] == pytest.approx(vectors.norm["Q Math"] / vectors.norm["Aloe β"])


def test_guessing_is_not_below_chance():
    rows = audit.below_chance(0.95, 0.05).set_index("member")
    assert rows.below["Math-Instruct"].all() and not rows.below["Aloe-Beta"].any()
    assert (rows.n == 1623).all()
