"""`licet seal`: whether a checkpoint is what its seal says, down to the base it grew from."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption, verifier_key
from licet.ledger.errors import ConfigError, SignatureError
from licet.ledger.home import Home
from licet.ledger.reader import LogReader
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.statement import History
from licet.train.seals.verify import SealReport, verify_seal

seal = typer.Typer(no_args_is_help=True, add_completion=False, help="Check sealed checkpoints.")


@seal.callback()
def _seal() -> None:
    """Check sealed checkpoints."""


@seal.command("verify")
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A sealed checkpoint, as models/NAME/SEAL.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="A verifier key of the training log, or a file with it; default: the home's."),
    ] = None,
    models: Annotated[
        list[Path] | None, typer.Option(help="A further folder in which the seals of forebears lie.")
    ] = None,
    log: Annotated[bool, typer.Option(help="Ask the home's training log who wrote to what changed.")] = True,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every block's digest, walk from parent to parent, and name what changed without authority."""
    place = _home(home, needed=key is None)
    with ExitStack() as stack:
        reader = _training_log(place, stack) if place is not None and log else None
        keys = [verifier_key(text, "", None) for text in key or []]
        if not keys and place is not None:
            keys = reader.verifier_keys() if reader is not None else [place.verifier_key("training")]
        folders = [directory.absolute().parent, *(models or []), *(_model_folders(place))]
        report = verify_seal(
            directory,
            keys,
            parents=seals_in(*folders),
            history=LogHistory(reader) if reader is not None else None,
        )
    if as_json:
        terminal.show_json(_facts(report))
    else:
        _show(report)
    if not report.is_good:
        raise typer.Exit(1)


def _home(flag: Path | None, *, needed: bool) -> Home | None:
    try:
        return Home.find(flag)
    except ConfigError:
        if needed or flag is not None:
            raise
        return None


def _training_log(home: Home, stack: ExitStack) -> LogReader:
    """The home's training log; one that begins with another key than the home kept is not believed."""
    reader = stack.enter_context(LogReader.open(home.log("training")))
    trusted = home.verifier_key("training")
    if reader.first_key != trusted:
        raise SignatureError(
            f"The training log begins with the key {reader.first_key}, and this home kept {trusted}.",
            remedy="Restore the log or the key; whichever was exchanged, nothing it says can be believed.",
        )
    return reader


def _model_folders(home: Home | None) -> list[Path]:
    root = home.path / "models" if home is not None else None
    return sorted(folder for folder in root.iterdir() if folder.is_dir()) if root is not None and root.is_dir() else []


def _facts(report: SealReport) -> dict[str, Any]:
    claims = report.seal.claims
    return {
        "good": report.is_good,
        "seal": report.seal.id,
        "model": claims.model,
        "label": claims.label,
        "step": claims.step,
        "history_known": report.history_known,
        "authority_checked": report.authority_checked,
        "chain": [one.id for one in report.chain],
        "blocks": list(report.blocks),
        "problems": list(report.problems),
    }


def _show(report: SealReport) -> None:
    claims = report.seal.claims
    terminal.show(f"{'good' if report.is_good else 'BAD'}: {claims.model} {claims.label}, seal {report.seal.id.hex()}")
    base = report.chain[-1].claims
    known = "what shaped it is recorded" if report.history_known else "what shaped it before that is not known"
    start = "an outside model" if base.history is History.OUTSIDE else base.label
    terminal.show(f"  {len(report.chain)} seals down to {start}: {known}")
    if not report.authority_checked:
        terminal.show("  whether changes had authority was not asked: that takes the training log (--home)")
    for problem in report.problems:
        terminal.show(f"  {problem.fault}: {problem.text}")
