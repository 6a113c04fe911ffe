"""The `licet` command: a table of sub-commands, each loaded only when it is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from licet.ledger import terminal

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("licet.ledger.cli.home:init", "Make a home directory with its keys and logs."),
    "config": ("licet.ledger.cli.home:config", "Show the settings and where each comes from."),
    "demo": ("licet.train.cli.demo:demo", "The main job on a small real run, in two minutes."),
    "policy": ("licet.policies.cli.policy:policy", "Read, adopt, compare and explain policies."),
    "source": ("licet.policies.cli.source:source", "Register sources: who may attest content."),
    "attest": ("licet.policies.cli.attest:attest", "Sign and record under which terms content may be used."),
    "revoke": ("licet.policies.cli.revoke:revoke", "End a licence."),
    "train": ("licet.train.cli.train:train", "Train a model, each gradient only where it may go."),
    "unlearn": ("licet.train.cli.unlearn:unlearn", "Unlearn what a revoked attestation taught."),
    "ledger": ("licet.ledger.cli.ledger:ledger", "Read, prove, verify and mirror the logs."),
    "seal": ("licet.train.cli.seal:seal", "Check sealed checkpoints."),
    "receipt": ("licet.ledger.cli.receipt:receipt", "Check a receipt offline."),
}
"""name → (module:Typer application, what it does). Names of other folders stand here as text: nothing is imported."""


class _Deferred(TyperGroup):
    """Stands for a sub-command until it is used."""

    def __init__(self, name: str, target: str, summary: str) -> None:
        super().__init__(name=name, help=summary, short_help=summary)
        self._target = target

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        module, _, attribute = self._target.partition(":")
        application = getattr(importlib.import_module(module), attribute)
        command = typer.main.get_command(application)
        command.name = self.name
        return command.make_context(info_name, args, parent=parent, **extra)


class _Commands(TyperGroup):
    """The sub-commands of the table."""

    known: ClassVar[dict[str, _Deferred]] = {name: _Deferred(name, *entry) for name, entry in COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.known)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.known.get(cmd_name)


app = typer.Typer(
    cls=_Commands,
    help="Licet: what a model was taught, by whom, under which licence, and the proof of it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        terminal.show(installed("licet"))
        raise typer.Exit


def main() -> None:
    """The entry point: errors of ours become a message, a remedy and an exit code."""
    terminal.run(lambda: app(standalone_mode=True, prog_name="licet"), as_json="--json" in sys.argv)


if __name__ == "__main__":
    main()
