"""Showing a log to others: proofs, verification, static tiles, mirrors, witnesses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import export as tile_export
from licet.ledger import fsck, proof, terminal
from licet.ledger import mirror as tile_mirror
from licet.ledger import restore as rebuild
from licet.ledger.cli.options import (
    AsJson,
    HomeOption,
    KeyOption,
    LogArgument,
    log_path,
    read_log,
    read_note,
    verifier_key,
)
from licet.ledger.directory import LogDirectory
from licet.ledger.errors import ConfigError
from licet.ledger.files import write_whole
from licet.ledger.home import LOGS
from licet.ledger.sources import open_source
from licet.ledger.tileview import TileView
from licet.ledger.verify import Report
from licet.ledger.verify import verify as verify_entries

NoteOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="The signed checkpoint to use, cosigned by witnesses perhaps. Default: the newest."
    ),
]


def prove(
    log: LogArgument,
    index: Annotated[int, typer.Argument(help="The entry to prove.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write it. Default: stdout.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="Leave the entry itself out.")] = False,
    checkpoint: NoteOption = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Prove that an entry stands in the log: a receipt that `licet receipt verify` checks offline."""
    with read_log(log, home) as view:
        note = read_note(checkpoint)
        made = proof.make_proof(view, index, note) if bare else proof.make_receipt(view, index, note)
    file = made.format()
    if output is not None:
        write_whole(output, file)
    if as_json:
        terminal.show_json({"index": made.index, "hashes": made.hashes, "file": file.decode()})
    elif output is None:
        terminal.show(file.decode().removesuffix("\n"))


def verify(
    log: Annotated[
        str, typer.Argument(metavar="LOG", help="A log of the home, a directory, a tile mirror or its URL.")
    ],
    key: KeyOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A signed checkpoint that you kept: the log must still begin with it."),
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Check everything about a log with nothing but its files and its key; names the first bad entry."""
    _show(_verified(log, key, read_note(checkpoint), home), as_json=as_json)


def export(
    log: LogArgument,
    directory: Annotated[Path, typer.Argument(help="Where the tiles go; any web server can serve it.")],
    checkpoint: NoteOption = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the log out as static tiles (C2SP tlog-tiles); run again, it adds what is new."""
    with read_log(log, home) as view, terminal.progress("exporting tiles") as bar:
        exported = tile_export.export(view, directory, read_note(checkpoint), progress=bar)
    terminal.show_result(terminal.plain(exported), _held(directory, exported), as_json=as_json)


def _held(directory: Path, now: tile_export.Exported) -> str:
    return f"{directory} holds {now.size} entries of {now.origin}, {now.new_entries} of them new."


def _verified(log: str, key: str | None, older: bytes | None, home: Path | None) -> Report:
    is_url = log.startswith(("http://", "https://"))
    path = None if is_url else log_path(log, home)
    trusted = verifier_key(key, log, home)
    with terminal.progress("verifying entries") as bar:
        if path is not None and (log in LOGS or LogDirectory(path).description_file.exists()):
            return fsck.fsck(path, trusted, older=older, progress=bar)
        if path is not None and not (path / "checkpoint").exists():
            raise ConfigError(
                f"{path} is neither a log nor a tile mirror.",
                remedy="A log holds ledger.json, a mirror holds checkpoint and tile/.",
            )
        view = TileView(open_source(log))
        return verify_entries(view, view.note, trusted, older=older, leaf_tiles=True, progress=bar)


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        terminal.show_json(report)
        return
    terminal.show(f"good: {report.size} entries of {report.origin}")
    terminal.show(f"  signed up to {report.checkpoint_size} by {', '.join(report.signed_by)}")
    if report.older_size is not None:
        terminal.show(f"  begins with the {report.older_size} entries of the checkpoint you kept")
    terminal.show(f"  checked: {', '.join(report.checked)}")
    for kind, count in report.kinds.items():
        terminal.show(f"  {count:>10}  {kind}")


def mirror(
    source: Annotated[str, typer.Argument(help="The tile log: a URL or a directory.")],
    directory: Annotated[Path, typer.Argument(help="Where the copy goes.")],
    key: Annotated[str, typer.Option("--key", help="The log's verifier key, or a file that holds it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    interval_s: Annotated[float, typer.Option(help="With --follow: how long to wait between looks.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Copy a tile log, verifying each step; a fork or a rollback is refused and both checkpoints are kept."""
    trusted = verifier_key(key, source, None)
    tiles = open_source(source)

    def report(result: tile_export.Exported | tile_mirror.Waiting) -> None:
        if isinstance(result, tile_mirror.Waiting):
            terminal.say(f"waiting: {result.error}")
        else:
            terminal.show_result(terminal.plain(result), _held(directory, result), as_json=as_json)

    with terminal.progress("mirroring") as bar:
        if follow:
            tile_mirror.follow(tiles, directory, trusted, interval_s=interval_s, report=report, progress=bar)
        else:
            report(tile_mirror.mirror(tiles, directory, trusted, progress=bar))


def restore(
    source: Annotated[str, typer.Argument(help="A mirror or export of the log: a directory or a URL.")],
    directory: Annotated[Path, typer.Argument(help="The log to make, as HOME/logs/training. It must not be there.")],
    key: Annotated[str, typer.Option("--key", help="The log's verifier key, or a file that holds it.")],
    as_json: AsJson = False,
) -> None:
    """Make a lost log anew from a mirror, verified first; whoever has its key can go on with it."""
    trusted = verifier_key(key, source, None)
    with terminal.progress("restoring") as bar:
        report = rebuild.restore(TileView(open_source(source)), directory, trusted, progress=bar)
    text = f"{directory} holds the {report.size} entries of {report.origin} that the mirror had."
    terminal.show_result(terminal.plain(report), text, as_json=as_json)
