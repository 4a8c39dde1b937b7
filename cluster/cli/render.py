"""`etr render`: files about a cluster for other systems. Ray is imported only when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import options as option
from cluster.cli.command import DEFAULT_CONFIG, ConfigPath, command_of, info, load_with_warnings, note
from cluster.errors import ConfigError
from cluster.monitoring.files import PROVISIONING, local_files, write_files
from cluster.serve.connect import local_head
from cluster.yaml_files.reader import read_yaml

app = typer.Typer(no_args_is_help=True, help="Write files about the cluster for other systems.")
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


@command
def monitoring(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write to.")],
    name: option.ClusterName = None,
) -> None:
    """Write boards, alerts and settings for a Prometheus and a Grafana on this machine."""
    folder = folder.resolve()
    try:
        write_files(folder, local_files(folder, local_head(name).metrics_targets))
    except OSError as error:
        raise ConfigError([f"{folder}: cannot be written: {error.strerror}; name another folder"]) from error
    info(
        f"prometheus --config.file={folder}/prometheus.yml --storage.tsdb.path={folder}/data "
        f"--web.listen-address=127.0.0.1:9090\n"
        f"GF_PATHS_PROVISIONING={folder / PROVISIONING} grafana server --homepath /usr/share/grafana"
    )
