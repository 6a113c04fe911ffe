"""`licet source`: who may attest content, with which key, in which class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption
from licet.ledger.errors import ConfigError, StorageError
from licet.ledger.home import Home, passphrase
from licet.ledger.keys import load_key
from licet.ledger.log import now_ms
from licet.ledger.records import SourceRegistered, SourceState, SourceStateChanged
from licet.policies.acts import check_source_id, rotate_source
from licet.policies.cli.keyring import key_file, new_key, public_key, signing_key
from licet.policies.cli.recording import check_authority, reading, recording

source = typer.Typer(no_args_is_help=True, add_completion=False, help="Who may attest content, and with which key.")

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="The id of a registered source.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it stands in the log.")]


@source.callback()
def _source() -> None:
    """Who may attest content, and with which key."""


@source.command()
def add(
    name: Annotated[str, typer.Argument(metavar="ID", help="What the source is called in every record.")],
    display_name: Annotated[str, typer.Option(help="What people read.")],
    authority: Annotated[str, typer.Option(help="Its class in the active policy.")],
    key: Annotated[
        Path | None, typer.Option(help="A key that it has, or its verifier key. Default: make one in keys/sources/.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Register a source, so that what it attests can count."""
    place = Home.find(home)
    check_source_id(name)
    with recording(place) as registry:
        check_authority(registry.registry, authority)
        made = key_file(place, name)
        if registry.registry.has_source(name):  # before a key is made for it
            raise ConfigError(f"There is already a source {name}.", remedy="Choose another id, or rotate its key.")
        verifier = public_key(key) if key is not None else new_key(made, name).verifier
        index = registry.add(SourceRegistered(name, display_name, str(verifier), authority, now_ms()))
    facts = {"source": name, "authority": authority, "verifier_key": str(verifier), "entry": index}
    kept = "" if key is not None else f" Its key lies in {made}: hand it over, or keep it."
    terminal.show_result(facts, f"Registered {name} in entry {index}.{kept}", as_json=as_json)


@source.command("list")
def list_sources(home: HomeOption = None, as_json: AsJson = False) -> None:
    """Show all sources, their classes and states, and what in the registry does not count."""
    with reading(Home.find(home)) as registry:
        sources, problems = registry.sources, registry.problems
    if as_json:
        facts = [
            {
                "source": one.id,
                "display_name": one.display_name,
                "authority": one.registration.authority,
                "state": one.registration.state,
                "verifier_keys": one.registration.verifier_keys,
                "entry": one.entry,
            }
            for one in sources
        ]
        terminal.show_json({"sources": facts, "problems": problems})
        return
    rows = [
        (s.id, terminal.text(s.display_name), s.registration.authority, s.registration.state.value, s.key)
        for s in sources
    ]
    terminal.show_table(("source", "name", "authority", "state", "key"), rows)
    for problem in problems:
        terminal.say(f"entry {problem.index} does not count: {problem.message}")


@source.command()
def rotate(
    name: SourceArgument,
    key: Annotated[Path | None, typer.Option(help="The old key, if the home does not keep it.")] = None,
    new: Annotated[
        Path | None, typer.Option("--new-key", help="The new key or its verifier key. Default: make one.")
    ] = None,
    lost: Annotated[
        bool, typer.Option("--lost", help="The old key is gone: the operator agrees in its place.")
    ] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Give a source a new key. What it signed with the old one and was recorded stays good."""
    place = Home.find(home)
    with recording(place) as registry:
        known = registry.registry.source(name)
        by = registry.registry.origin if lost else name
        signer = load_key(place.key_file("registry"), passphrase()) if lost else signing_key(place, known, key)
        making = key_file(place, name).with_suffix(".key.new")
        verifier = public_key(new) if new is not None else new_key(making, name).verifier
        origin = registry.registry.origin
        record = rotate_source(origin, name, old=known.key, new=verifier, by=by, key=signer, at_ms=now_ms())
        index = registry.add(record)
        registry.log.checkpoint()
        if new is None:
            _put_in_place(making, key_file(place, name), retired=f".key.until-{index}")
    facts = {"source": name, "verifier_key": str(verifier), "by": by, "entry": index}
    terminal.show_result(facts, f"{name} signs with {verifier} now.", as_json=as_json)


@source.command()
def suspend(name: SourceArgument, reason: ReasonOption, home: HomeOption = None, as_json: AsJson = False) -> None:
    """Keep a source from contributing, until it is reinstated."""
    _set_state(name, SourceState.SUSPENDED, reason, home, as_json=as_json)


@source.command()
def reinstate(name: SourceArgument, reason: ReasonOption, home: HomeOption = None, as_json: AsJson = False) -> None:
    """Let a suspended source contribute again."""
    _set_state(name, SourceState.ACTIVE, reason, home, as_json=as_json)


def _set_state(name: str, state: SourceState, reason: str, home: Path | None, *, as_json: bool) -> None:
    with recording(Home.find(home)) as registry:
        known = registry.registry.source(name)
        index = registry.add(SourceStateChanged(known.id, state, reason, registry.registry.origin, now_ms()))
    text = f"{name} is {state.value} since entry {index}."
    terminal.show_result({"source": name, "state": state, "entry": index}, text, as_json=as_json)


def _put_in_place(making: Path, place: Path, *, retired: str) -> None:
    """Move the new key to where the old one lay, and keep the old one."""
    try:
        if place.exists():
            place.rename(place.with_suffix(retired))
        making.rename(place)
    except OSError as error:
        raise StorageError(
            f"The registry now expects the new key, which lies in {making}: {error.strerror}.",
            remedy=f"Move it to {place} by hand.",
        ) from error
