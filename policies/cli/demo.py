"""`licet demo`: the main job on a small real run, each claim checked while it is made."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import codec, export, fsck, proof, terminal
from licet.ledger import demo as run
from licet.ledger.cli.options import AsJson
from licet.ledger.errors import Finding, LicetError, RollbackError, VerificationError
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.note import VerifierKey
from licet.ledger.reader import LogReader
from licet.ledger.records import Anchored, Digest, ExampleAdmitted, GradientApplied
from licet.ledger.sources import DirectoryTiles
from licet.ledger.tileview import TileView
from licet.ledger.verify import verify
from licet.policies import wire
from licet.policies.cli import demo_lessons

demo = typer.Typer(add_completion=False)
_STEPS = 400


@dataclass(slots=True)
class _Claims:
    """What was shown, and whether it held."""

    quiet: bool
    held: dict[str, bool] = field(default_factory=dict)

    def tell(self, text: str = "") -> None:
        if not self.quiet:
            terminal.show(text)

    def claim(self, what: str, holds: bool) -> None:
        self.held[what] = holds
        self.tell(f"  {'✓' if holds else '✗'} {what}")


@demo.command()
def show(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep the home here to look at. Default: a scratch folder.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail if anything that is claimed does not hold.")] = False,
    as_json: AsJson = False,
) -> None:
    """Attest the installed packages, train a small model on them under a policy, then ask, prove, verify and attack."""
    claims = _Claims(quiet=as_json)
    place = directory or Path(tempfile.mkdtemp(prefix="licet-demo-"))
    try:
        home = Home.create(place / "home", "demo.licet")
        lessons = _decide(home, place, claims)
        _train(home, lessons, claims)
        _ask(home, lessons, claims)
        _prove(home, place, claims)
        _attack(home, place, claims)
        if directory is not None:
            claims.tell(
                f"\nThe home is {home.path}. Try: licet policy explain {place / 'examples.jsonl'} --home {home.path}"
            )
    finally:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)
    if as_json:
        terminal.show_json(claims.held)
    if check and not all(claims.held.values()):
        raise Finding("Not everything that the demo claims held.")


def _decide(home: Home, place: Path, claims: _Claims) -> demo_lessons.Lessons:
    started = time.perf_counter()
    claims.tell(
        "1. Attest every installed Python package under its own licence, and ask the policy how deep it may teach"
    )
    with terminal.progress("attesting") as bar:
        lessons = demo_lessons.prepare(home, bar)
    (place / "examples.jsonl").write_bytes(b"\n".join(map(wire.to_json, lessons.examples)) + b"\n")
    claims.tell(
        f"   {lessons.attested} sources registered and attested, {lessons.policy.document.name} adopted, "
        f"{time.perf_counter() - started:.1f} s"
    )
    if not claims.quiet:
        terminal.show()
        terminal.show_table(
            ("   source", "licence", *lessons.policy.bands, "decided by"), lessons.table(), right=frozenset({2, 3, 4})
        )
        terminal.show()
    claims.claim(
        "whoever evaluates an example from its wire form gets the same admission, byte for byte", lessons.agree()
    )
    claims.claim("an attestation does not count for other content", lessons.refuses_other_content())
    claims.claim("a revoked licence teaches nothing from then on", lessons.refuses_revoked(home))
    return lessons


def _train(home: Home, lessons: demo_lessons.Lessons, claims: _Claims) -> None:
    taught = lessons.taught
    claims.tell(f"\n2. Train on {len(taught)} of them; each gradient reaches only the blocks that its profile allows")
    every = next(setting.value for setting in home.settings() if setting.name == "checkpoint_s")
    losses, events, started = [], 0, time.perf_counter()
    blocks, policy = lessons.layout.as_records(), lessons.policy.digest
    with home.open_log("training") as ledger, terminal.progress("training") as bar:
        for result in run.train(ledger, home.content, taught, blocks, policy, steps=_STEPS, checkpoint_s=every):
            losses.append(result.loss)
            events += result.events
            bar(result.step + 1, _STEPS)
        ledger.checkpoint()
        size = ledger.size
    claims.tell(
        f"   loss {losses[0]:.2f} → {sum(losses[-20:]) / 20:.2f} nats a byte in {time.perf_counter() - started:.0f} s; "
        f"{events} gradient applications recorded, {size} entries"
    )
    claims.claim("the model learned", sum(losses[-20:]) / 20 < losses[0] / 1.5)


def _ask(home: Home, lessons: demo_lessons.Lessons, claims: _Claims) -> None:
    claims.tell("\n3. Ask: who shaped layer.0, and what did a confined source shape?")
    with LogReader.open(home.log("training")) as log:
        for rank, row in enumerate(log.exposure.reverse(["layer.0"], top=3), start=1):
            claims.tell(f"   {rank}. {row.source:<24} {row.share:6.1%} of the recorded exposure")
        confined = next((lesson for lesson in lessons.taught if not lesson.levels[0] and any(lesson.levels)), None)
        if confined is None:
            claims.tell("   Every package here may teach the foundations, so none is confined.")
            return
        shaped = log.exposure.forward(source=confined.source)
        for b in shaped:
            claims.tell(f"   {confined.source:<20} → {b.block:<10} {b.magnitude:10.4f}  in {b.events} events")
        closed = {name for name, level in zip(lessons.blocks, confined.levels, strict=True) if not level}
        reached = any(b.total for b in shaped if b.block in closed)
        claims.claim(
            f"nothing of {confined.source} reached the {len(closed)} blocks that are closed to it", not reached
        )


def _prove(home: Home, place: Path, claims: _Claims) -> None:
    claims.tell("\n4. Prove one gradient application to somebody who has only the key")
    with LogReader.open(home.log("training")) as log:
        admissions = (admitted for _, admitted in log.all_of(ExampleAdmitted) if admitted.profile is not None)
        admitted, (index, *_) = next((a, found) for a in admissions if (found := log.exposure.events_of(a.example)))
        receipt = proof.make_receipt(log, index).format()
    (place / "receipt").write_bytes(receipt)
    key = home.verifier_key("training")
    checkpoint, entry = proof.verify_receipt(proof.Proof.parse(receipt), [key])
    record = codec.decode(entry)
    claims.tell(f"   {len(receipt)} bytes: entry {index} of {checkpoint.origin} at size {checkpoint.size}")
    claims.claim("the receipt verifies offline", isinstance(record, GradientApplied))
    claims.claim("with one bit changed it does not", _refuses(lambda: _verify_flipped(receipt, key), LicetError))
    home.content.erase(admitted.commitment)
    claims.claim(
        "the example's text is erased, and its receipt still verifies",
        admitted.commitment not in home.content and bool(proof.verify_receipt(proof.Proof.parse(receipt), [key])),
    )


def _verify_flipped(receipt: bytes, key: VerifierKey) -> None:
    read = proof.Proof.parse(receipt)
    assert read.extra is not None
    entry = bytearray(read.extra)
    entry[-1] ^= 1
    proof.verify_proof(read, bytes(entry), [key])


def _attack(home: Home, place: Path, claims: _Claims) -> None:
    claims.tell("\n5. Verify everything, then attack it")
    key, path = home.verifier_key("training"), home.log("training")
    started = time.perf_counter()
    report = fsck.fsck(path, key)
    claims.claim(
        f"{report.size} entries, their tree, signatures and indexes hold ({time.perf_counter() - started:.1f} s)", True
    )
    tiles = place / "tiles"
    with LogReader.open(path) as log:
        export.export(log, tiles)
    bundle = sorted(tiles.rglob("tile/entries/*"))[0]
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 2] ^= 0x01
    bundle.write_bytes(raw)
    claims.claim("an altered entry in a mirror is found and named", _names_entry(tiles, key, claims))
    attacked = Home(place / "attacked")
    shutil.copytree(home.path, attacked.path)
    database = attacked.log("training")
    shutil.copytree(database, place / "older")
    with attacked.open_log("training") as ledger:
        ledger.append(Anchored(ledger.origin, report.size, Digest(report.root), b"", now_ms()))
        ledger.checkpoint()
    shutil.rmtree(database)
    (place / "older").rename(database)
    claims.claim(
        "an older copy put in the log's place is refused",
        _refuses(lambda: attacked.open_log("training"), RollbackError),
    )
    shutil.rmtree(attacked.path)


def _names_entry(tiles: Path, key: VerifierKey, claims: _Claims) -> bool:
    try:
        view = TileView(DirectoryTiles(tiles))
        verify(view, view.note, key, leaf_tiles=True)
    except VerificationError as error:
        claims.tell(f"     {error.message}")
        return error.index is not None
    return False


def _refuses(call: Callable[[], object], expected: type[LicetError]) -> bool:
    try:
        call()
    except expected:
        return True
    return False
