import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

from tuningvec.__main__ import main
from tuningvec.book import compendium
from tuningvec.book.compendium import Project
from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.page.finding import badge
from tuningvec.verdict import MEANING

HEADER = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

"""
PAGE = (
    HEADER
    + """# A page · {{ family.title }}

```{code-cell} ipython3
---
tags: [parameters]
---
family = "none"
number = 2
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: "fig-{{ family.name }}", caption: "Of {{ family.title }}."}
---
print(family, number * 21)
```
"""
)
ALONE = (
    HEADER
    + """# About the paper alone

```{code-cell} ipython3
---
tags: [parameters]
---
number = 2
```

```{code-cell} ipython3
from IPython.display import Markdown, display

display(Markdown("x"), metadata={"tuningvec.verdicts": '{"holds": %d, "differs": 1}' % number})
```
"""
)
SPEC = dict(
    title="Mine",
    summary="Two models.",
    limits="Few.",
    pretrained=dict(name="base", label="Base", license="MIT", source=dict(kind="folder", path="base")),
    fine_tuned=[
        dict(
            name="tuned",
            label="L",
            license="MIT",
            role="domain",
            domain="law",
            source=dict(kind="folder", path="tuned"),
        )
    ],
    prompt=dict(system=dict(law="x")),
)


@pytest.fixture
def project(tmp_path, make_checkpoint, monkeypatch):
    """A project of one family and two pages, in a folder of its own."""
    families = tmp_path / "data" / "families"
    families.mkdir(parents=True)
    for shipped in ("corpora", "tasks", "replies", "patching"):
        shutil.copytree(data_folder() / shipped, tmp_path / "data" / shipped)
    (tmp_path / "notebooks").mkdir()
    for seed, name in enumerate(["base", "tuned"]):
        make_checkpoint(name, seed=seed).rename(families / name)
    (families / "mine.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    for name in ("01_one", "02_two"):
        (tmp_path / "notebooks" / f"{name}.md").write_text(PAGE, encoding="utf-8")
    monkeypatch.setenv("TUNINGVEC_DATA", str(tmp_path / "data"))
    return Project.here()


def run(project, names=("mine",)):
    pages = compendium.plan(project, names)
    return pages, [str(page) for page in compendium.execute(compendium.due(pages))]


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="bytes read are counted by Linux")
def test_weights_are_read_once_for_the_checksums_of_all_pages(project):
    file, size = project.root / "data" / "families" / "tuned" / "more.bin", 100_000_000
    file.touch()
    os.truncate(file, size)

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    assert len({page.digest() for page in compendium.plan(project, ["mine"])}) == 2
    assert size < read() - before < 1.5 * size


def test_a_page_is_executed_for_its_family_and_filled_in(project):
    (page, _), executed = run(project)
    assert executed == ["mine/01_one", "mine/02_two"]
    notebook = nbformat.read(page.output, 4)
    assert notebook.cells[0].source == "# A page · Mine"
    assert notebook.cells[-1].outputs[0].text == "mine 42\n"
    assert notebook.cells[-1].metadata.mystnb.figure == {"name": "fig-mine", "caption": "Of Mine."}
    shown = [c.source for c in notebook.cells if c.cell_type == "code" and "remove-cell" not in c.metadata.tags]
    assert sum("number = 2" in source for source in shown) == 1
    assert [c.id for c in notebook.cells] == [f"cell-{i:02d}" for i in range(len(notebook.cells))]


def test_only_what_changed_is_executed_again(project):
    run(project)
    assert run(project)[1] == []
    notebook = project.notebooks[1]
    notebook.write_text(PAGE.replace("21", "22"), encoding="utf-8")
    assert run(project)[1] == ["mine/02_two"]
    weights = project.root / "data" / "families" / "tuned" / "model.safetensors"
    weights.write_bytes((weights.parent.parent / "base" / "model.safetensors").read_bytes())
    assert run(project)[1] == ["mine/01_one", "mine/02_two"]


def test_a_stopped_run_goes_on_with_the_next_page(project):
    pages = compendium.plan(project, ["mine"])
    assert next(compendium.execute(pages)) == pages[0]
    assert run(project)[1] == ["mine/02_two"]


def numbers(project):
    """What each page printed of its number."""
    pages = [nbformat.read(file, 4) for file in sorted((project.executed / "mine").glob("*.ipynb"))]
    outputs = [output for page in pages for cell in page.cells for output in cell.get("outputs", [])]
    return [output.text.split()[-1] for output in outputs if output.output_type == "stream"]


def test_parameters_are_given_to_a_page_and_make_it_due(project):
    assert main(["run", "mine", "-p", "02.number=3"]) == 0 and numbers(project) == ["42", "63"]
    assert "mine/02_two" in project.log.read_text() and "2 of 2 pages" in project.log.read_text()
    begun = project.log.stat().st_size
    assert main(["run", "mine", "-p", "02.number=3"]) == 0
    assert "all 2 pages are as they were last executed" in project.log.read_text()[begun:]
    assert main(["run", "mine", "--only", "01"]) == 0 and numbers(project) == ["42", "63"]
    assert main(["run", "mine"]) == 0 and numbers(project) == ["42", "42"]


def test_a_limit_is_for_every_page_that_has_one(project):
    project.notebooks[1].write_text(PAGE.replace("number", "limit"), encoding="utf-8")
    assert main(["run", "mine", "--limit", "5"]) == 0 and numbers(project) == ["42", "105"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("02", "not of the form PAGE.NAME=VALUE"),
        ("02.number=x", "02_two.number=x: int is needed, as in 2"),
        ("02.number=[", "not readable as YAML"),
        ("02.colour=3", "02_two: no parameter 'colour'; there are number"),
        ("02.family=tiny", "no parameter 'family'"),
        ("09.number=3", "no page 09; there are 01_one, 02_two"),
    ],
)
def test_a_parameter_that_cannot_be_is_said_before_anything_runs(project, capsys, given, said):
    assert main(["run", "mine", "-p", given]) == 1
    assert said in capsys.readouterr().err and not project.executed.exists()


def test_a_page_that_fails_does_not_stop_the_others(project, capsys):
    project.notebooks[0].write_text(PAGE.replace("number * 21", "1 / 0"), encoding="utf-8")
    assert main(["run", "mine"]) == 1 and numbers(project)[-1:] == ["42"]
    said = capsys.readouterr()
    assert "mine/01_one: cell" in said.err and "mine/01_one: failed" in said.out and "mine/02_two: " in said.out


def test_a_failing_page_is_named_with_its_cell_and_not_kept(project, capsys):
    run(project)
    project.notebooks[1].write_text(PAGE.replace("number * 21", "1 / 0"), encoding="utf-8")
    assert main(["run", "mine"]) == 1
    said = capsys.readouterr().err
    assert "mine/02_two: cell" in said and "ZeroDivisionError" in said
    assert (project.executed / "mine" / "01_one.ipynb").is_file()
    assert not (project.executed / "mine" / "02_two.ipynb").exists()


def test_another_copy_of_a_family_has_pages_of_its_own(project):
    spec = project.root / "data" / "families" / "mine.yaml"
    (spec.parent / "yours.yaml").write_bytes(spec.read_bytes())
    pages, _ = run(project, ["mine", "yours"])
    compendium.publish(project, pages)
    shown = sorted(p.relative_to(project.results).as_posix() for p in project.results.rglob("*.ipynb"))
    assert shown == ["mine/01_one.ipynb", "mine/02_two.ipynb", "yours/01_one.ipynb", "yours/02_two.ipynb"]
    figures = {nbformat.read(project.executed / s, 4).cells[-1].metadata.mystnb.figure.name for s in shown}
    assert figures == {"fig-mine", "fig-yours"}
    compendium.publish(project, [p for p in pages if p.family.name == "yours"])
    assert not (project.results / "mine").exists()
    status = (project.results / "status.md").read_text(encoding="utf-8")
    assert "yours/02_two.ipynb" in status and "mine/" not in status


def test_a_page_of_the_paper_alone_is_executed_once_for_all_families(project):
    (project.root / "notebooks" / "03_alone.md").write_text(ALONE, encoding="utf-8")
    spec = project.root / "data" / "families" / "mine.yaml"
    (spec.parent / "yours.yaml").write_bytes(spec.read_bytes())
    pages, executed = run(project, ["mine", "yours"])
    assert [str(page) for page in pages if page.family is None] == ["paper/03_alone"] and len(executed) == 5
    assert run(project, ["mine"])[1] == []
    compendium.publish(project, pages)
    assert (project.results / "paper" / "03_alone.ipynb").is_file()
    assert "| [03_alone](paper/03_alone.ipynb) | the paper alone |" in (project.results / "status.md").read_text(
        "utf-8"
    )
    audit = (project.results / "audit.md").read_text("utf-8")
    assert audit.startswith("3 claims are judged there: [holds]{.holds} 2, [differs]{.differs} 1.")
    assert "(results/paper/03_alone.ipynb)" in audit


def test_a_family_cannot_take_the_name_of_the_papers_pages(project):
    spec = project.root / "data" / "families" / "mine.yaml"
    spec.rename(spec.with_name("paper.yaml"))
    with pytest.raises(TuningVecError, match=r"paper\.yaml: the name 'paper' is taken"):
        compendium.plan(project, ["paper"])


def test_a_page_left_out_is_not_planned(project):
    file = project.root / "data" / "families" / "mine.yaml"
    file.write_text(yaml.safe_dump(SPEC | dict(left_out={"01_one": "no data"})), encoding="utf-8")
    assert [str(p) for p in compendium.plan(project, ["mine"])] == ["mine/02_two"]
    file.write_text(yaml.safe_dump(SPEC | dict(left_out={"09_nine": "no data"})), encoding="utf-8")
    with pytest.raises(TuningVecError, match="left_out: no page '09_nine'; pages are 01_one, 02_two"):
        compendium.plan(project, ["mine"])


def test_a_family_named_twice_is_refused(project):
    with pytest.raises(TuningVecError, match="named twice: mine"):
        compendium.plan(project, ["mine", str(project.root / "data" / "families" / "mine.yaml")])


def test_an_unknown_template_field_names_the_cell(project):
    project.notebooks[0].write_text(PAGE.replace("family.title", "family.colour", 1), encoding="utf-8")
    with pytest.raises(TuningVecError, match=r"cell 0: template: .*colour"):
        run(project)


def test_a_cell_that_does_not_apply_is_dropped(project):
    conditional = PAGE + "\n```{code-cell} ipython3\n---\nwhen: family.recipe\n---\n1 / 0\n```\n"
    project.notebooks[0].write_text(conditional, encoding="utf-8")
    (page, _), _ = run(project)
    assert nbformat.read(page.output, 4).cells[-1].source == "print(family, number * 21)"
    file = project.root / "data" / "families" / "mine.yaml"
    file.write_text(yaml.safe_dump(SPEC | dict(recipe="mine")), encoding="utf-8")
    with pytest.raises(TuningVecError, match="ZeroDivisionError"):
        run(project)


def test_prepared_notebooks_are_filled_in_and_not_executed(project, tmp_path):
    files = compendium.prepare(compendium.plan(project, ["mine"]), tmp_path / "out")
    notebook = nbformat.read(files[0], 4)
    assert notebook.cells[0].source == "# A page · Mine"
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("condition", ["family.recipes", "familly.recipe", "family.recipe and"])
def test_a_condition_that_names_nothing_is_an_error(project, condition):
    conditional = PAGE + f"\n```{{code-cell}} ipython3\n---\nwhen: {condition}\n---\nprint(1)\n```\n"
    project.notebooks[0].write_text(conditional, encoding="utf-8")
    with pytest.raises(TuningVecError, match=rf"cell 'print\(1\)': when: {condition}: "):
        run(project)


def test_a_page_is_due_when_any_module_or_task_of_the_package_changes(project, tmp_path, monkeypatch):
    package = tmp_path / "tuningvec"
    shutil.copytree(Path(compendium.__file__).parent.parent, package)
    monkeypatch.setattr(compendium, "__file__", str(package / "book" / "compendium.py"))
    page, _ = compendium.plan(project, ["mine"])
    before = page.digest()
    for file in ("weights/delta.py", "measures/neurons.py", "tasks/gsm8k.yaml", "tasks/_maths_yaml"):
        (package / file).write_text((package / file).read_text() + "# another line\n")
        assert page.digest() != before, file
        before = page.digest()


def test_weights_are_read_for_their_digest_once_and_not_once_a_page(project, monkeypatch):
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda stream, name: read.append(stream.name) or digest(stream, name))
    for page in compendium.plan(project, ["mine"]):
        page.digest()
    weights = [name for name in read if name.endswith(".safetensors")]
    assert len(weights) == len(set(weights)) == 2


def test_the_front_page_defines_the_verdicts_and_puts_controls_last(project):
    cells = "".join(
        f"""
```{{code-cell}} ipython3
from tuningvec.page.finding import finding
from tuningvec.verdict import Verdict

finding("{claim}", paper="p", here="h", verdict=Verdict("mixed", "rule", "1 of 2"), control={control})
```
"""
        for claim, control in (("A control", True), ("A claim", False))
    )
    warns = "\n```{code-cell} ipython3\nimport os, sys\n\nprint(os.getcwd(), file=sys.stderr)\n```\n"
    project.notebooks[0].write_text(PAGE + cells + warns, encoding="utf-8")
    pages, _ = run(project)
    compendium.publish(project, pages)
    text = (project.results / "findings.md").read_text(encoding="utf-8")
    meanings = (project.results / "meanings.md").read_text(encoding="utf-8")
    assert all(f"- {badge(kind)}: {said}" in meanings for kind, said in MEANING.items())
    index = (Path(__file__).parent.parent / "book" / "index.md").read_text(encoding="utf-8")
    assert index.index("{include} results/meanings.md") < index.index("{include} results/findings.md")
    assert text.index("| A claim | [{ref}`mixed <finding-") < text.index("| A control |")
    shown = "".join(file.read_text(encoding="utf-8") for file in project.results.rglob("*.ipynb"))
    assert str(project.root) not in shown


def test_a_page_shows_what_the_dtype_came_to_and_is_due_when_that_is_asked_to_be_another(project, monkeypatch):
    project.notebooks[0].write_text(PAGE.replace("number = 2", 'number = 2\ndtype = "auto"'), encoding="utf-8")
    monkeypatch.setenv("TUNINGVEC_DTYPE", "float32")
    pages, _ = run(project)
    (shown,) = [
        c for c in nbformat.read(pages[0].output, 4).cells if "injected-parameters" in c.metadata.get("tags", [])
    ]
    assert 'dtype = "float32"' in shown.source
    compendium.publish(project, pages)
    status = (project.results / "status.md").read_text(encoding="utf-8")
    assert re.search(r"01_one\.ipynb\) \| Mine \| \d+ \| (0\.\d|–) \| float32 \|", status) and " thread" in status
    monkeypatch.setenv("TUNINGVEC_DTYPE", "bfloat16")
    assert run(project)[1] == ["mine/01_one", "mine/02_two"]


def test_a_log_tells_of_a_run_before_in_and_after_it(project, capfd):
    assert main(["run", "mine"]) == 0
    first, *lines = capfd.readouterr().out.splitlines()
    assert first.startswith("2 of 2 pages are to be executed, on ") and "a time not known yet" in first
    assert lines[0] == "page 1 of 2 · mine/01_one · time left unknown" and lines[1].startswith("mine/01_one: ")
    project.notebooks[1].write_text(PAGE.replace("21", "22"), encoding="utf-8")
    assert main(["run", "mine"]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("1 of 2 pages are to be executed") and ": about 10 s." in said.out
    assert "TCP" not in said.err
    assert main(["run", "mine"]) == 0
    assert capfd.readouterr().out == "all 2 pages are as they were last executed\n"


def test_ctrl_c_ends_with_one_sentence_and_no_kernel(project):
    file = project.root / "started"
    slow = f"import os, time\nopen({str(file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    project.notebooks[1].write_text(PAGE.replace("print(family, number * 21)", slow), encoding="utf-8")
    command = [sys.executable, "-m", "tuningvec", "run", "mine"]
    running = subprocess.Popen(  # a shell has what it starts in the background ignore interrupts, and tests with it
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not (file.is_file() and file.read_text()):
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1 and "another run is at work here; wait for it, or work in a copy" in second.stderr
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert said.strip().splitlines() == [
        "tuningvec: stopped at page 2 of 2, mine/02_two; the pages before it are kept, and what was measured for it up "
        "to the last whole piece; the same command goes on from there"
    ]
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)
    project.notebooks[1].write_text(PAGE, encoding="utf-8")
    assert run(project)[1] == ["mine/02_two"]


def test_the_book_is_built_again_only_of_other_sources(project):
    (project.root / "book").mkdir()
    (project.root / "build").mkdir()
    (project.root / "_config.yml").write_text(
        "title: T\nonly_build_toc_files: true\nsphinx: {config: {language: en}}\n"
    )
    (project.root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    chapter = project.root / "book" / "index.md"
    chapter.write_text("# One\n")
    page = compendium.build(project).parent / "book" / "index.html"
    before = page.stat().st_mtime_ns
    compendium.build(project)
    assert page.stat().st_mtime_ns == before
    chapter.write_text("# Two\n")
    compendium.build(project)
    assert "Two" in page.read_text(encoding="utf-8") and page.stat().st_mtime_ns > before
    chapter.write_text("# Three\n\n{ref}`nothing`\n")
    for _ in range(2):
        with pytest.raises(TuningVecError, match="the former one is untouched"):
            compendium.build(project)
    assert "Two" in page.read_text(encoding="utf-8")
