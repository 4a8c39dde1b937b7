"""The documentation agrees with the files and with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster.cli.reference import write_reference
from cluster.config.reference import config_schema

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("router", "experts", "deployments", "cluster")
REFERENCE = REPOSITORY / "docs" / "reference"
PAGES = sorted(
    page
    for page in REPOSITORY.rglob("*.md")
    if not any(part.startswith(".") for part in page.relative_to(REPOSITORY).parts)
)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:router|experts|deployments|cluster|benchmarks|docs|examples|k8s|tests)/[\w./-]*)`")


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments that headings of the page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def listed_files() -> Iterator[str]:
    """The paths in the tables of `docs/architecture.md`, whose headings name the folders."""
    tree = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Every file\n")[1]
    folder = ""
    for line in tree.splitlines():
        if heading := re.match(r"### `([\w/]+/)`", line):
            folder = heading[1]
        elif row := re.match(r"\| `([\w.]+\.py)` \| \S", line):
            yield folder + row[1]


def test_the_architecture_page_lists_every_file_once():
    listed = list(listed_files())
    files = {
        page_name(path)
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(listed) == sorted(files)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_relative_links_resolve(page: Path):
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_paths_in_the_text_exist(page: Path):
    assert not [path for path in PATH.findall(prose(page)) if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_samples_of_cluster_yaml_keep_its_schema(page: Path):
    schema = config_schema()
    for block in YAML_BLOCK.findall(page.read_text(encoding="utf-8")):
        sample = yaml.safe_load(block)
        if sample.keys() <= schema["properties"].keys():
            jsonschema.validate({"meta": {"model": {"path": "meta"}}, **sample}, schema)


def test_the_generated_reference_is_what_the_code_generates(tmp_path: Path):
    write_reference(tmp_path)
    generated = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert generated.keys() == {"api-fields.md", "cluster-yaml.md", "cli.md"}
    for name, text in generated.items():
        assert (REFERENCE / name).read_text(encoding="utf-8") == text, (
            f"docs/reference/{name} is out of date; run: python -m cluster.cli.reference docs/reference"
        )
