"""`etr schema`, and the generated pages of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cluster.cli.reference import cli_reference, write_reference
from cluster.config.reference import config_reference, config_schema


def test_etr_schema_prints_the_json_schema(cli: Any):
    result = cli("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == config_schema()


def test_the_reference_has_every_command_with_every_option_of_its_help(cli: Any):
    text = cli_reference()
    commands = re.findall(r"^## etr (.+)$", text, re.MULTILINE)
    assert {"up", "apply", "schema", "experts add", "keys list", "render k8s"} <= set(commands)
    for command in commands:
        section = text.partition(f"\n## etr {command}\n")[2].split("\n## ")[0]
        shown = cli(*command.split(), "--help").stdout
        assert set(re.findall(r"--[a-z][\w-]*", shown)) - {"--help"} <= set(
            re.findall(r"--[a-z][\w-]*", section)
        ), command


def test_every_argument_and_option_is_explained(cli: Any):
    rows = [line.split(" | ") for line in cli_reference().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if not re.fullmatch(r"[A-Z'].+\. \|", row[2])] == []


def test_gpus_and_cpus_of_a_new_expert_are_explained_differently(cli: Any):
    text = cli_reference()
    assert "| `--num-gpus NUMBER` |  | GPUs that one replica reserves. |" in text
    assert "| `--num-cpus NUMBER` |  | CPUs that one replica reserves. |" in text


def test_the_generated_pages_are_the_same_each_time(tmp_path: Path):
    write_reference(tmp_path / "first")
    write_reference(tmp_path / "second")
    for name, text in {"cluster-yaml.md": config_reference(), "cli.md": cli_reference()}.items():
        assert (tmp_path / "first" / name).read_text(encoding="utf-8") == text
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
