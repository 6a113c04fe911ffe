"""`licet attest`: a source's signed statement that it may contribute some content, under stated terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption
from licet.ledger.errors import ConfigError, StorageError
from licet.ledger.files import read_whole, write_whole
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.records import AttestationRecorded, Digest, Licence, LicenceKind, Recall
from licet.policies.attestation import (
    ENVELOPE_BYTES_MAX,
    Attestation,
    Generator,
    ManifestRoot,
    Statement,
    Subject,
    adopt_envelope,
    open_envelope,
    sign_statement,
)
from licet.policies.cli.collect import Collected, collect
from licet.policies.cli.from_distributions import attest_distributions
from licet.policies.cli.keyring import signing_key
from licet.policies.cli.moments import moment
from licet.policies.cli.recording import reading, recording
from licet.policies.manifest import Manifest
from licet.policies.provenance import Custody, Labels, Provenance
from licet.policies.registry import Registry
from licet.policies.rights import check_jurisdiction, parse_spdx

attest = typer.Typer(add_completion=False)
_SKIPPED_SHOWN = 20
_COLUMNS = ("text",)

Text = str | None
Texts = list[str] | None


@attest.command()
def attest_content(
    path: Annotated[
        Path | None,
        typer.Argument(help="A folder, a file, or rows: JSON lines, Parquet or a saved dataset, each by itself."),
    ] = None,
    source: Annotated[Text, typer.Option(help="Who states it.")] = None,
    kind: Annotated[LicenceKind | None, typer.Option(help="The type of attestation.")] = None,
    spdx: Annotated[Text, typer.Option(help="The licence as an SPDX expression.")] = None,
    terms_uri: Annotated[Text, typer.Option(help="Where the terms can be read.")] = None,
    valid_from: Annotated[Text, typer.Option("--from", help="When the licence begins: a date (00:00 UTC).")] = None,
    valid_until: Annotated[Text, typer.Option("--until", help="When it has ended: a date (00:00 UTC).")] = None,
    jurisdiction: Annotated[Texts, typer.Option(help="Where it holds; repeat it. Default: anywhere.")] = None,
    band: Annotated[Texts, typer.Option(help="A band that it permits; repeat it.")] = None,
    recall: Annotated[Recall, typer.Option(help="What may be said back.")] = Recall.ABSTRACTION,
    skill: Annotated[Texts, typer.Option(help="A skill that it is to teach; repeat it.")] = None,
    upstream: Annotated[Texts, typer.Option(help="An attestation of what this was made from; repeat it.")] = None,
    generator: Annotated[Text, typer.Option(help="What made synthetic content, as NAME or NAME@VERSION.")] = None,
    custody: Annotated[Texts, typer.Option(help="A step in the chain of custody, as HOLDER:ACTION; in order.")] = None,
    annotator: Annotated[Text, typer.Option(help="Who labelled it.")] = None,
    consensus: Annotated[float | None, typer.Option(min=0, max=1, help="How far annotators agreed.")] = None,
    quality: Annotated[float | None, typer.Option(min=0, max=1, help="How good the labels were found.")] = None,
    column: Annotated[
        Texts,
        typer.Option(
            help="Where rows have their text [default: text]. A list or an object counts as its JSON; repeat it for an"
            " object of several."
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The source's key, if the home does not keep it.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the signed envelope to this file too.")] = None,
    envelope: Annotated[
        Path | None, typer.Option(help="Record this DSSE envelope, which its source signed elsewhere, instead.")
    ] = None,
    from_distributions: Annotated[
        bool, typer.Option("--from-distributions", help="Attest what the installed Python distributions say instead.")
    ] = False,
    authority: Annotated[
        str, typer.Option(help="With --from-distributions: the class of their sources.")
    ] = "community",
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Sign and record that a source may contribute some content, and under which terms."""
    place = Home.find(home)
    if from_distributions or envelope is not None:
        if (from_distributions and envelope is not None) or (path, source, kind) != (None, None, None):
            raise ConfigError("Content and terms are found in what is named already.", remedy="Leave out the others.")
        if envelope is not None:
            _record_signed(place, envelope, as_json=as_json)
        else:
            _show_distributions(place, authority, as_json=as_json)
        return
    if path is None or source is None or kind is None:
        raise ConfigError("Content, its source and the kind of licence are needed.", remedy="PATH --source --kind")
    licence = Licence(
        kind,
        parse_spdx(spdx) if spdx is not None else None,
        terms_uri,
        moment(valid_from, "--from"),
        moment(valid_until, "--until"),
        tuple(check_jurisdiction(one) for one in jurisdiction or ()),
        tuple(band or ()),
        recall,
        tuple(skill or ()),
    )
    provenance = Provenance(tuple(_custody(step) for step in custody or ()), _labels(annotator, consensus, quality))
    with reading(place) as registry:  # what cannot succeed is refused before a long reading
        signer = signing_key(place, registry.source(source), key)
        behind = tuple(registry.find(digits).attestation.id for digits in upstream or ())
        _warn(registry, licence)
    content = _collected(path, tuple(column or _COLUMNS))
    subjects, root = _subjects(place, content)
    statement = Statement(source, licence, subjects, root, provenance, _generator(generator), behind, now_ms())
    index, attestation = _record(place, sign_statement(statement, signer))
    if output is not None:
        write_whole(output, attestation.envelope)
    _show(attestation, index, content, root, as_json=as_json)


def _record_signed(home: Home, file: Path, *, as_json: bool) -> None:
    """Take in what a source signed with a tool of its own, in whatever spelling that tool gave it."""
    raw = read_whole(file, bytes_max=ENVELOPE_BYTES_MAX)
    with reading(home) as registry:
        adopted = adopt_envelope(raw, [source.registration for source in registry.sources])
    index, attestation = _record(home, adopted)
    facts = {"attestation": attestation.id, "source": attestation.statement.source, "entry": index}
    text = f"{attestation.id.hex()}  signed by {attestation.statement.source}, entry {index}"
    terminal.show_result(facts, text, as_json=as_json)


def _collected(path: Path, columns: tuple[str, ...]) -> Collected:
    with terminal.progress("reading") as bar:
        content = collect(path, columns, bar)
    for one in content.skipped[:_SKIPPED_SHOWN]:
        terminal.say(f"left out: {one.name}: {one.why}")
    if len(content.skipped) > _SKIPPED_SHOWN:
        terminal.say(f"left out: {len(content.skipped) - _SKIPPED_SHOWN} more")
    return content


def _subjects(home: Home, content: Collected) -> tuple[tuple[Subject, ...], ManifestRoot | None]:
    """One piece of content is named by itself, several by a manifest of them, which is kept."""
    if len(content.entries) == 1:
        (entry,) = content.entries
        return (Subject(entry.name, entry.digest),), None
    manifest = Manifest.of(content.entries)
    _keep_manifest(home, manifest)
    return (), manifest.root


def _keep_manifest(home: Home, manifest: Manifest) -> None:
    """Keep a manifest, so that it can be shown later of each file that it is in it."""
    place = manifest_file(home, manifest.root)
    try:
        place.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{place.parent} could not be made: {error.strerror}.") from error
    write_whole(place, manifest.to_lines())


def manifest_file(home: Home, root: ManifestRoot) -> Path:
    """Where a home keeps a manifest that was attested."""
    return home.path / "manifests" / f"{root.root.hex()}.jsonl"


def _record(home: Home, envelope: bytes) -> tuple[int, Attestation]:
    with recording(home) as recorder:
        attestation = open_envelope(envelope, [source.registration for source in recorder.registry.sources])
        said = attestation.statement
        return recorder.add(
            AttestationRecorded(attestation.id, said.source, said.licence, envelope, now_ms())
        ), attestation


def _warn(registry: Registry, licence: Licence) -> None:
    """Names that the active policy does not know grant nothing: better said now than wondered about later."""
    adopted = registry.adopted
    if adopted is None:
        return
    policy = registry.policy()
    bands = {*policy.bands, *(band.name for band in policy.document.reserved)}
    for name in sorted({*licence.bands} - bands):
        terminal.say(f"note: the active policy knows no band {name!a}")
    for name in sorted({*licence.skills} - set(policy.document.skill)):
        terminal.say(f"note: the active policy knows no skill {name!a}")
    if licence.kind not in policy.document.licence:
        terminal.say(f"note: the active policy admits no attestation of kind {licence.kind.value}")


def _labels(annotator: str | None, consensus: float | None, quality: float | None) -> Labels | None:
    if annotator is None and (consensus, quality) != (None, None):
        raise ConfigError("Labels need somebody who made them.", remedy="Name them with --annotator.")
    return Labels(annotator, consensus, quality) if annotator is not None else None


def _generator(text: str | None) -> Generator | None:
    if text is None:
        return None
    name, _, version = text.partition("@")
    return Generator(name, version)


def _custody(step: str) -> Custody:
    holder, _, action = step.partition(":")
    if not holder.strip() or not action.strip():
        raise ConfigError(f"{step[:100]!a} is no step of custody.", remedy="Write it as HOLDER:ACTION.")
    return Custody(holder.strip(), action.strip())


def _show(
    attestation: Attestation, index: int, content: Collected, root: ManifestRoot | None, *, as_json: bool
) -> None:
    facts: dict[str, Any] = {
        "attestation": attestation.id,
        "source": attestation.statement.source,
        "entry": index,
        "contents": len(content.entries),
        "bytes": sum(entry.bytes for entry in content.entries),
        "manifest": root.root if root is not None else None,
        "skipped": content.skipped,
    }
    text = f"{attestation.id.hex()}  {len(content.entries)} contents of {attestation.statement.source}, entry {index}"
    terminal.show_result(facts, text, as_json=as_json)


def _show_distributions(home: Home, authority: str, *, as_json: bool) -> None:
    with terminal.progress("attesting") as bar:
        done = attest_distributions(home, authority, bar)
    attestations: dict[str, Digest] = {one.source: one.attestation for one in done.attested}
    facts = {"sources": done.registered, "attested": attestations, "known": done.known, "refused": done.refused}
    text = (
        f"{len(done.attested)} distributions attested, {done.known} were already; "
        f"{len(done.registered)} sources registered."
    )
    for name, why in done.refused.items():
        terminal.say(f"left out: {name}: {why}")
    terminal.show_result(facts, text, as_json=as_json)
