"""Deriving skill certificates from exposure: who shaped the bands of a skill, and were they entitled to.

For a skill, the recorded exposure in the blocks of its bands is added up twice: all of it, and what is of attestations
that are attested, in policy and, where the skill lists authorities, of one of these classes.

A block that came from elsewhere holds more than the log tells. A certificate names it, and is not satisfied.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from licet.ledger.ancestry import unknown_blocks
from licet.ledger.cells import Cells, total
from licet.ledger.errors import FormatError
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    CheckpointSealed,
    Determination,
    Digest,
    ExampleAdmitted,
    PolicyMentioned,
)
from licet.ledger.view import View
from licet.policies.certificate import PPM, SkillCertificate
from licet.policies.lineage import find_seal, records_of, stretches_of
from licet.policies.policy import Policy
from licet.policies.reasons import Reason, Refused
from licet.policies.registry import Registry
from licet.policies.schema import Skill

ExposureTotals = Mapping[tuple[str, Digest], int]
"""(block, attestation) → exact sum of recorded exposure."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """What the registry says of an attestation: its source's authority class, and whether the policy admits it."""

    authority: str | None
    in_policy: bool


Teachers = Mapping[Digest, Teacher]
"""An attestation that is not there is not attested."""


@dataclass(frozen=True, slots=True)
class Place:
    """The sealed model that a certificate is about, and the log it grew from."""

    seal: Digest
    log_origin: str
    log_size: int
    log_root: Digest
    unknown_blocks: frozenset[str]
    """Those whose past no log tells of (`ledger/ancestry.py`)."""


def teachers_of(log: View, registry: Registry, policy: Policy) -> dict[Digest, Teacher]:
    """Everybody whom a training log mentions and whose attestation holds in the registry.

    In policy is an attestation whose examples were admitted under this policy, and under no other.
    """
    admitted: dict[int, set[int | None]] = {}
    for index, record in records_of(log, 0, log.size, ExampleAdmitted.KIND):
        if not isinstance(record, ExampleAdmitted):
            raise FormatError(f"Entry {index} admits in a form of another release.", remedy="Use a newer one.")
        if record.attestation is not None and record.determination is not Determination.REJECTED:
            admitted.setdefault(record.attestation, set()).add(record.policy)
    own = {index for index, mentioned in log.all_of(PolicyMentioned) if mentioned.policy == policy.digest}
    found: dict[Digest, Teacher] = {}
    for index, mentioned in log.all_of(AttestationMentioned):
        if registry.has_attestation(mentioned.attestation):
            recorded = registry.attestation(mentioned.attestation).attestation
            authority = registry.source(recorded.statement.source).registration.authority
            under, before = admitted.get(index, set()), found.get(mentioned.attestation)
            in_policy = bool(under) and under <= own and (before is None or before.in_policy)
            found[mentioned.attestation] = Teacher(authority, in_policy)
    return found


def certify(
    name: str, policy: Policy, blocks: Sequence[Block], exposure: ExposureTotals, teachers: Teachers, place: Place
) -> SkillCertificate:
    """The certificate of one skill.

    Where nothing is recorded in its bands it is not satisfied: that proves nothing. Nor is it where a block of theirs
    has an unknown past; a block of the base that no run has named may lie in any band.
    """
    skill = policy.document.skill.get(name)
    if skill is None:
        raise Refused(
            Reason.SKILL_UNKNOWN,
            f"The policy {policy.document.name} has no skill {name[:64]!r}.",
            remedy="Name another.",
        )
    wanted = {block.name for block in blocks if set(block.bands) & set(skill.bands)}
    unknown = _unknown_in(wanted, blocks, place)
    certified = recorded = 0
    for (block, attestation), amount in exposure.items():
        if amount < 0:
            raise FormatError("Exposure is never negative.", remedy="Take it from the ledger.")
        if block in wanted:
            recorded += amount
            certified += amount if _may_teach(teachers.get(attestation), skill) else 0
    return SkillCertificate(
        name,
        place.seal,
        policy.digest,
        tuple(sorted(set(skill.bands))),
        certified,
        recorded,
        share_min_ppm(skill),
        place.log_origin,
        place.log_size,
        place.log_root,
        unknown,
    )


def _unknown_in(wanted: Collection[str], blocks: Sequence[Block], place: Place) -> tuple[str, ...]:
    placed = {block.name for block in blocks}
    return tuple(sorted(name for name in place.unknown_blocks if name in wanted or name not in placed))


def certify_seal(
    log: LogReader, seal: Digest, policy: Policy, teachers: Teachers, skills: Sequence[str] | None = None
) -> list[SkillCertificate]:
    """Certificates of a sealed model for some skills of a policy (all, if none are named), from its training log."""
    index, sealed = find_seal(log, seal)
    exposure = exposure_of_seal(log, index, sealed)
    stretches = stretches_of(log, index, sealed)
    blocks = [block for stretch in stretches for block in stretch.started.blocks]
    place = Place(sealed.seal, log.origin, sealed.log_size, sealed.log_root, unknown_blocks(log, seal))
    names = sorted(policy.document.skill) if skills is None else skills
    return [certify(name, policy, blocks, exposure, teachers, place) for name in names]


def exposure_of_seal(log: LogReader, index: int, sealed: CheckpointSealed) -> dict[tuple[str, Digest], int]:
    """What was recorded up to a seal, in its run and those it continues: every event before it, and none after."""
    sums: dict[tuple[str, Digest], int] = {}
    for stretch in stretches_of(log, index, sealed):
        names = [block.name for block in stretch.started.blocks]
        cells = Cells(len(names), lambda _: 0)
        for events, profiles, _ in log.exposure.events_between(stretch.start, stretch.end):
            cells.fold(events, profiles)
        for ref, row in zip(cells.refs.tolist(), cells.cells.tolist(), strict=True):
            attestation = _attestation_at(log, ref)
            for name, (hi, lo, _) in zip(names, row, strict=True):
                amount = total(hi, lo)
                if amount:
                    sums[name, attestation] = sums.get((name, attestation), 0) + amount
    return sums


def share_min_ppm(skill: Skill) -> int:
    """The share that a skill asks for, in millionths, rounded up, so that a rounded share never passes by rounding."""
    exact = Decimal(repr(skill.certified_share_min)) * PPM
    return int(exact.to_integral_value(rounding=ROUND_CEILING))


def _may_teach(teacher: Teacher | None, skill: Skill) -> bool:
    if teacher is None or not teacher.in_policy:
        return False
    return not skill.authorities or teacher.authority in skill.authorities


def _attestation_at(log: LogReader, ref: int) -> Digest:
    mentioned = log.record(ref)
    if not isinstance(mentioned, AttestationMentioned):
        raise FormatError(f"Entry {ref} does not mention an attestation.", remedy="Run `licet ledger verify`.")
    return mentioned.attestation
