"""Items of every benchmark: from small rows in the documented columns, and from real files where they are at hand."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tuningvec.errors import TuningVecError
from tuningvec.measures import evals, scores
from tuningvec.tasks import FOLDER, items

MIRROR = Path(__file__).parents[2] / "shared" / "mirror"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason="the benchmark files are not beside the project")
SIZES = dict(  # as the paper's accuracies imply; the audit shows how
    careqa=500, medmcqa=500, medqa=500, mmlu_anatomy=14, mmlu_clinical_knowledge=29, mmlu_college_biology=16,
    mmlu_college_medicine=22, mmlu_medical_genetics=11, mmlu_professional_medicine=31, aqua=254, gsm8k=500, aci1=40,
    aci2=40, aci3=40,
)  # fmt: skip


def source(task: str, **changed: Any) -> dict[str, Any]:
    """The source of a task as its file has it."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda _, node: node.value)
    return yaml.load((FOLDER / f"{task}.yaml").read_text(), loader)["dataset_kwargs"]["source"] | changed


def laid_out(root: Path, path: str, file: str, rows: list[dict[str, Any]]) -> str:
    target = root / path / file
    target.parent.mkdir(parents=True)
    if target.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(target)
    else:
        target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root)


BIORED = dict(
    document_text="Aspirin and ulcers. Aspirin (ASA) causes ulcers.",
    annotation_texts=["Aspirin", "ulcers", "ASA"],
    annotation_groundings=["D001241", "D014456,D010437", "D001241"],
    relation_entity1=["D001241", "D001241"],
    relation_entity2=["D010437", "D010437"],
    relation_type=["Positive_Correlation", "Positive_Correlation"],
)
ANSWERS = [
    {"Answer": {"AnswerText": "second", "ReferenceRank": 2}},
    {"Answer": {"AnswerText": "first", "ReferenceRank": 1}},
]


@pytest.mark.parametrize(
    ("task", "file", "row", "expected"),
    [
        (
            "mathqa", "test.jsonl",
            {"Problem": "2 + 2?", "options": "a ) 3 , b ) 4 , c ) 1 , 000 , d ) 5 , e ) none of these", "correct": "b"},
            {"question": "2 + 2?", "options": ["3", "4", "1 , 000", "5", "none of these"], "answer": 1},
        ),
        (
            "mathqa", "test.jsonl",
            {"Problem": "Area?", "options": "['a ) 462 cm ²', 'b ) 1 , 530 cm ²', 'c )3 cm ²']", "correct": "c"},
            {"question": "Area?", "options": ["462 cm ²", "1 , 530 cm ²", "3 cm ²"], "answer": 2},
        ),
        (
            "mathqa", "test.jsonl",
            {"Problem": "Long?", "options": "['a ) a ) 4 inches', 'b ) b ) it\\'s 5', \"c ) c ) 6\"]", "correct": "a"},
            {"question": "Long?", "options": ["4 inches", "it's 5", "6"], "answer": 0},
        ),
        (
            "mathqa", "test.jsonl",
            {"Problem": "Cost?", "options": "a ) a ) $ 180,000 , b ) b ) s . 15,600 , c )c ) 3", "correct": "b"},
            {"question": "Cost?", "options": ["$ 180,000", "s . 15,600", "3"], "answer": 1},
        ),
        (
            "math500", "test.jsonl", {"problem": "$1/2$?", "solution": "s", "answer": "\\frac{1}{2}"},
            {"question": "$1/2$?", "answer": "\\frac{1}{2}"},
        ),
        (
            "gaokao2023", "train.jsonl", {"question": "How many?", "answer": " $3$ "},
            {"question": "How many?", "answer": "3"},
        ),
        ("minerva", "test.jsonl", {"question": "E?", "answer": "2e5"}, {"question": "E?", "answer": "2e5"}),
        (
            "mediqa", "mediqa_qa_source/test/0000.parquet",
            {"QUESTION": {"QuestionText": "What is it?", "AnswerList": ANSWERS}},
            {"question": "What is it?", "reference": "first"},
        ),
        (
            "medtext", "train.jsonl", {"Prompt": "A man has pain.", "Completion": "It is gout."},
            {"question": "A man has pain.", "reference": "It is gout."},
        ),
        (
            "medlfqa", "test.jsonl", {"Question": "Why?", "Free_form_answer": "So.", "Must_have": ["x"]},
            {"question": "Why?", "reference": "So."},
        ),
        (
            "biored", "test.jsonl", BIORED,
            {
                "question": BIORED["document_text"]
                + "\n\nWhich relation between Aspirin and ulcers does this text state?",
                "options": [kind.replace("_", " ").lower() for kind in items.RELATIONS],
                "answer": 1,
            },
        ),
    ],
)  # fmt: skip
def test_rows_in_documented_columns(
    tmp_path: Path, task: str, file: str, row: dict[str, Any], expected: dict[str, Any]
) -> None:
    where = source(task, size=None)
    root = laid_out(tmp_path, where["path"], file, [row])
    assert items.load(where, root)["test"].to_list() == [expected]


def test_aci_has_the_hub_s_columns_or_those_of_its_own_files(tmp_path: Path) -> None:
    for number, row in enumerate(({"dialogue": "d", "note": "n", "file": "f"}, {"src": "d", "tgt": "n"})):
        root = laid_out(tmp_path / str(number), "wyim/aci-bench", "test1.jsonl", [row])
        card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test1\n    path: test1.jsonl\n---\n"
        (Path(root) / "wyim" / "aci-bench" / "README.md").write_text(card)
        assert items.load(source("aci1"), root)["test"].to_list() == [{"question": "d", "reference": "n"}]


def test_relations_of_one_abstract_share_their_source(tmp_path: Path) -> None:
    several = dict(relation_entity2=["D010437", "D014456"], relation_type=["Bind", "Conversion"])
    rows = [BIORED | several | dict(document_text=f"Text {i}.\n\nMore.") for i in range(250)]
    (task,) = evals.tasks(
        ["tuningvec_biored"], local_root=laid_out(tmp_path, "gyorilab/BioRED", "test.jsonl", rows)
    ).values()
    asked = pd.DataFrame(dict(task="tuningvec_biored", item=range(500)))
    found = scores.with_sources(asked, {"tuningvec_biored": task})
    assert (found.groupby("source").size() == 2).all()
    texts = zip(task.eval_docs["question"], found.source, strict=True)
    assert all(text.startswith(f"{name}\n\nWhich") for text, name in texts)


def test_both_questions_on_a_drug_share_their_source() -> None:
    for name, task in evals.tasks(["tuningvec_drugs", "tuningvec_drugs_likelihood"]).items():
        found = scores.with_sources(pd.DataFrame(dict(task=name, item=range(len(task.eval_docs)))), {name: task})
        assert (found.groupby("source").size() == 2).all() and " " not in "".join(found.source)
        assert all(drug in text for drug, text in zip(found.source, task.eval_docs["question"], strict=True))


def test_a_subset_is_drawn_by_its_seed(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"{i}"} for i in range(40)]
    root = laid_out(tmp_path, "math-ai/minervamath", "test.jsonl", rows)
    drawn = [items.load(source("minerva", size=10, seed=seed), root)["test"]["answer"] for seed in (0, 0, 1)]
    assert list(drawn[0]) == list(drawn[1]) != list(drawn[2])
    assert len(set(drawn[0])) == 10 and list(drawn[0]) != [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (dict(rows="nothing"), ["rows is 'nothing'", "medmcqa"]),
        (dict(file="drugs.jsonl"), ["one of file and path"]),
        (dict(revision="main"), ["revision"]),
        (dict(size=3), ["2 items, 3 are needed"]),
        (dict(rows="medqa"), ["does not read as medqa", "its columns are"]),
        (dict(path="none/such"), ["none/such: not in", "TUNINGVEC_HUB"]),
    ],
)
def test_errors_name_data_set_and_cause(tmp_path: Path, changed: dict[str, Any], said: list[str]) -> None:
    rows = [{"question": "q", "answer": "1"}] * 2
    root = laid_out(tmp_path, "math-ai/minervamath", "test.jsonl", rows)
    with pytest.raises(TuningVecError) as caught:
        items.load(source("minerva") | changed, root)
    assert all(part in str(caught.value) for part in said), caught.value


@pytest.mark.parametrize("options", ["['a ) 1', 'c ) 2']", "['a ) 1', 'b ) 2'", "1 , 2", "['a ) 1', 2]"])
def test_options_that_are_no_list_of_letters_are_an_error(tmp_path: Path, options: str) -> None:
    root = laid_out(tmp_path, "regisss/math_qa", "test.jsonl", [dict(Problem="?", options=options, correct="b")])
    with pytest.raises(TuningVecError, match="regisss/math_qa: row 1 does not read as mathqa"):
        items.load(source("mathqa", size=None), root)


def test_every_task_takes_its_items_from_one_commit_or_from_a_local_copy(tmp_path: Path) -> None:
    unpinned = []
    for file in FOLDER.glob("[a-z]*.yaml"):
        where = items.Source.model_validate(source(file.stem))
        if not (where.file or where.revision or where.url):
            unpinned.append(file.stem)
            for root in (None, str(tmp_path)):
                with pytest.raises(TuningVecError, match=f"{where.path}: .*names no commit of the hub.*TUNINGVEC_HUB"):
                    items.load(source(file.stem), root)
    assert sorted(unpinned) == ["biored", "mathqa", "medtext"]


@needs_mirror
@pytest.mark.parametrize("task", SIZES)
def test_real_files_give_the_paper_s_number_of_items(task: str) -> None:
    found = items.load(source(task), str(MIRROR))["test"]
    assert len(found) == SIZES[task]
    texts = [row["question"] for row in found]
    assert all(texts)
    if "options" in found.column_names:
        assert all(0 <= row["answer"] < len(row["options"]) and all(row["options"]) for row in found)
    for file in FOLDER.glob("_*_yaml"):  # no worked example is an item
        assert not any(text[:60] in file.read_text() for text in texts)


def test_own_items_are_whole() -> None:
    for file, rows in (("drugs", "choice"), ("arithmetic", "choice"), ("visits", "text"), ("functions", "function")):
        found = items.load(dict(file=f"{file}.jsonl", rows=rows))["test"]
        assert len(found) == len({row["question"] for row in found}) or file == "arithmetic"
