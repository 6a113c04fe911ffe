"""The demo's last parts: one application proved offline, the seal and the log verified, and then attacked."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from licet.ledger import codec, export, fsck, proof
from licet.ledger.errors import LicetError, RollbackError, VerificationError
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.note import VerifierKey
from licet.ledger.reader import LogReader
from licet.ledger.records import Anchored, Digest, ExampleAdmitted, GradientApplied
from licet.ledger.sources import DirectoryTiles
from licet.ledger.tileview import TileView
from licet.ledger.verify import verify
from licet.train.cli.demo_claims import Claims, refuses
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.statement import Role
from licet.train.seals.tensor_file import read_header
from licet.train.seals.verify import SealReport, verify_seal


@dataclass(frozen=True, slots=True)
class Trained:
    """The home of the run that is proved and attacked, the folder that all is kept in, and the sealed checkpoint."""

    home: Home
    place: Path
    sealed: Path


def prove(trained: Trained, claims: Claims) -> None:
    home = trained.home
    claims.tell("\n5. Prove one gradient application to somebody who has only the key")
    with LogReader.open(home.log("training")) as log:
        admissions = (admitted for _, admitted in log.all_of(ExampleAdmitted) if admitted.profile is not None)
        admitted, (index, *_) = next((a, found) for a in admissions if (found := log.exposure.events_of(a.example)))
        receipt = proof.make_receipt(log, index).format()
    (trained.place / "receipt").write_bytes(receipt)
    key = home.verifier_key("training")
    checkpoint, entry = proof.verify_receipt(proof.Proof.parse(receipt), [key])
    claims.tell(f"   {len(receipt)} bytes: entry {index} of {checkpoint.origin} at size {checkpoint.size}")
    claims.claim("the receipt verifies offline", isinstance(codec.decode(entry), GradientApplied))
    claims.claim("with one bit changed it does not", refuses(lambda: _verify_flipped(receipt, key), LicetError))
    home.content.erase(admitted.commitment)
    claims.claim(
        "the example's text is erased, and its receipt still verifies",
        admitted.commitment not in home.content and bool(proof.verify_receipt(proof.Proof.parse(receipt), [key])),
    )


def _verify_flipped(receipt: bytes, key: VerifierKey) -> None:
    read = proof.Proof.parse(receipt)
    assert read.extra is not None, "a receipt holds its entry"
    entry = bytearray(read.extra)
    entry[-1] ^= 1
    proof.verify_proof(read, bytes(entry), [key])


def verify_checkpoint(trained: Trained, claims: Claims) -> None:
    claims.tell("\n6. Verify the sealed checkpoint against the log, then change one bit of one weight")
    report = _sealed(trained, trained.sealed)
    claims.tell(f"   {trained.sealed.name}: {len(report.blocks)} blocks, seal {report.seal.id.hex()[:16]}")
    claims.claim(
        "each block is as it was sealed, and the log knows what shaped it",
        report.is_good and report.authority_checked and report.history_known,
    )
    altered = trained.place / "altered"
    shutil.copytree(trained.sealed, altered)
    try:
        block = _flip_a_weight(altered, report)
        found = _sealed(trained, altered)
        for problem in found.problems[:1]:
            claims.tell(f"     {problem.text}")
        named = [problem.block for problem in found.problems if problem.block is not None]
        claims.claim("the block with the changed weight is named", named == [block])
    finally:
        shutil.rmtree(altered)


def _sealed(trained: Trained, directory: Path) -> SealReport:
    with LogReader.open(trained.home.log("training")) as log:
        parents = seals_in(trained.sealed.parent)
        return verify_seal(directory, log.verifier_keys(), parents=parents, history=LogHistory(log))


def _flip_a_weight(directory: Path, report: SealReport) -> str:
    """Change a bit in the middle of the weights of some block; which block that is."""
    block = report.seal.blocks[len(report.seal.blocks) // 2]
    weights = [directory / file.name for file in report.seal.files if file.role is Role.WEIGHTS]
    path, stored = next(
        (path, tensor)
        for path in weights
        for tensor in read_header(path).tensors
        if tensor.name == block.tensors[0].name
    )
    with path.open("r+b") as file:
        at = (stored.start + stored.end) // 2
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))
    return block.name


def attack(trained: Trained, claims: Claims) -> None:
    claims.tell("\n7. Verify the whole log, then attack it")
    key, path = trained.home.verifier_key("training"), trained.home.log("training")
    started = time.perf_counter()
    report = fsck.fsck(path, key)
    claims.tell(f"   {report.size} entries checked in {time.perf_counter() - started:.1f} s")
    claims.claim("all entries, their tree, signatures and indexes hold", True)
    tiles = trained.place / "tiles"
    with LogReader.open(path) as log:
        export.export(log, tiles)
    bundle = next(path for path in sorted(tiles.glob("tile/entries/**/*")) if path.is_file())
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 2] ^= 0x01
    bundle.write_bytes(raw)
    claims.claim("an altered entry in a mirror is found and named", _names_entry(tiles, key, claims))
    claims.claim("an older copy put in the log's place is refused", _refuses_older(trained, report.size, report.root))


def _names_entry(tiles: Path, key: VerifierKey, claims: Claims) -> bool:
    try:
        view = TileView(DirectoryTiles(tiles))
        verify(view, view.note, key, leaf_tiles=True)
    except VerificationError as error:
        claims.tell(f"     {error.message}")
        return error.index is not None
    return False


def _refuses_older(trained: Trained, size: int, root: bytes) -> bool:
    """Copy the home, let its log go on, and put the state of before back."""
    attacked, older = Home(trained.place / "attacked"), trained.place / "older"
    leave_out = shutil.ignore_patterns("models", "content", "runs")
    shutil.copytree(trained.home.path, attacked.path, ignore=leave_out)
    try:
        database = attacked.log("training")
        shutil.copytree(database, older)
        with attacked.open_log("training") as ledger:
            ledger.append(Anchored(ledger.origin, size, Digest(root), b"", now_ms()))
            ledger.checkpoint()
        shutil.rmtree(database)
        older.rename(database)
        return refuses(lambda: attacked.open_log("training"), RollbackError)
    finally:
        shutil.rmtree(attacked.path, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)
