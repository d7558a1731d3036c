"""What a measured number depends on besides its inputs: the package's own code, and the versions of what it imports."""

import ast
import hashlib
import importlib.metadata
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
WITHOUT_EFFECT = {
    "IPython",
    "cloudpickle",
    "dask",
    "dask_jobqueue",
    "distributed",
    "jaxtyping",
    "platformdirs",
    "tqdm",
}  # on numbers
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
UNNAMED = {"transformers": ("tokenizers",)}  # what does the work of a package that is imported


@dataclass(frozen=True)
class Closure:
    """A checksum of the code that a module reaches by imports, and the versions of the packages that it imports."""

    digest: str
    versions: dict[str, str]

    @classmethod
    def of(cls, module: str) -> "Closure":
        """The closure of a module of this package, by its name.

        Comments, docstrings and functions that return a Verdict have no part in it: they change no measured number.
        """
        files = {name: _file(name) for name in _reached(module)}
        parsed = {name: _parsed(file, file.stat().st_mtime_ns) for name, file in files.items()}
        text = "\n".join(f"{name} {parsed[name][0]}" for name in sorted(parsed))
        foreign = sorted(set().union(*(parsed[name][2] for name in parsed)) - WITHOUT_EFFECT)
        named = [name for package in foreign for name in (package, *UNNAMED.get(package, ()))]
        versions = {name: version for name in named if (version := _version(name))}
        return cls(hashlib.sha256(text.encode()).hexdigest(), versions)


def _reached(module: str) -> set[str]:
    """The module and all modules of the package that it imports, in functions too, and those that these import."""
    reached, due = set(), [module]
    while due:
        name = due.pop()
        if name not in reached:
            reached.add(name)
            file = _file(name)
            due += _parsed(file, file.stat().st_mtime_ns)[1]
    return reached


@cache
def _file(module: str) -> Path:
    spec = find_spec(module)
    return Path(spec.origin) if spec and spec.origin else Path()


@cache
def _parsed(file: Path, _changed: int) -> tuple[str, tuple[str, ...], frozenset[str]]:
    """Of a file: a checksum of its code, the package's modules that it imports, and the names of other packages."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not _judges(node)]
    own, foreign = [], set()
    for node in ast.walk(tree):
        for name in _imported(node):
            (own.append if name.partition(".")[0] == PACKAGE else foreign.add)(name)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body.pop(0)
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return digest, tuple(own), frozenset(name.partition(".")[0] for name in foreign) - sys.stdlib_module_names


def _judges(node: ast.stmt) -> bool:
    """Whether it is a judge, or the import of what judges need."""
    if isinstance(node, ast.FunctionDef):
        return node.returns is not None and ast.unparse(node.returns).strip("'\"") == "Verdict"
    return isinstance(node, ast.ImportFrom) and node.module == f"{PACKAGE}.verdict"


def _imported(node: ast.AST) -> list[str]:
    """Names of the modules that a statement imports; `from package import module` may name either."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or not node.module:
        return []
    within = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in within if node.module.startswith(PACKAGE) and _is_module(name)] or [node.module]


@cache
def _is_module(name: str) -> bool:
    return find_spec(name) is not None if find_spec(name.rpartition(".")[0]).submodule_search_locations else False


@cache
def _version(package: str) -> str:
    """The version of the distribution that brings a package; empty for what no distribution brings."""
    names = _distributions().get(package, [package])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
