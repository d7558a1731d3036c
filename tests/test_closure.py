"""A measured number belongs to the code and the packages that made it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tuningvec
from tuningvec.closure import Closure

PACKAGE = Path(tuningvec.__file__).parent
MEASURES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if re.search(r"\brecord\(.{0,200}?__name__", file.read_text(encoding="utf-8"), re.DOTALL)
)
ASK = "import json; from tuningvec.closure import Closure; print(json.dumps({m: Closure.of(m).digest for m in %r}))"


def digests(folder):
    done = subprocess.run([sys.executable, "-c", ASK % MEASURES], cwd=folder, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def copy(tmp_path):
    """The package in another folder: change(file, old, new) edits it there."""
    shutil.copytree(PACKAGE, tmp_path / "tuningvec", ignore=shutil.ignore_patterns("__pycache__"))

    def change(file, old, new):
        path = tmp_path / "tuningvec" / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return tmp_path

    return change


def test_every_measure_that_keeps_a_table_names_its_module():
    measures = {name.removeprefix("tuningvec.") for name in MEASURES}
    assert measures >= {"weights.subspace", "weights.delta", "measures.corpus"}
    assert measures >= {f"measures.{name}" for name in ("neurons", "ablation", "patching", "evals")}


def test_a_changed_line_of_checkpoint_makes_every_measure_of_weights_due(copy):
    folder = copy("weights/checkpoint.py", "row = torch.Size(stored.shape[1:]).numel()", "row = 0 + stored.shape[1]")
    before, after = digests(PACKAGE.parent), digests(folder)
    same = {name for name in MEASURES if before[name] == after[name]}
    assert same == {"tuningvec.measures.corpus"}  # which turns text into tokens


def test_a_comment_a_docstring_and_a_judge_make_nothing_due(copy):
    copy("weights/checkpoint.py", '"""Weights on disk', '"""Weights, on disk')
    folder = copy("weights/subspace.py", "\n\n\n", "\n\n\ndef far(x: int) -> Verdict:\n    return x  # judged\n\n\n")
    assert digests(folder) == digests(PACKAGE.parent)


def test_versions_are_those_of_the_packages_that_the_code_imports():
    assert {"torch", "safetensors"} <= Closure.of("tuningvec.weights.subspace").versions.keys()
    assert "transformers" not in Closure.of("tuningvec.weights.subspace").versions
    named = Closure.of("tuningvec.measures.ablation").versions.keys()
    assert {"torch", "transformers", "tokenizers", "nnsight", "lm_eval"} <= named
