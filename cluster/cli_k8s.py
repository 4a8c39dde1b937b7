"""`etr render k8s`: the manifest that serves a cluster.yaml on Kubernetes. Ray is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_command import DEFAULT_CONFIG, ConfigPath, command_of, err
from cluster.config import load_config
from cluster.errors import ConfigError
from cluster.yaml_file import read_yaml

app = typer.Typer(no_args_is_help=True, help="Write what another system needs to run the cluster.")
command = command_of(app)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="A file to write.", show_default="the terminal")
]


@command
def k8s(config: ConfigPath = DEFAULT_CONFIG, output: Output = None) -> None:
    """Render a RayService for KubeRay; equal files give equal bytes. Models need not be on this machine."""
    from cluster.k8s import render

    text = render(load_config(config, models_required=False))
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{output}: cannot be written: {error.strerror}; name another file"]) from error
    kept = read_yaml(output)["metadata"]
    name = f"{kept['namespace']}/{kept['name']}"
    err.print(
        f"RayService {name} is in {output}; kubectl apply --server-side --field-manager=etr -f {output}"
    )
