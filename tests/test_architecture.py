"""Imports between packages and folders point one way, and no folder or file outgrows its reader."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("router", "experts", "deployments", "cluster")
MAX_FILES_IN_A_FOLDER = 20
MAX_LINES_OF_A_FILE = 250

# For each package, the top-level modules that it does not import.
FORBIDDEN = {
    "router": {"ray", "torch", "transformers", "vllm", "experts", "deployments", "cluster"},
    "experts": {"ray", "router", "deployments", "cluster"},
    "deployments": {"cluster", "torch"},
    "cluster": set[str](),
}
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_lies_below_it(package: str):
    wrong = [
        f"{_name(path)} imports {module}"
        for path in FILES
        if _name(path).startswith(f"{package}.")
        for module in _imports(path)
        if module.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


def test_no_folders_import_each_other_in_a_circle():
    """A folder's own files count as one. Factories import inside functions, and only what a caller chose."""
    below: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        folder = _folder(_name(path))
        below[folder] |= {_folder(module) for module in _own_imports(path, in_functions=False)} - {folder}
    _require_no_circle(below)


def test_no_modules_import_each_other_in_a_circle():
    _require_no_circle({_name(path): {*_own_imports(path)} - {_name(path)} for path in FILES})


def test_no_folder_and_no_file_is_too_long_to_read():
    folders = Counter(str(path.parent.relative_to(REPOSITORY)) for path in FILES)
    assert {name: count for name, count in folders.items() if count > MAX_FILES_IN_A_FOLDER} == {}
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES_OF_A_FILE} == {}


def test_the_test_of_a_folder_lies_under_the_same_path():
    """`tests/router/api/test_keys.py` tests `router/api/`; `tests/system/` tests the whole."""
    folders = {path.parent.relative_to(REPOSITORY) for path in FILES}
    tested = {
        path.parent.relative_to(REPOSITORY / "tests")
        for package in PACKAGES
        for path in (REPOSITORY / "tests" / package).rglob("test_*.py")
    }
    assert tested <= folders


def _require_no_circle(below: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def _name(path: Path) -> str:
    """The module's dotted name; `__init__` stays, so that a package and its folder are told apart."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


def _folder(module: str) -> str:
    return module.rpartition(".")[0]


def _own_imports(path: Path, *, in_functions: bool = True) -> Iterator[str]:
    """The project's modules that a file imports, by the names that `_name` gives them."""
    for module in _imports(path, in_functions=in_functions):
        if module.split(".")[0] not in PACKAGES:
            continue
        is_folder = (REPOSITORY / module.replace(".", "/")).is_dir()
        yield f"{module}.__init__" if is_folder else module


def _imports(path: Path, *, in_functions: bool = True) -> Iterator[str]:
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), in_functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if (REPOSITORY / f"{name.replace('.', '/')}.py").is_file()]
            yield from modules or [node.module]


def _nodes(tree: ast.AST, in_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _nodes(node, in_functions)
