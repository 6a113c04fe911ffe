"""`licet init` and `licet config`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption
from licet.ledger.errors import ConfigError
from licet.ledger.home import LOGS, PASSPHRASE_VARIABLE, Home, Settings, passphrase

init = typer.Typer(add_completion=False)
config = typer.Typer(no_args_is_help=True, add_completion=False, help="Show the settings and where each comes from.")


@init.command()
def init_home(
    directory: Annotated[Path, typer.Argument(help="The new home.")],
    name: Annotated[
        str | None, typer.Option(help="Prefix of the logs' origins, as example.org/models. Default: a random one.")
    ] = None,
    encrypt: Annotated[
        bool, typer.Option(help=f"Encrypt the keys with the passphrase in {PASSPHRASE_VARIABLE}.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a home directory with its keys and its three logs."""
    secret = passphrase()
    if encrypt and not secret:
        raise ConfigError(f"{PASSPHRASE_VARIABLE} is not set.", remedy="Set it, and keep it: keys cannot be recovered.")
    home = Home.create(directory, name or f"licet.local/{secrets.token_hex(4)}", secret if encrypt else None)
    keys = {log: str(home.verifier_key(log)) for log in LOGS}
    text = f"Made {home.path}. Publish these verifier keys: they are what others check your logs with."
    lines = "\n".join([text, *(f"  {key}" for key in keys.values())])
    terminal.show_result({"home": str(home.path), "verifier_keys": keys}, lines, as_json=as_json)


@config.callback()
def _config() -> None:
    """Show the settings and where each comes from."""


@config.command("show")
def show(home: HomeOption = None, as_json: AsJson = False) -> None:
    """Print each setting, its value, and where it comes from."""
    settings = Home.find(home).settings()
    if as_json:
        terminal.show_json({s.name: {"value": s.value, "origin": s.origin} for s in settings})
        return
    meaning = {name: field.description or "" for name, field in Settings.model_fields.items()}
    rows = [(s.name, s.value, s.origin, meaning[s.name]) for s in settings]
    terminal.show_table(("setting", "value", "from", "meaning"), rows)
