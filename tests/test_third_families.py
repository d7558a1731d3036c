"""Families that others may bring, each through every page: the pages' own cells on small real checkpoints."""

import os
import random
import shutil

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from conftest import ARCHITECTURES
from IPython.core.interactiveshell import InteractiveShell

from tuningvec.book import compendium, template
from tuningvec.book.compendium import Project
from tuningvec.book.template import left_out
from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
READS = dict(vocab_size=2400, max_position_embeddings=512, eos_token_id=2, bos_token_id=None)
SHORT = dict(
    limit=2, batch=4, turns=3, texts=2, words=12, shares=[0.05, 1.0], likelihood=["tuningvec_drugs_likelihood"]
)
OWN = {  # of pages by name
    "03_2_negation": dict(scales=[0, 0.5, 1]),
    "03_4_addition": dict(scales=[0.5, 1]),
    "06_1_path": dict(scales=[-0.5, 0, 0.5, 1, 1.5]),
    "06_2_permutation": dict(lengths=[1, 64], depth=2, tokens=64),
    "06_3_composition": dict(
        shares=[0, 1], replies=8, settings=[["sum", [0.5, 1], None], ["TIES", [1, 1.5], [0.5, 0.5]]]
    ),
}
DRUGS, VISITS, SUMS = "tuningvec_drugs", "tuningvec_visits", "tuningvec_arithmetic"
CORPORA = {
    name: dict(kind="files", path=str(data_folder() / "corpora" / f"{file}.jsonl"), tokens=768, window=32)
    for name, file in (("medical", "drug_facts"), ("general", "other_facts"))
}
NOT_OURS = {"06_lora_or_full", "06_4_subspace_tuning", "06_5_start"}  # no family beside them, no recipe
NO_SUM, NO_PAIR, NO_SPECIALIST = (
    {"03_4_addition", "06_3_composition"},
    {"03_3_cross_domain"},
    {"03_2_negation", "06_1_path"},
)


@pytest.fixture
def family(tmp_path, make_checkpoint):
    """Write a family of random members, {name: (role, domain, changes of its config)}; returns its file."""

    def made(name, architecture, tuned, reads=None, controls=None, **fields):
        members = {"base": (None, None, {}), **tuned}
        for seed, (member, (_, _, changes)) in enumerate(members.items()):
            folder = make_checkpoint(member, architecture, seed, **{**READS, **(reads or {}), **changes})
            for file in TOKENIZER:
                shutil.copy(data_folder() / "families" / "tiny" / "pretrained" / file, folder / file)
        about = {
            member: dict(name=member, label=member, license="MIT", source=dict(kind="folder", path=member))
            for member in members
        }
        tuned_about = [about[member] | dict(role=role, domain=domain) for member, (role, domain, _) in tuned.items()]
        for member in tuned_about:
            member |= (controls or {}).get(member["name"], {})
        worked = {domain: [] for domain in ("medicine", "math", "notes", "code")}
        spec = dict(
            title=name, summary="Random.", limits="All.", pretrained=about["base"], fine_tuned=tuned_about,
            prompt=dict(system=dict.fromkeys(worked, "Answer."), worked=worked), corpora=CORPORA,
            benchmarks=dict(medicine=[DRUGS], math=[SUMS]),
        )  # fmt: skip
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(spec | fields), encoding="utf-8")
        return file

    return made


def specialist(domain, **changes):
    return ("domain", domain, changes)


def control(domain):
    return ("control", domain, {})


FAMILIES = {
    "gemma": dict(
        architecture="gemma3", reads=dict(max_position_embeddings=448),
        tuned=dict(medical=specialist("medicine"), maths=specialist("math")),
        benchmarks=dict(medicine=[DRUGS, VISITS], math=[SUMS]),  # the visits are longer than it reads
    ),
    "rows": dict(  # its fine-tune has rows for more words
        architecture="qwen3",
        tuned=dict(
            medical=specialist("medicine", vocab_size=2432), maths=specialist("math"), again=control("medicine"),
            sham=control("medicine"),
        ),
        controls={
            name: dict(controls="medical", keeps=keeps, differs="It was drawn by another seed.")
            for name, keeps in (("again", "facts"), ("sham", "form"))
        },
    ),
    "fused": dict(architecture="phi3", tuned=dict(one=specialist("medicine"), two=specialist("medicine"))),
    "twins": dict(
        architecture="mistral",
        tuned=dict(one=specialist("medicine"), two=specialist("medicine"), maths=specialist("math")),
    ),
    "chat": dict(architecture="llama", tuned=dict(instruct=("instruct", "chat", {}))),
    "written": dict(
        architecture="qwen3", reads=dict(max_position_embeddings=4096),
        tuned=dict(medical=specialist("medicine"), maths=specialist("math")), benchmarks=dict(medicine=[VISITS]),
    ),
    "single": dict(
        architecture="llama", tuned=dict(medical=specialist("medicine")), benchmarks=dict(medicine=[DRUGS]),
        corpora={"medical": CORPORA["medical"]},
    ),
}  # fmt: skip
GONE = {
    "gemma": set(),
    "rows": set(),
    "fused": NO_SUM,
    "twins": set(),
    "chat": NO_SPECIALIST | NO_PAIR | NO_SUM,
    "written": NO_SUM | {"03_2_negation"},
    "single": NO_PAIR | NO_SUM,
}


def executed(page, folder):
    """The texts that a page shows when its cells run here one after the other, on few items."""
    (file,) = compendium.prepare([page], folder)
    shell, shown = InteractiveShell.instance(), []
    shell.reset(new_session=False)
    shell.user_module.__spec__ = None  # processes that are spawned ask __main__ for it
    publish = shell.display_pub.publish
    shell.display_pub.publish = lambda data, *_, **__: shown.append(data.get("text/markdown", ""))
    try:
        for cell in nbformat.read(file, 4).cells:
            if cell.cell_type != "code":
                shown.append(cell.source)
                continue
            shell.run_cell(cell.source).raise_error()
            if "injected-parameters" in cell.metadata.get("tags", []):
                short = SHORT | OWN.get(page.notebook.stem, {})
                shell.user_ns |= {name: value for name, value in short.items() if name in shell.user_ns}
    finally:
        shell.display_pub.publish = publish
        plt.close("all")
    return "\n".join(shown)


def every_page(file, folder):
    """What each page of a family shows, by its name; all must run."""
    texts, failed = {}, {}
    for page in (page for page in compendium.plan(Project.here(), [str(file)]) if page.family):
        try:
            texts[page.notebook.stem] = executed(page, folder / "pages")
        except Exception as error:
            failed[page.notebook.stem] = f"{type(error).__name__}: {error}"
    assert not failed, "\n".join(f"{stem}: {error}" for stem, error in failed.items())
    return texts


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_page_runs_or_says_why_not(name, family, tmp_path, shell):
    file = family(name, **FAMILIES[name])
    assert set(left_out(Family.load(file))) == GONE[name] | NOT_OURS
    texts = every_page(file, tmp_path)
    for stem, reason in left_out(Family.load(file)).items():
        assert f"- `{stem}`: {reason}" in texts["01_families"] and stem not in texts
    whole = "\n".join(texts.values())
    assert ("cannot read tuningvec_visits" in whole) == (name == "gemma")
    for reference in ("page-edit", "page-activated"):
        assert f"<{reference}-{name}>" in whole


@pytest.mark.skipif("TUNINGVEC_SOAK" not in os.environ, reason="a long trial: `make soak`")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seed", range(30))
def test_every_page_runs_of_families_drawn_at_random(seed, family, tmp_path, shell):
    rng = random.Random(seed)
    architecture, domains = rng.choice(sorted(ARCHITECTURES)), ["medicine", "math", "code"]
    tuned = {f"m{i}": specialist(rng.choice(domains)) for i in range(rng.randint(1, 3))}
    if rng.random() < 0.5:
        tuned["instruct"] = ("instruct", "chat", {})
    controls = {}
    for name, keeps in (("again", "facts"), ("sham", "form")):
        if rng.random() < 0.4:
            tuned[name] = control(tuned["m0"][1])
            controls[name] = dict(controls="m0", keeps=keeps, differs="It was drawn by another seed.")
    some = dict(medicine=rng.choice([[DRUGS], [DRUGS, VISITS], [VISITS]]), math=[SUMS], code=["tuningvec_functions"])
    benchmarks = {domain: some[domain] for domain in domains if rng.random() < 0.8} or dict(math=[SUMS])
    reads = dict(max_position_embeddings=rng.choice([512, 1024, 4096]))
    file = family(f"drawn{seed}", architecture, tuned, reads, controls, benchmarks=benchmarks)
    assert "01_families" in every_page(file, tmp_path)


def test_a_misspelt_rule_is_an_error(monkeypatch):
    monkeypatch.setattr(template, "_notebooks", lambda: {"09_nine": "---\nneeds: {family.colour: a colour}\n---\n"})
    with pytest.raises(TuningVecError, match=r"09_nine: needs: family\.colour: .*colour"):
        left_out(Family.load("tiny"))


def test_a_reference_to_a_page_that_is_left_out_is_its_text(monkeypatch):
    page = "---\nneeds: {family.recipe == 'none': another}\n---\n(page-a-{{ family.name }})=\n"
    monkeypatch.setattr(
        template, "_notebooks", lambda: {"a": page, "b": page.replace("page-a", "page-b").replace("==", "!=")}
    )
    text = "{ref}`the first <page-a-tiny>`, {ref}`the second <page-b-tiny>`, {{ left_out.a }}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    notebook.metadata["papermill"] = nbformat.NotebookNode(parameters=dict(family="tiny"))
    template.fill(notebook)
    assert notebook.cells[0].source == "the first, {ref}`the second <page-b-tiny>`, another"
