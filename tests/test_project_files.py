"""pyproject.toml, constraints.txt, environment.yml and their neighbours say the same thing."""

import re
import shutil
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LARGEST_FILE = 12_000_000


def read_yaml(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def constraint_lines() -> list[str]:
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    names_and_versions = (line.split("==") for line in constraint_lines())
    return {canonicalize_name(name): Version(version) for name, version in names_and_versions}


def requirements() -> list[Requirement]:
    written = PROJECT["dependencies"] + [text for extra in EXTRAS.values() for text in extra]
    return [r for r in map(Requirement, written) if r.name != PROJECT["name"]]


def pip_section() -> list[str]:
    (section,) = [part["pip"] for part in read_yaml("environment.yml")["dependencies"] if isinstance(part, dict)]
    return section


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()]


def test_every_constraint_is_one_exact_public_version():
    assert [line for line in constraint_lines() if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []


def test_no_package_is_pinned_twice():
    assert len(pins()) == len(constraint_lines())


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_a_dependency_is_pinned_within_its_range(requirement: Requirement):
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)], prereleases=True)


def test_no_dependency_is_listed_twice():
    names = [requirement.name for requirement in requirements()]
    assert sorted(set(names)) == sorted(names)


def test_the_project_itself_is_not_pinned():
    assert PROJECT["name"] not in pins()


def test_extra_all_is_every_other_extra():
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == EXTRAS.keys() - {"all"}


def test_python_of_the_conda_environment_is_supported():
    (python,) = [d for d in read_yaml("environment.yml")["dependencies"] if str(d).startswith("python=")]
    assert Version(python.removeprefix("python=")) in SpecifierSet(PROJECT["requires-python"])


def test_conda_environment_uses_the_constraints():
    assert "-c constraints.txt" in pip_section()


def test_conda_environment_installs_an_extra_that_exists():
    (editable,) = [line.removeprefix("-e ") for line in pip_section() if line.startswith("-e ")]
    assert Requirement(editable.replace(".", PROJECT["name"], 1)).extras <= EXTRAS.keys()


def test_workflow_tests_the_python_versions_of_the_classifiers():
    matrix = read_yaml(".github/workflows/tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    assert matrix == [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)]


def test_citation_has_the_version_of_the_package():
    assert str(read_yaml("CITATION.cff")["version"]) == PROJECT["version"]


def test_weights_of_smollm2_are_pinned_as_its_family_says():
    source = read_yaml("data/families/smollm2.yaml")["pretrained"]["source"]
    assert pins()[canonicalize_name(source["package"])] == Version(source["version"])


def test_pre_commit_runs_the_pinned_ruff():
    (rev,) = [r["rev"] for r in read_yaml(".pre-commit-config.yaml")["repos"] if r["repo"].endswith("/ruff-pre-commit")]
    assert Version(rev) == pins()["ruff"]


def test_no_tracked_file_is_large():
    assert [str(f.relative_to(ROOT)) for f in tracked_files() if f.stat().st_size > LARGEST_FILE] == []


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"book/{page.name}" for page in (ROOT / "book").glob("*.md"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_modules_and_files_that_exist(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    for module, names in re.findall(r"^from (tuningvec[\w.]*) import ([\w, ]+)$", text, re.M):
        assert all(hasattr(import_module(module), word) for word in names.split(", ")), module
    paths = re.findall(r"`((?:tuningvec|tests|data|book|notebooks)/[\w./]*\w)`", text)
    made = ("book/results", "data/families/mine.yaml", "notebooks/NN_")  # by a build, by the reader
    assert [path for path in paths if not path.startswith(made) and not (ROOT / path).exists()] == []


def test_notebooks_are_tracked_as_text_only():
    assert [str(f.relative_to(ROOT)) for f in tracked_files() if f.suffix == ".ipynb"] == []


def test_notebooks_are_tested_with_a_store_of_their_own():
    if shutil.which("make") is None:
        pytest.skip("no make")
    said = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "--nbmake" in line]
    (store,) = re.findall(r"^TUNINGVEC_STORE=(\S+) ", line)
    assert Path(store).is_relative_to(ROOT / "build" / "nbmake") and "rm -rf build/nbmake" in said.splitlines()


@pytest.mark.parametrize("name", sorted(str(f.relative_to(ROOT)) for f in (ROOT / "notebooks").glob("*.md")))
def test_references_to_a_family_s_page_have_a_text_to_fall_back_on(name: str):
    """A family may leave the page out, and then the text stands alone."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"\{ref\}`page-[^`<]*\{\{[^`]*`", text) == []


def test_the_book_links_all_data_of_the_paper():
    text = (ROOT / "book" / "references.md").read_text(encoding="utf-8")
    for folder in ("paper", "published"):
        files = {file.name for file in (ROOT / "data" / folder).glob("*.csv*")}
        assert files == set(re.findall(rf"<\.\./data/{folder}/([\w.]+)>", text))
