"""`licet receipt`: checking a proof with nothing but the file and a key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import codec, proof, terminal
from licet.ledger.cli.options import AsJson
from licet.ledger.errors import FormatError
from licet.ledger.files import read_whole
from licet.ledger.note import KeyType, VerifierKey

receipt = typer.Typer(no_args_is_help=True, add_completion=False, help="Check a receipt offline.")


@receipt.callback()
def _receipt() -> None:
    """Check a receipt offline."""


@receipt.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A receipt (C2SP tlog-proof).")],
    key: Annotated[list[str], typer.Option("--key", help="A verifier key of the log; repeat it for several.")],
    entry: Annotated[Path | None, typer.Option(help="The entry, where the proof does not carry it.")] = None,
    witness: Annotated[list[str] | None, typer.Option(help="A witness's verifier key; repeat it for several.")] = None,
    witnesses_min: Annotated[int, typer.Option(help="How many of the witnesses must have cosigned.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check signature and inclusion; prints what stands in the log."""
    read = proof.Proof.parse(read_whole(file, bytes_max=proof.PROOF_BYTES_MAX))
    keys = [_key(text) for text in key]
    witnesses = [_key(text, KeyType.COSIGNATURE) for text in witness or []]
    if entry is not None:
        raw = read_whole(entry, bytes_max=codec.ENTRY_BYTES_MAX)
        checkpoint = proof.verify_proof(read, raw, keys, witnesses=witnesses, witnesses_min=witnesses_min)
    else:
        checkpoint, raw = proof.verify_receipt(read, keys, witnesses=witnesses, witnesses_min=witnesses_min)
    record = codec.decode(raw)
    if as_json:
        facts = {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root, "index": read.index}
        terminal.show_json({**facts, "kind": type(record).__name__, "record": record})
        return
    terminal.show(f"good: entry {read.index} of {checkpoint.origin}, in its signed first {checkpoint.size} entries")
    terminal.show(f"  {type(record).__name__}  {terminal.text(record)}")


def _key(text: str, type_: KeyType = KeyType.ED25519) -> VerifierKey:
    path = Path(text)
    if "+" not in text and path.is_file():
        text = read_whole(path, bytes_max=4096).decode(errors="replace")
    key = VerifierKey.parse(text)
    if key.type is not type_:
        raise FormatError(f"{key.name} is a key for another kind of signature.")
    return key
