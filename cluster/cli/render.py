"""`etr render k8s`: the Kubernetes manifest of a cluster. Ray is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.command import DEFAULT_CONFIG, ConfigPath, command_of, load_with_warnings, note
from cluster.errors import ConfigError
from cluster.yaml_files.reader import read_yaml

app = typer.Typer(no_args_is_help=True, help="Write the manifest of the cluster for another system.")
command = command_of(app)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write.", show_default="standard output")
]


@command
def k8s(config: ConfigPath = DEFAULT_CONFIG, output: Output = None) -> None:
    """Write a RayService for KubeRay. The models need not be on this machine."""
    from cluster.kuberay.render import render

    text = render(load_with_warnings(config, models_required=False))
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{output}: cannot be written: {error.strerror}; name another file"]) from error
    metadata = read_yaml(output)["metadata"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    note(f"RayService {name} is in {output}; kubectl apply --server-side --field-manager=etr -f {output}")
