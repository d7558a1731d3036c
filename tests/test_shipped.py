import hashlib
import json
import lzma
import shutil

import pytest
import yaml
from IPython.utils.capture import capture_output
from pandas.testing import assert_frame_equal

from tests.test_family import SPEC
from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family import members, shipped
from tuningvec.family.shipped import kept
from tuningvec.family.spec import Family
from tuningvec.measures import preflight
from tuningvec.store import Store
from tuningvec.weights.subspace import subspace_alignment

epsilons, names = [0.05, 0.1], ["tuned"]


def aligned(spec):
    theta, T = members.checkpoint(spec), members.tuning_vectors(spec)
    return subspace_alignment(theta, {name: T[name] for name in names}, epsilons, Store())


@pytest.fixture
def families(tmp_path, make_checkpoint, monkeypatch):
    """A data folder with the family `mine`, whose weights are at hand."""
    data = tmp_path / "data"
    (data / "families").mkdir(parents=True)
    for folder in ("corpora", "tasks", "replies", "patching"):
        shutil.copytree(data_folder() / folder, data / folder)
    for seed, name in enumerate(["base", "tuned"]):
        make_checkpoint(name, seed=seed).rename(data / "families" / name)
    (data / "families" / "mine.yaml").write_text(SPEC, encoding="utf-8")
    monkeypatch.setenv("TUNINGVEC_DATA", str(data))
    return data / "families"


@pytest.fixture
def measured(families, tmp_path, monkeypatch):
    """What two calls measured of `mine`, after which its fine-tuned weights went."""
    monkeypatch.setenv(shipped.STAGE, str(tmp_path / "stage"))
    family = shipped.exportable("mine")
    found = kept(family, "alignment", aligned), kept(family, "preflight", preflight.preflight)
    shipped.export(tmp_path / "stage", family, dict(commit="abc", dtype="float32"))
    monkeypatch.delenv(shipped.STAGE)
    shutil.rmtree(families / "tuned")
    return found


def test_what_ships_is_what_was_measured_bit_for_bit(families, measured):
    family = Family.load("mine")
    assert family.shipped == data_folder() / "measured" / "mine"
    for table, (name, call) in zip(measured, [("alignment", aligned), ("preflight", preflight.preflight)], strict=True):
        assert_frame_equal(kept(family, name, call), table, check_exact=True)
    runs = kept(family, "alignment", aligned).attrs["runs"]
    assert [run["inputs"]["weights"] for run in runs] == [run["inputs"]["weights"] for run in measured[0].attrs["runs"]]


def test_the_provenance_names_weights_texts_code_and_machine(families, measured):
    about = shipped.provenance(Family.load("mine").shipped)
    base = hashlib.sha256((families / "base" / "model.safetensors").read_bytes()).hexdigest()
    assert about["weights"]["base"]["model.safetensors"] == base and set(about["weights"]) == {"base", "tuned"}
    assert {"general.jsonl", "drugs.jsonl", "drugs.yaml"} <= set(about["reading"])
    assert about["commit"] == "abc" and about["machines"] and "torch" in about["versions"]
    assert about["tables"]["alignment"]["parameters"] == {"epsilons": epsilons, "names": names}


def test_with_the_weights_at_hand_nothing_is_read_from_what_ships(families, measured):
    shutil.copytree(families / "base", families / "tuned")
    family = Family.load("mine")
    assert family.shipped is None
    assert kept(family, "alignment", aligned).empty  # T of the copy is 0 throughout


def test_other_parameters_are_refused(families, measured, monkeypatch):
    monkeypatch.setitem(aligned.__globals__, "epsilons", [0.2])
    with pytest.raises(TuningVecError, match=r"alignment: epsilons \[0.05, 0.1\] then, \[0.2\] now; measure it again"):
        kept(Family.load("mine"), "alignment", aligned)


def test_another_call_is_refused(families, measured):
    def aligned(spec):
        theta, T = members.checkpoint(spec), members.tuning_vectors(spec)
        return subspace_alignment(theta, {name: T[name] for name in names}, epsilons)

    with pytest.raises(TuningVecError, match="alignment: the page's call has changed since"):
        kept(Family.load("mine"), "alignment", aligned)


def test_a_table_that_does_not_ship_is_named(families, measured):
    with pytest.raises(TuningVecError, match="no 'scores' ships; there are alignment, preflight"):
        kept(Family.load("mine"), "scores", aligned)


def test_an_altered_file_is_refused(families, measured):
    family = Family.load("mine")
    file = family.shipped / "alignment.json.xz"
    text = lzma.decompress(file.read_bytes()).replace(b"W_gate", b"W_up", 1)
    file.write_bytes(lzma.compress(text))
    with pytest.raises(TuningVecError, match=r"alignment\.json\.xz: sha256 is \w+, in provenance.json"):
        kept(family, "alignment", aligned)
    file.unlink()
    with pytest.raises(TuningVecError, match=r"alignment\.json\.xz: sha256"):
        kept(family, "alignment", aligned)


def test_an_altered_text_is_refused(families, measured):
    with (families.parent / "corpora" / "general.jsonl").open("a") as file:
        file.write('{"text": "One more."}\n')
    with pytest.raises(TuningVecError, match=r"texts have changed since: general.jsonl"):
        kept(Family.load("mine"), "alignment", aligned)


@pytest.mark.parametrize("change", [dict(prompt=dict(system={})), dict(benchmarks={"law": ["tuningvec_drugs"]})])
def test_another_spec_is_refused_and_other_words_are_not(families, measured, change):
    file = families / "mine.yaml"
    spec = yaml.safe_load(SPEC) | dict(title="Ours", summary="Other words.", limits="Fewer.")
    file.write_text(yaml.safe_dump(spec))
    assert len(kept(Family.load("mine"), "alignment", aligned))
    file.write_text(yaml.safe_dump(spec | change))
    with pytest.raises(TuningVecError, match="spec has changed since in more than its words"):
        kept(Family.load("mine"), "alignment", aligned)


def test_other_weights_of_the_family_beside_are_refused(families, tmp_path, make_checkpoint, monkeypatch):
    for name in ("base", "tuned"):
        shutil.copytree(families / name, families / f"other_{name}")
    spec = yaml.safe_load(SPEC.replace("path: base", "path: other_base").replace("path: tuned", "path: other_tuned"))
    (families / "other.yaml").write_text(yaml.safe_dump(spec))
    (families / "mine.yaml").write_text(yaml.safe_dump(yaml.safe_load(SPEC) | dict(beside="other")))
    monkeypatch.setenv(shipped.STAGE, str(tmp_path / "stage"))
    family = shipped.exportable("mine")
    kept(family, "alignment", aligned)
    shipped.export(tmp_path / "stage", family, dict(commit="abc", dtype="float32"))
    monkeypatch.delenv(shipped.STAGE)
    assert "other/tuned" in shipped.provenance(shipped.folder(family))["weights"]
    shutil.rmtree(families / "tuned")
    assert len(kept(Family.load("mine"), "alignment", aligned))
    shutil.rmtree(families / "other_tuned")
    make_checkpoint("again", seed=7).rename(families / "other_tuned")
    with pytest.raises(TuningVecError, match="weights of other/tuned have changed since"):
        kept(Family.load("mine"), "alignment", aligned)


def test_a_text_that_came_later_changes_nothing(families, measured):
    (families.parent / "tasks" / "later.jsonl").write_text("{}\n")
    assert len(kept(Family.load("mine"), "alignment", aligned))


@pytest.fixture
def recorded(families, tmp_path, monkeypatch):
    """What a long page of `mine` measured; its weights stay at hand."""
    monkeypatch.setenv(shipped.STAGE, str(tmp_path / "stage"))
    family = shipped.exportable("mine")
    found = kept(family, "06_3-alignment", aligned)
    shipped.export(tmp_path / "stage", family, dict(commit="abc", dtype="float32"), where="records")
    monkeypatch.delenv(shipped.STAGE)
    return found


def marked(families):
    """The record with one value that no measure gives, by which one sees that it was read."""
    source = families.parent / "records" / "mine"
    file = source / "06_3-alignment.json.xz"
    file.write_bytes(lzma.compress(lzma.decompress(file.read_bytes()).replace(b"W_gate", b"W_mark")))
    about = json.loads((source / "provenance.json").read_text())
    about["tables"]["06_3-alignment"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (source / "provenance.json").write_text(json.dumps(about))


def is_read():
    """Whether the call of the long page reads its record, and says so once for the page."""
    shipped._told.clear()
    with capture_output() as captured:
        found, _ = (kept(Family.load("mine"), "06_3-alignment", aligned) for _ in range(2))
    said = sum("Measured elsewhere" in output.data["text/markdown"] for output in captured.outputs)
    assert said == int((found.kind == "W_mark").any())
    return bool(said)


def test_a_long_page_is_read_from_its_record(families, recorded, shell):
    family = Family.load("mine")
    assert family.shipped is None and shipped.records(family, "06_3") and not shipped.records(family, "06_4")
    assert_frame_equal(kept(family, "06_3-alignment", aligned), recorded, check_exact=True)
    marked(families)
    assert is_read()


@pytest.mark.parametrize("change", ["weights", "texts", "spec", "parameters", "fresh", "page"])
def test_a_long_page_is_measured_where_something_changed(
    families, recorded, make_checkpoint, monkeypatch, shell, change
):
    marked(families)
    if change == "weights":
        shutil.rmtree(families / "tuned")
        make_checkpoint("again", seed=7).rename(families / "tuned")
    elif change == "texts":
        (families.parent / "corpora" / "general.jsonl").write_text('{"text": "One."}\n')
    elif change == "spec":
        spec = yaml.safe_load(SPEC) | dict(prompt=dict(system={}))
        (families / "mine.yaml").write_text(yaml.safe_dump(spec))
    elif change == "parameters":
        monkeypatch.setitem(aligned.__globals__, "epsilons", [0.2])
    elif change == "fresh":
        monkeypatch.setenv("TUNINGVEC_FRESH", "1")
    else:
        assert not (kept(Family.load("mine"), "06_4-alignment", aligned).kind == "W_mark").any()
        return
    assert not is_read()


def test_records_of_pages_are_renewed_one_by_one(families, recorded):
    family = Family.load("mine")
    assert set(shipped.still(family, ["06_4"], "float32", "records")) == {"06_3-alignment"}
    assert shipped.still(family, ["06_3"], "float32", "records") == {}


def test_one_page_is_measured_again_and_the_others_stay(families, tmp_path, monkeypatch):
    def export(commit, *names, only=()):
        stage = tmp_path / commit
        monkeypatch.setenv(shipped.STAGE, str(stage))
        family = shipped.exportable("mine")
        kept_ones = shipped.still(family, only, "float32") if only else None
        found = {name: kept(family, name, aligned) for name in names}
        shipped.export(stage, family, dict(commit=commit, dtype="float32"), kept_ones)
        monkeypatch.delenv(shipped.STAGE)
        return found

    first = export("one", "02_5-maps", "03_1-items")
    export("two", "02_5-moves", only=["02_5"])
    tables = shipped.provenance(shipped.folder(Family.load("mine")))["tables"]
    assert {name: one["commit"] for name, one in tables.items()} == {"02_5-moves": "two", "03_1-items": "one"}
    assert sorted(f.name for f in shipped.folder(Family.load("mine")).glob("*.xz")) == [f"{n}.json.xz" for n in tables]
    monkeypatch.setattr(shipped, "_reading", lambda family: {})
    with pytest.raises(TuningVecError, match="reading changed since; export all pages of mine"):
        shipped.still(Family.load("mine"), ["02_5"], "float32")
    monkeypatch.undo()
    monkeypatch.setenv("TUNINGVEC_DATA", str(families.parent))
    shutil.rmtree(families / "tuned")
    family = Family.load("mine")
    assert_frame_equal(kept(family, "03_1-items", aligned), first["03_1-items"], check_exact=True)
    assert "`two` and `one`" in shipped.notice(family)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"tables": {}}'])
def test_an_unreadable_provenance_is_refused(families, measured, text):
    family = Family.load("mine")
    (family.shipped / shipped.PROVENANCE).write_text(text)
    with pytest.raises(TuningVecError, match=r"provenance\.json: n"):
        kept(family, "alignment", aligned)


def test_only_a_named_family_with_its_weights_is_exported(families, measured, tmp_path):
    with pytest.raises(TuningVecError, match="its weights are not at hand"):
        shipped.exportable("mine")
    shutil.copytree(families, tmp_path / "elsewhere")
    shutil.copytree(families / "base", tmp_path / "elsewhere" / "tuned")
    with pytest.raises(TuningVecError, match="looked for by a family's name"):
        shipped.exportable(str(tmp_path / "elsewhere" / "mine.yaml"))


def test_what_would_not_come_back_the_same_is_not_staged(families, tmp_path, monkeypatch):
    monkeypatch.setenv(shipped.STAGE, str(tmp_path / "stage"))
    with pytest.raises(TuningVecError, match="no such object can be exported"):
        kept(Family.load("mine"), "weights", members.checkpoint)
    with pytest.raises(TuningVecError, match="measured anything"):
        shipped.export(tmp_path / "stage", Family.load("mine"), {})


def test_names_of_what_pages_keep_are_unique_and_begin_with_their_page():
    import re

    found = {
        file.stem: re.findall(r'kept\(\s*spec, "([^"]+)"', file.read_text(encoding="utf-8"))
        for file in (data_folder().parent / "notebooks").glob("*.md")
    }
    every = [name for names in found.values() for name in names]
    assert len(every) == len(set(every)) > 12
    assert all(stem.startswith(name.partition("-")[0] + "_") for stem, names in found.items() for name in names)
