"""Benchmarks of the paper as lm-eval tasks: `lm_eval --include_path` takes this folder."""

from pathlib import Path

FOLDER = Path(__file__).parent
