"""Writing admissions into the training log, and making lessons of what was admitted.

Of what is rejected the log has a commitment, and nobody keeps the text. In a run that only observes, everything is
taught as it was before there was a gate, and the log says both: what the gate would have done, and what was done.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from licet.ledger.content import ContentStore, commit_to
from licet.ledger.errors import VerificationError
from licet.ledger.log import Ledger
from licet.ledger.norms import LEVELS
from licet.ledger.records import (
    AttestationMentioned,
    Determination,
    Digest,
    ExampleAdmitted,
    ProfileDeclared,
    Recall,
    Ref,
    Signed,
    Stage,
)
from licet.policies import wire
from licet.train.data.judging import Judge, Judged
from licet.train.data.lessons import Lesson, Lessons
from licet.train.data.rows import Row
from licet.train.data.tokens import TokenWriter
from licet.train.objectives import Objective, SampleError
from licet.train.run.recorder import UNATTESTED

COMMIT_EVERY = 1024
OBSERVED = Stage.OBSERVE.value
"""The rule of a profile that nobody decided: the gradient went everywhere."""
_NO_ATTESTATION = Digest(bytes(32))


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A row that was put to the gate, by its entries; `lesson` is None where it was rejected."""

    content: bytes
    lesson: Lesson | None


@dataclass(slots=True)
class Enrolment:
    """The admissions of one run."""

    ledger: Ledger
    run: Ref
    judge: Judge
    stage: Stage
    policy: Ref
    """Where the home's own policy is mentioned; others that were asked stand in the rules they decided."""
    content: ContentStore
    _attestations: dict[bytes, Ref] = field(default_factory=dict)
    _profiles: dict[tuple[tuple[int, ...], tuple[str, ...]], Ref] = field(default_factory=dict)

    def enrol(self, rows: Iterable[Row]) -> Iterator[tuple[Judged, Enrolled]]:
        """Record the admission of each row."""
        for count, judged in enumerate(self.judge.judge(rows), start=1):
            yield judged, Enrolled(hashlib.sha256(judged.row.content).digest(), self._record(judged))
            if count % COMMIT_EVERY == 0:
                self.ledger.commit()
        self.ledger.commit()

    def _record(self, judged: Judged) -> Lesson | None:
        admission, example, row = judged.admission, judged.example, judged.row
        rejected = admission.determination is Determination.REJECTED
        taught = self.stage is Stage.OBSERVE or not rejected
        attestation = self._attestation(admission.attestation, admission.source)
        profile = None if rejected else self._profile(tuple(admission.levels), admission.rules)
        index = self.ledger.append(
            ExampleAdmitted(
                self.judge.gate.id_of(example, admission),
                self.content.put(row.content) if taught else commit_to(row.content, secrets.token_bytes(32)),
                attestation,
                self.policy,
                profile,
                admission.determination,
                tuple(reason.value for reason in admission.reasons),
                example.entropy_band,
                example.bits_per_byte,
                example.slope,
                example.scope,
                wire.digest_of(example.provenance) if example.provenance is not None else None,
            )
        )
        if not taught:
            return None
        levels, rules = tuple(admission.levels), admission.rules
        if self.stage is Stage.OBSERVE:
            levels, rules = (LEVELS,) * len(levels), (OBSERVED,) * len(levels)
            profile = self._profile(levels, rules)
        assert profile is not None and attestation is not None
        licence = self.judge.licence(judged)
        return Lesson(
            example=index,
            attestation=attestation,
            profile=profile,
            levels=levels,
            rules=rules,
            rights=self.judge.rights(judged),
            permitted=self.judge.permitted(licence),
            verbatim=licence is not None and licence.recall is Recall.VERBATIM,
            entropy_band=example.entropy_band or "",
            name=row.place,
            first=0,
            samples=0,
        )

    def _attestation(self, attestation: Digest | None, source: str | None) -> Ref | None:
        if attestation is None and self.stage is not Stage.OBSERVE:
            return None
        key = attestation or _NO_ATTESTATION
        if key not in self._attestations:
            mention = AttestationMentioned(key, source if attestation is not None and source else UNATTESTED)
            self._attestations[key] = Ref(self.ledger.append(mention))
        return self._attestations[key]

    def _profile(self, levels: tuple[int, ...], rules: tuple[str, ...]) -> Ref:
        if (levels, rules) not in self._profiles:
            declared = ProfileDeclared(self.run, tuple(Signed(level) for level in levels), rules)
            self._profiles[levels, rules] = Ref(self.ledger.append(declared))
        return self._profiles[levels, rules]


def make_lessons(
    rows: Iterable[Row],
    enrolled: list[Enrolled],
    objective: Objective,
    store: TokenWriter,
    report: Callable[[int, int], None],
) -> Lessons:
    """Turn what was admitted into samples. Rows that are not the ones that were judged are refused."""
    lessons: list[Lesson] = []
    known: dict[bytes, int] = {}
    first = 0
    rows = iter(rows)
    for number, entered in enumerate(enrolled):
        row = next(rows, None)
        if row is None or hashlib.sha256(row.content).digest() != entered.content:
            where = row.place if row is not None else "The end of the data"
            raise VerificationError(
                f"{where} changed while it was read.", remedy="Keep the data as it is while a run begins."
            )
        if entered.lesson is not None:
            count = _samples(row, entered.lesson, objective, store)
            twin = known.setdefault(entered.content, len(lessons))
            own = twin == len(lessons) or lessons[twin].samples != count
            lessons.append(replace(entered.lesson, first=first, samples=count, twin=None if own else twin))
            first += count
        report(number + 1, len(enrolled))
    return Lessons(lessons)


def _samples(row: Row, lesson: Lesson, objective: Objective, store: TokenWriter) -> int:
    """How many samples a row made. One that may reach nothing keeps one place, and none of its tokens."""
    if not any(lesson.levels):
        store.add(())
        return 1
    try:
        return sum(1 for sample in objective.samples(row.parts) if store.add(sample) >= 0)
    except SampleError as error:
        raise SampleError(f"{row.place}: {error.message}", remedy=error.remedy) from error
