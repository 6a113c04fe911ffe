"""Keeping a log: verifying and repairing it, signing it, changing its key, erasing content."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import fsck as index_check
from licet.ledger import terminal
from licet.ledger.cli.options import (
    AsJson,
    HomeOption,
    KeyOption,
    LogArgument,
    log_path,
    read_note,
    verifier_key,
    write_log,
)
from licet.ledger.errors import ConfigError, FormatError, LicetError, NotFoundError, StorageError
from licet.ledger.files import write_whole
from licet.ledger.home import Home, passphrase
from licet.ledger.keys import save_key
from licet.ledger.log import now_ms
from licet.ledger.note import SigningKey, open_checkpoint
from licet.ledger.reader import LogReader
from licet.ledger.records import ContentErased, Digest


def fsck(
    log: LogArgument,
    key: KeyOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild the indexes from the entries first.")] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Prove that the indexes say what the entries say, to the bit; or rebuild them."""
    path = log_path(log, home)
    if repair:
        with terminal.progress("rebuilding indexes") as bar:
            index_check.repair(path, progress=bar)
        terminal.say("The indexes were rebuilt from the entries.")
    with terminal.progress("checking entries and indexes") as bar:
        report = index_check.fsck(path, verifier_key(key, log, home), progress=bar)
    text = f"good: {report.size} entries of {report.origin}; checked {', '.join(report.checked)}"
    terminal.show_result(terminal.plain(report), text, as_json=as_json)


def checkpoint(log: LogArgument, home: HomeOption = None, as_json: AsJson = False) -> None:
    """Sign what the log holds now; prints the signed note."""
    with write_log(log, home) as ledger:
        note = ledger.checkpoint().decode()
        facts = {"origin": ledger.origin, "size": ledger.size, "root": ledger.head.root, "note": note}
    terminal.show_result(facts, note.removesuffix("\n"), as_json=as_json)


def key(log: LogArgument, home: HomeOption = None, as_json: AsJson = False) -> None:
    """The verifier keys of a log, oldest first; the last one signs now."""
    with LogReader.open(log_path(log, home)) as view:
        keys = [str(known) for known in view.verifier_keys()]
    if as_json:
        terminal.show_json(keys)
    else:
        terminal.show("\n".join(keys))


def rotate_key(
    log: LogArgument,
    reason: Annotated[str, typer.Option(help="Why; it stands in the log.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Announce a new key in the log under the old one, and sign with it from now on."""
    place = Home.find(home)
    secret = passphrase()
    new_file = place.key_file(log).with_suffix(".key.new")
    with write_log(log, home) as ledger:
        new = SigningKey.generate(ledger.origin)
        new_file.unlink(missing_ok=True)  # of a rotation that was interrupted before the log knew of it
        save_key(new_file, new, secret)
        ledger.rotate_key(new, reason=reason)
        retired = place.key_file(log).with_suffix(f".key.until-{ledger.size - 1}")
        try:
            place.key_file(log).rename(retired)
            new_file.rename(place.key_file(log))
        except OSError as error:
            raise StorageError(
                f"The log now expects its new key, which lies in {new_file}: {error.strerror}.",
                remedy=f"Move it to {place.key_file(log)} by hand.",
            ) from error
    facts = {"verifier_key": str(new.verifier), "retired": str(retired)}
    text = f"{new.verifier} signs {new.name} now. The old key is kept as {retired.name}."
    terminal.show_result(facts, text, as_json=as_json)


def re_anchor(
    log: LogArgument,
    trusted: Annotated[Path | None, typer.Option("--checkpoint", help="A signed checkpoint that you trust.")] = None,
    accept: Annotated[bool, typer.Option("--accept-rollback", help="Trust the log as it stands.")] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Put back a missing anchor, after checking the log against a checkpoint or accepting the risk."""
    path = log_path(log, home)
    with LogReader.open(path) as view:
        note = read_note(trusted)
        if note is None:
            if not accept:
                raise ConfigError(
                    "Without a checkpoint nothing shows that this log was not rolled back.",
                    remedy="Pass --checkpoint FILE, or --accept-rollback if you know why the anchor is gone.",
                )
            note = view.latest_checkpoint()
        if note is None:
            raise NotFoundError(f"{path} was never signed, so it needs no anchor.")
        known = open_checkpoint(note, view.verifier_keys(), origin=view.origin)
        if known.size > view.size or view.root_at(known.size) != known.root:
            raise LicetError(f"{path} does not contain the {known.size} entries of that checkpoint.")
        write_whole(view.directory.anchor, note)
    anchor = view.directory.anchor
    facts = {"anchor": str(anchor), "size": known.size}
    terminal.show_result(facts, f"{anchor} holds the checkpoint of size {known.size}.", as_json=as_json)


def erase(
    commitment: Annotated[str, typer.Argument(help="What stands in the log in place of the content (hexadecimal).")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the log.")],
    by: Annotated[str, typer.Option(help="Who decided; it stands in the log.")] = "operator",
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Delete content for good. Every proof about it stays valid."""
    try:
        digest = bytes.fromhex(commitment)
    except ValueError as error:
        raise FormatError(f"{commitment} is not hexadecimal.") from error
    place = Home.find(home)
    if digest not in place.content:
        raise NotFoundError(f"No content is kept for {commitment}.", remedy="It was erased before, or is elsewhere.")
    with place.open_log("registry") as registry:
        # First the record, then the deletion: whoever crashes between the two can see what is left to do.
        index = registry.append(ContentErased(Digest(digest), reason, by, now_ms()))
        registry.checkpoint()
        place.content.erase(digest)
    facts = {"commitment": commitment, "index": index, "origin": registry.origin}
    terminal.show_result(facts, f"Erased; recorded as entry {index} of {registry.origin}.", as_json=as_json)
