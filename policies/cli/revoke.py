"""`licet revoke`: a licence ends, from a moment on and for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption
from licet.ledger.errors import Finding
from licet.ledger.home import Home, passphrase
from licet.ledger.keys import load_key
from licet.ledger.log import now_ms
from licet.ledger.note import SigningKey
from licet.ledger.records import ClaimedMs
from licet.policies import acts
from licet.policies.acts import NotEntitledError
from licet.policies.cli.moments import moment
from licet.policies.cli.preview import facts, preview, say
from licet.policies.cli.recording import Recorder, recording
from licet.policies.registry import Recorded, Registry
from licet.policies.rights import revoked_from
from licet.policies.times import to_rfc3339

revoke = typer.Typer(add_completion=False)


@revoke.command()
def revoke_licence(
    attestation: Annotated[str, typer.Argument(metavar="ATTESTATION", help="Its id, or the first digits of it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the log.")],
    effective: Annotated[
        str | None, typer.Option(help="From when on: a date (00:00 UTC) or a moment. Default: now.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The key of whoever revokes. Default: the operator's, the registry's own.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would touch.")] = False,
    budget_s: Annotated[float, typer.Option(min=0, help="How long to look for what it touches.")] = 2.0,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """End the licence of an attestation. It cannot be undone; the source may attest anew."""
    place = Home.find(home)
    at_ms = now_ms()
    effective_ms = moment(effective, "--effective") or at_ms
    signer = load_key(key or place.key_file("registry"), passphrase())
    with recording(place) as recorder:
        recorded = recorder.registry.find(attestation)
        by = _revoker(recorder.registry, signer)
        _refuse_late(recorder.registry, recorded, effective_ms)
        touched = preview(place, recorder.registry, recorded.attestation.id, at_ms=at_ms, budget_s=budget_s)
        if not as_json:
            say(touched)
        if dry_run:
            nothing = "Nothing was revoked: this was a dry run."
            terminal.show_result({"impact": facts(touched), "entry": None}, nothing, as_json=as_json)
            return
        index = _revoke(recorder, recorded, reason, by, signer, effective_ms, at_ms)
    done = {
        "attestation": recorded.attestation.id,
        "source": recorded.attestation.statement.source,
        "effective": to_rfc3339(effective_ms),
        "by": by,
        "entry": index,
        "impact": facts(touched),
    }
    ends = to_rfc3339(effective_ms)
    text = f"Revoked {recorded.attestation.id.hex()} of {done['source']} from {ends} on, in entry {index}."
    terminal.show_result(done, text, as_json=as_json)


def _revoker(registry: Registry, signer: SigningKey) -> str:
    """Who acts with this key: the operator, or a source that signs with it now."""
    if signer.verifier.public == registry.operator_key.public:
        return registry.origin
    source = registry.source_with_key(signer.verifier)
    if source is None:
        raise NotEntitledError(
            f"{signer.verifier} is nobody's key in this registry now.",
            remedy="Revoke with the key of the attestation's source, or with the operator's.",
        )
    return source.id


def _refuse_late(registry: Registry, recorded: Recorded, effective_ms: int) -> None:
    """A revocation that changes nothing is not written down; one that takes effect earlier is."""
    digest = recorded.attestation.id
    earlier = revoked_from(registry.revocations(digest), digest)
    if earlier is not None and earlier <= effective_ms:
        raise Finding(
            f"{digest.hex()} is revoked already, from {to_rfc3339(earlier)} on.", remedy="There is nothing to do."
        )


def _revoke(
    recorder: Recorder,
    recorded: Recorded,
    reason: str,
    by: str,
    signer: SigningKey,
    effective_ms: ClaimedMs,
    at_ms: ClaimedMs,
) -> int:
    """Sign and append; whether this signer may is checked there, by the rule that every reader applies."""
    record = acts.revoke(
        recorder.registry.origin,
        recorded.attestation.id,
        effective_ms=effective_ms,
        reason=reason,
        by=by,
        key=signer,
        at_ms=at_ms,
    )
    return recorder.add(record)
