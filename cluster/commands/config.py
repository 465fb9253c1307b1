"""`steelyard config`: look at presets, the resolved configuration and the schema."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cluster.commands.common import AsJson, Overrides, checked_settings, say_valid, sentence
from configs.explain import key_tree
from configs.load import dump_settings, load_settings, preset_names
from configs.schema.run import RunSettings

app = typer.Typer(
    no_args_is_help=True, help="Look at presets, the resolved configuration and the schema.", rich_markup_mode=None
)
Config = Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")]


@app.command()
def show(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print the configuration with every default and override filled in."""
    settings = checked_settings(config, overrides)
    typer.echo(
        json.dumps(settings.model_dump(mode="json"), indent=1) if as_json else dump_settings(settings), nl=as_json
    )


@app.command()
def check(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say in one line whether the configuration is valid, and what it means."""
    say_valid(checked_settings(config, overrides), as_json=as_json)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the packaged presets and what each asks for."""
    sentences = {name: sentence(load_settings(name)) for name in preset_names()}
    if as_json:
        typer.echo(json.dumps(sentences, indent=1))
        return
    for name, text in sentences.items():
        typer.echo(f"{name:<16} {text.split(': ', 1)[1]}")


@app.command()
def schema(as_json: AsJson = False) -> None:
    """List every key; with --json, the JSON Schema for an editor."""
    if as_json:
        typer.echo(json.dumps(RunSettings.model_json_schema(), indent=1))
    else:
        typer.echo("\n".join(key_tree(RunSettings)))
