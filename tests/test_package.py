"""What the package hands on, and what that costs."""

import subprocess
import sys

import pytest

import tuningvec

HEAVY = {"pandas", "transformers", "nnsight", "lm_eval", "matplotlib", "datasets", "scipy"}


def imported(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split())


def test_the_names_of_the_readme_cost_no_more_than_torch_and_safetensors():
    names = ", ".join(tuningvec.__all__)
    assert {"Checkpoint", "Combination", "TuningVector", "subspace_alignment", "Family"} == set(tuningvec.__all__)
    assert not imported(f"from tuningvec import {names}") & HEAVY


def test_the_command_line_does_not_wait_for_torch():
    assert "torch" not in imported("import tuningvec.book.cli")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(tuningvec, "Nothing")  # noqa: B009
