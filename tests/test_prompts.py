import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.measures.prompts import Prompt, Prompts, align, answers, prompt

TINY = data_folder() / "families" / "tiny" / "medical"
SPEC = 'template: "{drug} is for {use}. It is"\nanswers: [" true", " false"]\npairs:\n'


def ids(*tokens):
    return Prompt(list(tokens), ["x"] * len(tokens))


LONG, SHORT = ids(1, 10, 11, 12, 13, 40, 41), ids(1, 20, 40, 41)


@pytest.mark.parametrize(
    ("clean", "corrupt", "places"),
    [
        (ids(1, 2, 3), ids(1, 2, 3), [0, 1, 2]),
        (ids(1, 2, 3), ids(1, 9, 3), [0, 1, 2]),
        (LONG, SHORT, [0, 4, 5, 6]),
        (SHORT, LONG, [0, -1, -1, -1, 1, 2, 3]),
        (ids(1, 7, 7, 7), ids(1, 7, 7), [0, 1, 2]),
        (ids(1, 5, 3), ids(1, 3), [0, 2]),
    ],
)
def test_prompts_are_aligned_from_both_ends(clean, corrupt, places):
    assert align(clean, corrupt).places.tolist() == places


@given(*(st.lists(st.integers(0, 3), min_size=1, max_size=9) for _ in range(2)))
def test_alignment_keeps_the_order_and_pairs_what_is_equal_at_the_ends(one, other):
    found = align(ids(9, *one, 9), ids(9, *other, 9))
    places = [p for p in found.places.tolist() if p >= 0]
    assert places == sorted(set(places)) and len(places) == min(len(one), len(other)) + 2
    assert places[0] == 0 and places[-1] == len(one) + 1


def test_each_token_has_the_column_of_its_slot_or_word():
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    made = prompt(tokenizer, "{drug} is for {condition}. It is", ["Amoxicillin", "otitis media"])
    assert list(dict.fromkeys(made.columns)) == ["start", "drug", "is", "for", "condition", ".", "It", "is (2)"]
    assert made.ids[0] == tokenizer.eos_token_id and tokenizer.bos_token_id is None
    assert tokenizer.decode(made.ids[1:]) == "Amoxicillin is for otitis media. It is"
    turn = prompt(tokenizer, "{drug} is for {condition}. It is", ["Amoxicillin", "otitis media"], chat=True)
    assert turn.columns[0] == "start" and turn.columns[-1] == "turn"
    assert set(turn.columns) == {*made.columns, "turn"}


def test_answers_that_begin_alike_are_refused():
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    assert len(set(answers(tokenizer, (" true", " false")))) == 2
    with pytest.raises(TuningVecError, match="begin with the same token"):
        answers(tokenizer, (" true", " true"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SPEC + "- {kind: a, clean: [x], corrupt: [x, y]}\n", r"pairs\.0\.clean: the template has 2 slots: drug, use"),
        (SPEC + "- {kind: a, clean: [x, y]}\n", r"pairs\.0\.corrupt: Field required"),
        (SPEC + "[", "not readable as YAML"),
        (SPEC.replace("pairs:", "pairs: []"), "pairs"),
    ],
)
def test_a_file_of_pairs_that_is_wrong_is_named(tmp_path, text, said):
    (tmp_path / "pairs.yaml").write_text(text)
    with pytest.raises(TuningVecError, match=f"pairs.yaml.*{said}"):
        Prompts.read(tmp_path / "pairs.yaml")


STEMS = (
    r".*(mab|nib|vir|azole|pril|sartan|olol|statin|cillin|mycin|oxacin|tidine|gliptin|dipine|zepam|caine|tide|tropin"
    r"|fylline|trexate|profen|fen|mide|amine|zolide|tropium|vudine|cef|parin|grel|xaban|one|ine|exin|rel|mel|ol|ium)"
)


def test_shipped_wrong_conditions_are_balanced_and_invented_names_have_no_stem_of_a_drug():
    pairs = Prompts.read(data_folder() / "patching" / "drugs.yaml").pairs
    wrong = [pair for pair in pairs if pair.kind == "wrong condition"]
    for some in (wrong[:8], wrong[8:]):
        assert all(pair.clean[0] == pair.corrupt[0] and pair.clean[1] != pair.corrupt[1] for pair in some)
        assert sorted(pair.clean[1] for pair in some) == sorted(pair.corrupt[1] for pair in some)
    invented = [pair.corrupt[0].lower() for pair in pairs if pair.kind == "invented drug"]
    assert len(set(invented)) == 21 and not [name for name in invented if re.fullmatch(STEMS, name)]
