"""Imports go down the README's list of rooms, never up and never in a circle."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = re.findall(r"^\| `tuningvec/(\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)


def room(module: str) -> str:
    """The folder of a module of the package; the modules beside the folders are one room below all."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def test_the_readme_lists_every_room() -> None:
    folders = {file.parent.name for file in (ROOT / "tuningvec").glob("*/*.py")}
    assert folders == set(ROOMS)


def test_imports_go_down_the_list_of_rooms() -> None:
    height = {name: number for number, name in enumerate([*ROOMS, ""])}
    back = []
    for file in (ROOT / "tuningvec").rglob("*.py"):
        if file.name == "__main__.py" or file == ROOT / "tuningvec" / "__init__.py":
            continue  # doors to the package: they name what is inside
        here = room(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tuningvec"):
                for alias in node.names:
                    there = room(f"{node.module}.{alias.name}")
                    if height[there] < height[here]:
                        back.append(f"{file.relative_to(ROOT)}: {there or 'base'}")
    assert back == []
