import shutil

import pytest
import yaml

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family

SPEC = """
title: Mine
summary: A family of two.
limits: None worth a sentence.
pretrained: {name: base, label: Base, license: MIT, source: {kind: folder, path: base}}
fine_tuned:
  - {name: tuned, label: Tuned, license: MIT, role: domain, domain: law, source: {kind: folder, path: tuned}}
prompt: {system: {law: You are a lawyer.}}
"""


@pytest.fixture
def write(tmp_path, make_checkpoint):
    """Write SPEC with changes given as dotted paths; returns the file."""
    for name in ("base", "tuned"):
        make_checkpoint(name)

    def write(**changes):
        spec = yaml.safe_load(SPEC)
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = spec
            for parent in parents:
                place = place[int(parent)] if parent.isdigit() else place.setdefault(parent, {})
            place[last] = value
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(spec), encoding="utf-8")
        return file

    return write


def test_a_family_is_named_after_its_file(write):
    family = Family.load(write())
    assert family.name == "mine" and [m.name for m in family.members] == ["base", "tuned"]
    assert family.member("tuned").domain == "law"


def test_every_specialist_of_a_domain_is_kept_and_the_first_gives_its_vector(write):
    tuned = [
        dict(
            name=name, label=name, license="MIT", role="domain", domain=domain, source=dict(kind="folder", path="tuned")
        )
        for name, domain in (("one", "law"), ("two", "law"), ("third", "poems"), ("fourth", "cooking"))
    ]
    poems = dict(law=["tuningvec_drugs", "tuningvec_visits"], poems=["tuningvec_generation"])
    family = Family.load(write(fine_tuned=tuned, benchmarks=poems))
    assert family.examined == {"law": ["one", "two"]} and family.specialist_of == {"law": "one"}
    assert family.compared == ["base", "one", "two"] and not family.compares_domains
    both = Family.load(write(fine_tuned=tuned, benchmarks=poems | dict(poems=["tuningvec_visits", "gsm8k"])))
    assert both.compares_domains and both.specialist_of == {"law": "one", "poems": "third"}


@pytest.mark.parametrize("name", ["smollm2", "tiny"])
def test_a_copy_under_another_name_is_another_family(tmp_path, name):
    for folder in ("families", "corpora", "replies"):
        shutil.copytree(data_folder() / folder, tmp_path / folder)
    copy = (tmp_path / "families" / f"{name}.yaml").rename(tmp_path / "families" / "another.yaml")
    assert Family.load(copy).name == "another"
    assert Family.load(copy).members == Family.load(name).members


CONTROL = dict(
    name="tuned", label="L", license="MIT", role="control", domain="law", keeps="form", differs="shuffled",
    source=dict(kind="folder", path="tuned"),
)  # fmt: skip


@pytest.mark.parametrize("name", ["smollm2", "tiny"])
def test_controls_are_members_that_no_claim_is_about(name):
    family = Family.load(name)
    controls = {control.name for control in family.controls}
    assert {control.keeps for control in family.controls} == {"facts", "form"}
    assert {m.name for m in family.studied} == {m.name for m in family.members} - controls
    assert not controls & {m.name for m in family.specialists} and not controls & set(family.compared)
    assert set(members.tuning_vectors(family, controls=True)) == set(members.tuning_vectors(family)) | controls


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(colour="red"), ["mine.yaml", "colour", "unknown field"]),
        (dict(pretrained__weight="x"), ["mine.yaml", "pretrained.weight", "unknown field"]),
        (dict(fine_tuned__0__source__url="x"), ["mine.yaml", "fine_tuned.0.source.url", "unknown field"]),
        (dict(fine_tuned__0__role="expert"), ["mine.yaml", "fine_tuned.0.role", "'instruct', 'domain' or", "expert"]),
        (dict(fine_tuned__0__role="control"), ["mine.yaml", "fine_tuned.0", "controls", "keeps", "differs"]),
        (dict(fine_tuned__0__keeps="form"), ["mine.yaml", "fine_tuned.0", "keeps", "only a member of role control"]),
        (
            dict(fine_tuned=[CONTROL | dict(controls="base")]),
            ["mine.yaml", "fine_tuned.0.controls", "'base'", "no member of role domain"],
        ),
        (dict(fine_tuned__0__source__kind="pickle"), ["mine.yaml", "fine_tuned.0.source", "'gguf'", "'adapter'"]),
        (dict(fine_tuned__0__source__path="gone"), ["mine.yaml", "fine_tuned.0.source.path", "no file", "gone"]),
        (dict(fine_tuned__0__name="base"), ["mine.yaml", "name used twice", "base"]),
        (dict(fine_tuned=[]), ["mine.yaml", "fine_tuned", "at least 1"]),
        (dict(prompt__chat_template="gone.jinja"), ["mine.yaml", "prompt.chat_template", "gone.jinja"]),
        (dict(patching="gone.yaml"), ["mine.yaml", "patching: no file", "gone.yaml"]),
        (dict(benchmarks=dict(medicine=[])), ["mine.yaml", "benchmarks.medicine", "at least 1"]),
        (dict(benchmarks={}), ["mine.yaml", "benchmarks", "at least 1"]),
        (dict(corpora__own=dict(kind="files", path="gone")), ["mine.yaml", "corpora.own.path", ".jsonl", "gone"]),
        (dict(corpora__own=dict(kind="files", path="a.txt", tokens=0)), ["mine.yaml", "corpora.own.tokens", "0"]),
        (dict(corpora__own=dict(kind="hub", repo="a/b", revision="main")), ["corpora.own.revision", "main"]),
        (
            dict(fine_tuned__0__source=dict(kind="adapter", path="tuned", base="other")),
            ["mine.yaml", "fine_tuned.0.source.base", "'other'", "base"],
        ),
        (
            dict(pretrained__source=dict(kind="adapter", path="tuned", base="tuned")),
            ["mine.yaml", "pretrained.source", "adapter"],
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_field(write, changes, words):
    with pytest.raises(TuningVecError) as caught:
        Family.load(write(**changes))
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_broken_yaml_is_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("title: [", encoding="utf-8")
    with pytest.raises(TuningVecError, match=r"broken\.yaml: not readable as YAML"):
        Family.load(tmp_path / "broken.yaml")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(TuningVecError, match=r"no family 'gpt9'.*smollm2, .*tiny"):
        Family.load("gpt9")


def test_an_unknown_member_lists_the_known_ones(write):
    with pytest.raises(TuningVecError, match="no member 'x'; there are base, tuned"):
        Family.load(write()).member("x")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("a\n\n```{raw} html\n<b>\n```", r"a \`\`\`\{raw\} html \<b\> \`\`\`"),
        ("[x](javascript:1) {{ 7 * 7 }}", r"\[x\](javascript:1) \{\{ 7 \* 7 \}\}"),
        ("a\u2028b\x0bc", "a b c"),
        ("`medical` and $A$", "`medical` and $A$"),
        (r"$\href{javascript:1}{x}$", r"\$\\href\{javascript:1\}\{x\}\$"),
    ],
)
def test_words_of_a_family_are_shown_as_words(write, said, shown):
    family = Family.load(write(summary=said, limits=said))
    assert family.summary == family.limits == shown


@pytest.mark.parametrize("character", "<>&")
def test_a_title_that_a_search_would_take_for_html_is_refused(write, character):
    with pytest.raises(TuningVecError, match=rf"title: it holds '{character}', .*; leave it out"):
        Family.load(write(title=f"A {character} b"))
    assert Family.load(write(title="A *b*")).title == r"A \*b\*"
