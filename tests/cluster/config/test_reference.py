"""The JSON Schema and the reference of cluster.yaml say the same as the code that reads the file."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from cluster.config.reference import config_reference, config_schema
from tests.cluster.config.test_cluster_config import FULL, key_paths

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMA = config_schema()
BLOCKS = {"ClusterConfig": SCHEMA, **SCHEMA["$defs"]}


def problems(data: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(data)]


def readme_sample() -> dict[str, Any]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    sample = re.search(r"```yaml\n(.*?meta:.*?)```", text, re.DOTALL)
    assert sample is not None
    data: dict[str, Any] = yaml.safe_load(sample[1])
    return data


def test_the_schema_is_a_valid_json_schema():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "path", ["examples/smollm2/cluster.yaml", "examples/gpu/cluster.yaml", "k8s/demo/cluster.yaml"]
)
def test_the_schema_accepts_every_cluster_yaml_of_the_repository(path: str):
    assert problems(yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))) == []


def test_the_schema_accepts_the_sample_in_the_readme_and_refuses_a_misspelt_key():
    sample = readme_sample()
    assert problems(sample) == []
    assert problems({**sample, "expert": {}}) != []
    sample["meta"]["engine"] = {"max_stream": 3}
    assert problems(sample) != []


def test_the_schema_refuses_every_key_that_is_misspelt_by_one_letter():
    assert problems(FULL) == []
    names_of_the_user = [("experts",), ("meta", "resources", "custom"), ("meta", "resources", "labels")]
    for path in key_paths(FULL):
        if path[:-1] in names_of_the_user:
            continue
        data = copy.deepcopy(FULL)
        block: dict[str, Any] = data
        for key in path[:-1]:
            block = block[key]
        block[f"{path[-1]}x"] = block.pop(path[-1])
        assert problems(data) != [], path


@pytest.mark.parametrize(
    ("meta", "is_valid"),
    [
        ({"engine": {}}, True),
        ({"engine": {"kind": "vllm", "prefix_caching": False}}, True),
        ({"engine": {"kind": "vllm", "num_threads": 1}}, False),
        ({"engine": {"kind": "openai"}}, False),
        ({"engine": {"kind": "vllm", "tensor_parallel": 2}}, False),
        ({"engine": {"kind": "vllm", "compilation": {"mode": 3}, "extra": {"block_size": 32}}}, True),
        ({"engine": {"kind": "vllm", "compilation": "fast"}}, False),
        ({"model": {"path": "a", "hub": "b"}}, False),
        ({"autoscaling": {"min_replicas": "1"}}, False),
    ],
)
def test_the_schema_knows_which_keys_go_together(meta: dict[str, Any], is_valid: bool):
    assert (problems({"meta": {"model": {"path": "models/meta"}, **meta}}) == []) is is_valid


@pytest.mark.parametrize("name", BLOCKS)
def test_every_key_and_every_block_has_a_description(name: str):
    block = BLOCKS[name]
    assert block["description"]
    assert block["additionalProperties"] is False
    for key, field in block["properties"].items():
        text = field.get("description") or BLOCKS[field["$ref"].rpartition("/")[2]]["description"]
        assert re.fullmatch(r"[A-Z`].{8,}\.", text), f"{name}.{key}: {text}"


def test_the_reference_has_a_row_for_every_key_and_resolves_every_link():
    text = config_reference()
    for name, block in BLOCKS.items():
        _, _, section = text.partition(f"\n## {block['title'] if name in SCHEMA['$defs'] else 'Top level'}\n")
        rows = re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], re.MULTILINE)
        assert rows == list(block["properties"]), name
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(titles) == len(set(titles)) == len(BLOCKS)
    anchors = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).lower()) for title in titles}
    assert set(re.findall(r"\(#([^)]+)\)", text)) <= anchors


def test_the_reference_shows_types_bounds_and_defaults():
    text = config_reference()
    assert "| `port` | integer ≥ 1, ≤ 65,535 | `8000` |" in text
    assert "| `when` | `anywhere`, `start` | `anywhere` |" in text
    assert "| `model` | [model: path](#model-path) or [model: hub](#model-hub) or " in text
    assert "At `experts.NAME.remote`, `embeddings.NAME.remote`." in text
    assert "At `kubernetes.pods[]`." in text
