import hashlib
import json
import lzma
import re
import shutil

import pytest

from tuningvec.codec import decoded, encoded
from tuningvec.data import data_folder
from tuningvec.family import shipped
from tuningvec.family.spec import Family
from tuningvec.measures.contributed import problems

SHIPPED = sorted(folder.name for folder in (data_folder() / "measured").iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_can_be_what_was_measured(name):
    assert list(problems(Family.load(name, files=False))) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_small(name):
    assert sum(file.stat().st_size for file in (data_folder() / "measured" / name).iterdir()) < 5_000_000


@pytest.fixture
def altered(tmp_path, monkeypatch):
    """Change one table of what ships of a family, and the checksum with it; returns the problems that are found."""
    for name in ("families", "corpora", "tasks", "replies", "patching"):
        (tmp_path / name).symlink_to(data_folder() / name)
    shutil.copytree(data_folder() / "measured", tmp_path / "measured")
    monkeypatch.setenv("TUNINGVEC_DATA", str(tmp_path))

    def altered(name, change, family=SHIPPED[0]):
        folder = tmp_path / "measured" / family
        about, file = shipped.provenance(folder), folder / f"{name}.json.xz"
        found = decoded(json.loads(lzma.decompress(file.read_bytes())))
        for table in shipped.tables(found):
            change(table)
        about["tables"] = {name: about["tables"][name]}
        file.write_bytes(lzma.compress(json.dumps(encoded(found)).encode()))
        about["tables"][name]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / shipped.PROVENANCE).write_text(json.dumps(about))
        for other in folder.glob("*.json.xz"):
            if other != file:
                other.unlink()
        return list(problems(Family.load(family, files=False)))

    return altered


def cell(column, value, row=3):
    """A change of one cell in every table that has the column."""

    def change(table):
        if column in table:
            table.loc[table.index[row], column] = value

    return change


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("04_2-energy", cell("E_par", 1.0), "SSA = E∥"),
        ("04_2-energy", cell("E_perp", -1.0), "no energy below 0"),
        ("04_2-energy", cell("SSA", 1.5), "SSA from 0 to 1"),
        ("04_2-energy", cell("k", -1), "k at least 0"),
        ("02_4-similarity", cell("cosine", 0.9), "cosine at least"),
        ("02_4-similarity", cell("r", 0.5), "orthogonal = 1"),
        ("02_4-similarity", cell("r", float("inf")), "r: not finite"),
        ("03_3-cosines", cell("cosine", 2.0), r"cosine\| at most its ceiling"),
        ("02_2-shared", cell("phi", -1.1), "phi from -1 to 1"),
        ("02_1-activated", cell("low", 1.0), "low at most high"),
        ("03_3-items", cell("acc", 0.5), "acc is 0.5, the reply scores"),
        ("03_3-items", cell("reply", "Answer: [E]"), "the reply scores"),
        ("03_3-items", cell("prompt", "Another question."), "the prompt lacks the task's"),
        ("03_3-items", cell("item", 0), "an item twice"),
        ("03_3-items", cell("item", 10**6), "other items than|there is no item"),
    ],
)
def test_an_altered_cell_is_found(altered, name, change, words):
    assert any(re.search(words, problem) for problem in altered(name, change))


def test_weights_of_another_family_are_found(altered):
    def change(table):
        for run in table.attrs.get("runs", ()):
            run["inputs"]["weights"] = {"other": [["0" * 24, 1]]}

    assert any("none of the family's" in problem for problem in altered("03_3-items", change))


def test_a_table_unchanged_gives_no_problem(altered):
    assert altered("04_2-energy", lambda table: None) == []
