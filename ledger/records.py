"""Frozen types of everything that is written down. One class per kind of fact, each with its version.

A record says what happened in the words of the project's vocabulary; `codec.py` turns it into the bytes of an entry.
A class never changes once released: a new shape is a new class with the same `KIND` and the next `VERSION`, and
both stay readable. Kinds are never reused.

Two habits hold everywhere. Time stamps (`ClaimedMs`, Unix milliseconds) are claims of the writer: the log proves
the order of entries, not the clock. Personal or licensed content never stands here, only salted commitments to it
(`content.py`), so that erasing content leaves every proof valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NewType

Digest = NewType("Digest", bytes)
"""SHA-256: 32 bytes."""
ClaimedMs = NewType("ClaimedMs", int)
"""Unix time in milliseconds, as the writer's clock claimed it."""
Ref = NewType("Ref", int)
"""The index of an earlier entry of the same log: how repeated things are said once."""
Signed = NewType("Signed", int)
U8 = NewType("U8", int)
U16 = NewType("U16", int)
U32 = NewType("U32", int)
U40 = NewType("U40", int)
Norms = NewType("Norms", tuple[int, ...])
"""Gradient norms as the 16-bit codes of `norms.py`."""

BY_TAG: dict[tuple[int, int], type[Record]] = {}
"""(kind, version) → the class that reads it."""


class Record:
    """Base of all records: knows its kind and version, and registers the class for reading."""

    __slots__ = ()
    KIND: ClassVar[int]
    VERSION: ClassVar[int]

    def __init_subclass__(cls, kind: int = 0, version: int = 1) -> None:
        super().__init_subclass__()
        if "__slots__" not in vars(cls):  # the class before `dataclass(slots=True)` makes the real one
            cls.KIND, cls.VERSION = kind, version
        BY_TAG[cls.KIND, cls.VERSION] = cls


@dataclass(frozen=True, slots=True)
class Opaque:
    """An entry of a kind or version that this release does not know: unread, and still provable."""

    kind: int
    version: int
    body: bytes


# ---- any log ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogOpened(Record, kind=1):
    """The first entry of every log: its origin and the first key that signs it."""

    origin: str
    verifier_key: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class KeyRotated(Record, kind=2):
    """From here on another key signs. Both keys sign `keys.rotation_statement`: the old agrees, the new exists."""

    old_key: str
    new_key: str
    old_signature: bytes
    new_signature: bytes
    reason: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class Anchored(Record, kind=3):
    """A signed checkpoint of another log, which thereby cannot be younger than this entry."""

    origin: str
    size: int
    root: Digest
    note: bytes
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class ContentErased(Record, kind=4):
    """Content and salt behind a commitment were deleted. What was proved about the commitment stays proved."""

    commitment: Digest
    reason: str
    by: str
    claimed_ms: ClaimedMs


# ---- registry: who may teach, under which terms, by which policy -----------------------------------------------


class LicenceKind(StrEnum):
    """The types of attestation."""

    PUBLIC_DOMAIN = "public-domain"
    OPEN = "open-licence"
    COMMERCIAL = "commercial"
    TIME_LIMITED = "time-limited"
    USER_SUBMITTED = "user-submitted"
    SYNTHETIC = "synthetic"
    SAFETY_ALIGNMENT = "safety-alignment"
    EXCLUSION = "exclusion"
    LAST_RESORT = "last-resort"


class Recall(StrEnum):
    """What may be said back of what was taught."""

    VERBATIM = "verbatim"
    ABSTRACTION = "abstraction"


class SourceState(StrEnum):
    """Whether a source may contribute."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Licence:
    """The terms of an attestation. Empty tuples mean "not restricted" for jurisdictions and "none" for the others."""

    kind: LicenceKind
    spdx: str | None
    terms_uri: str | None
    valid_from_ms: ClaimedMs | None
    valid_until_ms: ClaimedMs | None
    jurisdictions: tuple[str, ...]
    bands: tuple[str, ...]
    recall: Recall
    skills: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceRegistered(Record, kind=16):
    """A contributor, its key and its authority class."""

    source: str
    display_name: str
    verifier_key: str
    authority: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class SourceKeyRotated(Record, kind=17):
    """A source's new key, agreed to by its old one or by an operator."""

    source: str
    old_key: str
    new_key: str
    signature: bytes
    by: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class SourceStateChanged(Record, kind=18):
    """A source was suspended or reinstated."""

    source: str
    state: SourceState
    reason: str
    by: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class AttestationRecorded(Record, kind=19):
    """A source's signed statement that it may contribute some content. `attestation` is the digest of `envelope`."""

    attestation: Digest
    source: str
    licence: Licence
    envelope: bytes
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class LicenceRevoked(Record, kind=20):
    """An attestation's licence ends, by the source or by an operator with that right."""

    attestation: Digest
    reason: str
    effective_ms: ClaimedMs
    by: str
    signature: bytes
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class PolicyAdopted(Record, kind=21):
    """A policy became the active one. `policy` is the digest of `text`."""

    policy: Digest
    text: str
    by: str
    claimed_ms: ClaimedMs


# ---- training: admissions, events, seals -----------------------------------------------------------------------


class Technique(StrEnum):
    """How a profile acts on the gradient."""

    SCALE = "scale"
    RESIDUAL = "residual"
    ATTENTION = "attention"


class Stage(StrEnum):
    """Whether profiles are only recorded or applied."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


class Determination(StrEnum):
    """The gate's answer on an example."""

    ADMITTED = "admitted"
    MODIFIED = "admitted-with-modified-profile"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Block:
    """One layer block of a model and the bands that cover it."""

    name: str
    bands: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class PolicyMentioned(Record, kind=32):
    """Interns a policy of the registry, so that admissions can refer to it."""

    policy: Digest


@dataclass(frozen=True, slots=True)
class AttestationMentioned(Record, kind=33):
    """Interns an attestation of the registry and its source."""

    attestation: Digest
    source: str


@dataclass(frozen=True, slots=True)
class RunStarted(Record, kind=34):
    """A training run began. Its blocks give the order in which profiles and norms are written."""

    run: str
    model: str
    blocks: tuple[Block, ...]
    technique: Technique
    stage: Stage
    policy: Ref | None
    parent_seal: Digest | None
    config: Digest | None
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class ProfileDeclared(Record, kind=35):
    """Interns a depth profile for the blocks of a run: weight = level / 15. `rules` names what decided each block."""

    run: Ref
    levels: tuple[Signed, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExampleAdmitted(Record, kind=36):
    """The admission of one example, rejections included: what the gate saw and what it answered."""

    example: Digest
    commitment: Digest
    attestation: Ref | None
    policy: Ref | None
    profile: Ref | None
    determination: Determination
    reasons: tuple[str, ...]
    entropy_band: str | None
    bits_per_byte: float | None
    slope: int | None
    scope: tuple[str, ...]
    provenance: Digest | None


@dataclass(frozen=True, slots=True)
class GradientApplied(Record, kind=37):
    """One event: an example's gradient reached the blocks in which its profile is not zero.

    `norms` holds one code for each of those blocks, in block order: the norm before the weight. Fixed widths,
    because there are more of these than of everything else together.
    """

    flags: U16
    step: U32
    epoch: U16
    microbatch: U16
    slot: U16
    example: Ref
    attestation: Ref
    profile: Ref
    norms: Norms


@dataclass(frozen=True, slots=True)
class StepTaken(Record, kind=38):
    """One optimizer step: what all its events together did. `delta_norms` has one value per block."""

    run: Ref
    step: int
    learning_rate: float
    loss: float | None
    events: int
    delta_norms: tuple[float, ...]
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class MemorizationFlagged(Record, kind=39):
    """An example was being encoded rather than learned from, and what was done about it."""

    example: Ref
    step: int
    blocks: tuple[int, ...]
    score: float
    threshold: float
    response: str


@dataclass(frozen=True, slots=True)
class ProfileAdapted(Record, kind=40):
    """The profile of an entropy band was adjusted within the policy's bounds, and on which measurement."""

    run: Ref
    step: int
    entropy_band: str
    old_levels: tuple[Signed, ...]
    new_levels: tuple[Signed, ...]
    block_entropies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BlockDigest:
    """The digest of one block's parameters."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class CheckpointSealed(Record, kind=41):
    """A checkpoint of a model was sealed. Its corpus is what was admitted to its runs up to `log_size`."""

    seal: Digest
    model: str
    label: str
    run: Ref | None
    step: int
    blocks: tuple[BlockDigest, ...]
    policy: Ref | None
    parent: Digest | None
    log_size: int
    log_root: Digest
    proposals: tuple[Digest, ...]
    claimed_ms: ClaimedMs


# ---- runtime: verdicts and what came of them -------------------------------------------------------------------


class Action(StrEnum):
    """A verdict."""

    ALLOW = "allow"
    ATTRIBUTE = "attribute"
    SUPPRESS = "suppress"


class Mode(StrEnum):
    """How far a verdict is enforced."""

    MONITOR = "monitor"
    ANNOTATE = "annotate"
    DIVERT = "divert"
    STOP = "stop"


class Depth(StrEnum):
    """How deeply matched content was recorded as integrated."""

    SHALLOW = "shallow"
    DEEP = "deep"
    ABSENT = "absent"


class Decision(StrEnum):
    """The outcome of a review."""

    APPROVED = "approved"
    EDITED = "approved-with-edit"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an output (code points, end exclusive) that matches taught content."""

    start: int
    end: int
    attestation: Digest | None
    licence_state: str
    kind: str
    similarity_ppm: int
    depth: Depth


@dataclass(frozen=True, slots=True)
class VerdictGiven(Record, kind=64):
    """What was decided about one completion, and the evidence. Prompt and output stand here only as commitments."""

    completion: str
    choice: int
    seal: Digest
    prompt: Digest
    output: Digest
    action: Action
    mode: Mode
    reasons: tuple[str, ...]
    spans: tuple[Span, ...]
    activity_ppm: tuple[int, ...]
    tainted_share_ppm: int
    registry_size: int
    policy: Digest
    tenant: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class AlertRaised(Record, kind=65):
    """Somebody must look: the verdict that raised it, and why."""

    verdict: Ref | None
    reason: str
    detail: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class CorrectionReceived(Record, kind=66):
    """A reader says what a completion should have said. The text is content, by commitment."""

    correction: Digest
    verdict: Ref
    text: Digest
    reporter: str
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class ProposalMade(Record, kind=67):
    """A correction or an unlearning, waiting for review: who generated it, and what it derives from."""

    proposal: Digest
    kind: str
    content: Digest | None
    generator: str
    derivation: tuple[Digest, ...]
    slope: int
    claimed_ms: ClaimedMs


@dataclass(frozen=True, slots=True)
class ProposalReviewed(Record, kind=68):
    """A person decided on a proposal. `content` is the text as approved."""

    proposal: Digest
    decision: Decision
    content: Digest | None
    reviewer: str
    reason: str
    claimed_ms: ClaimedMs
