"""`licet ledger witness`: standing witness to other people's logs, and having one's own witnessed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import terminal, witness_server
from licet.ledger import witness as witnessing
from licet.ledger.cli.options import AsJson, HomeOption, LogArgument, read_log
from licet.ledger.errors import NotFoundError
from licet.ledger.files import write_whole
from licet.ledger.home import passphrase
from licet.ledger.keys import load_key, save_key
from licet.ledger.note import SigningKey, VerifierKey

witness = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Stand witness to a log, or have one's own witnessed."
)


@witness.command("init")
def make_key(
    key_file: Annotated[Path, typer.Argument(help="Where the witness's key goes.")],
    name: Annotated[str, typer.Option(help="The name it cosigns as: a domain and path of yours.")],
    as_json: AsJson = False,
) -> None:
    """Make a witness's key; prints the verifier key to publish."""
    key = SigningKey.generate(name)
    save_key(key_file, key, passphrase())
    terminal.show_result({"verifier_key": str(key.witness_verifier)}, str(key.witness_verifier), as_json=as_json)


@witness.command("serve")
def serve(
    key_file: Annotated[Path, typer.Option("--key-file", help="The witness's key.")],
    logs: Annotated[list[str], typer.Option("--log-key", help="Verifier key of a log to witness; repeat for several.")],
    state: Annotated[Path, typer.Option("--state", help="Where it remembers what it cosigned.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8642,
) -> None:
    """Cosign checkpoints over HTTP (C2SP tlog-witness) until interrupted."""
    known: dict[str, list[VerifierKey]] = {}
    for text in logs:
        key = VerifierKey.parse(text)
        known.setdefault(key.name, []).append(key)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with witnessing.Witness(load_key(key_file, passphrase()), known, state) as standing:
        terminal.say(f"witness {standing.verifier} listens on {host} port {port}")
        witness_server.serve(standing, host, port, stop=stop)


@witness.command("submit")
def submit(
    log: LogArgument,
    url: Annotated[str, typer.Argument(help="The witness's URL.")],
    witness_key: Annotated[str, typer.Option("--witness", help="The witness's verifier key.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the note goes. Default: stdout.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Have a witness cosign the newest checkpoint; gives the note with the cosignature."""
    key = VerifierKey.parse(witness_key)
    with read_log(log, home) as view:
        note = view.latest_checkpoint()
        if note is None:
            raise NotFoundError(f"{view.origin} was never signed.", remedy="Sign it with `licet ledger checkpoint`.")
        cosigned = witnessing.submit(url, note, view, key)
    if output is not None:
        write_whole(output, cosigned)
    if as_json:
        terminal.show_json({"note": cosigned.decode()})
    elif output is None:
        terminal.show(cosigned.decode().removesuffix("\n"))
