"""Benchmarks of the paper as lm-eval tasks: `lm_eval --include_path` takes this folder."""

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


def writes_text(name: str) -> bool:
    """Whether a task or group of ours is scored by ROUGE-1; False for one of lm-eval."""
    return "rouge1" in _declared().get(name, "")


@cache
def _declared() -> dict[str, str]:
    """What the files of each of our tasks and groups say, with those that they include."""
    texts = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*yaml")}
    names = {name: re.search(r"^(?:task|group): (\w+)$", text, re.MULTILINE) for name, text in texts.items()}
    return {found[1]: _whole(name, texts) for name, found in names.items() if found}


def _whole(name: str, texts: dict[str, str]) -> str:
    included = re.search(r"^include: (\S+)$", texts[name], re.MULTILINE)
    return texts[name] + (_whole(included[1], texts) if included else "")
