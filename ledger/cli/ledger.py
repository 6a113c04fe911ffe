"""`licet ledger`: the table of its commands."""

from __future__ import annotations

import typer

from licet.ledger.cli import ask, publish, upkeep
from licet.ledger.cli.witness import witness

ledger = typer.Typer(no_args_is_help=True, add_completion=False, help="Read, prove, verify and mirror the logs.")

for command in (
    ask.info,
    ask.events,
    ask.forward,
    ask.reverse,
    ask.diff,
    publish.prove,
    publish.verify,
    publish.export,
    publish.mirror,
    publish.restore,
    upkeep.fsck,
    upkeep.checkpoint,
    upkeep.key,
    upkeep.rotate_key,
    upkeep.re_anchor,
    upkeep.erase,
):
    ledger.command(command.__name__.replace("_", "-"))(command)

ledger.add_typer(witness, name="witness")
