"""What the demo teaches from: installed distributions, attested, and judged by a policy that comes with Licet.

Which of them are taken is decided by what they are, never by name: every machine has others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate
from pathlib import Path

from licet.ledger.errors import ConfigError
from licet.ledger.files import write_whole
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.norms import LEVELS
from licet.ledger.records import (
    AttestationRecorded,
    Determination,
    Digest,
    Licence,
    LicenceKind,
    PolicyAdopted,
    Recall,
)
from licet.policies import acts
from licet.policies.attestation import Statement, attestation_id, sign_statement
from licet.policies.cli.distributions import Distribution, installed_distributions
from licet.policies.cli.from_distributions import SOURCE_PREFIX, attest_distributions
from licet.policies.cli.keyring import signing_key
from licet.policies.cli.recording import recording
from licet.policies.policy import Policy
from licet.train.data.judging import Judged

POLICY = "open-source-code"
SURFACE = "surface"
AUTHORITY = "maintainer"
"""Each source signs for what its own project says of itself."""
OPEN_MAX, NARROWED_MAX, CONFINED_MAX, REJECTED_MAX = 9, 3, 3, 2
OPEN_MIN = 4
CANDIDATES_MAX = 64
TEXT_BYTES_MIN, TEXT_BYTES_MAX = 300, 3000
OPEN_BYTES_MIN = 700
"""Long enough to hold a prefix and much more than fifty tokens behind it."""
OPEN_BYTES_SUM_MAX = 16_000
"""Of all of them together: the steps of the demo are counted, and more would not be learned by heart."""
_SHINGLE_CHARS, _SHARED_MAX = 24, 0.15


class Role(StrEnum):
    """Why a text was taken."""

    OPEN = "open"
    NARROWED = "narrowed"
    CONFINED = "confined"
    REVOKED = "revoked"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Lesson:
    """A distribution's description, and the attestation under which it is put to the gate."""

    distribution: Distribution
    text: str
    attestation: Digest
    role: Role

    @property
    def source(self) -> str:
        return SOURCE_PREFIX + self.distribution.name

    @property
    def row(self) -> str:
        """As a line of the training data."""
        about = {
            "attestation": self.attestation.hex(),
            "slope": 0,
            "scope": ["documentation"],
            "provenance": {
                "custody": [{"holder": self.distribution.name, "action": "published as part of its metadata"}]
            },
            "fields": {"repository": self.distribution.name, "revision": self.distribution.version or "none"},
        }
        return json.dumps({"text": self.text, "licet": about}) + "\n"


def demo_policy() -> Policy:
    """The default for open-source code, except that memorization is recorded and not answered: the model is to recite.

    Whatever the default answers to memorization, its lines are taken out and these put in their place.
    """
    text = Policy.read_default(POLICY).text
    text = re.sub(r"(?m)^response(_below)?[ \t]*=.*\n", "", text)
    recorded = 'response = { "*" = "record" }\nresponse_below = { "*" = "record" }\n'
    text = re.sub(r"(?m)^\[memorization\].*\n", lambda head: head[0] + recorded, text, count=1)
    text = re.sub(r"(?m)^name = .*$", f'name = "{POLICY}-demo"', text, count=1)
    return Policy.parse(text, "The demo's policy")


def attest(home: Home, report: Callable[[int, int], None]) -> list[Lesson]:
    """Adopt the policy, attest every installed distribution; those whose descriptions could be lessons."""
    policy = demo_policy()
    with recording(home) as recorder:
        recorder.add(PolicyAdopted(policy.digest, policy.text, recorder.registry.origin, now_ms()))
    done = attest_distributions(home, AUTHORITY, report)
    attested = {one.source: one.attestation for one in done.attested}
    return candidates(installed_distributions(), attested)


def candidates(found: Iterable[Distribution], attested: dict[str, Digest]) -> list[Lesson]:
    """Texts of a good size, the shortest first, none of which has much in common with another."""
    known: set[str] = set()
    taken: list[Lesson] = []
    for distribution in sorted(found, key=lambda one: (len(one.description), one.name)):
        attestation = attested.get(SOURCE_PREFIX + distribution.name)
        text = _text(distribution)
        if attestation is None or text is None or len(taken) == CANDIDATES_MAX:
            continue
        shingles = _shingles(text)
        if len(shingles & known) <= _SHARED_MAX * len(shingles):
            known |= shingles
            taken.append(Lesson(distribution, text, attestation, Role.OPEN))
    return taken


def _text(distribution: Distribution) -> str | None:
    if not TEXT_BYTES_MIN <= len(distribution.description) <= TEXT_BYTES_MAX:
        return None
    try:
        return distribution.description.decode()
    except UnicodeDecodeError:
        return None


def _shingles(text: str) -> set[str]:
    """All stretches of a text, by which copies of it are known."""
    plain = " ".join(text.split())
    return {plain[at : at + _SHINGLE_CHARS] for at in range(max(len(plain) - _SHINGLE_CHARS + 1, 1))}


def choose(lessons: Sequence[Lesson], judged: Sequence[Judged]) -> list[Lesson]:
    """A few of each depth. Of those that may teach everything some are set aside, to be narrowed or revoked."""
    by_role: dict[Role, list[tuple[int, Lesson]]] = {role: [] for role in Role}
    for lesson, one in zip(lessons, judged, strict=True):
        role = role_of(one)
        if role is not Role.OPEN or len(lesson.distribution.description) >= OPEN_BYTES_MIN:
            by_role[role].append((sum(one.admission.levels), replace(lesson, role=role)))
    free = [lesson for _, lesson in by_role[Role.OPEN]]
    if len(free) < OPEN_MIN:
        raise ConfigError(
            f"Of the distributions installed here {len(free)} have a description of {OPEN_BYTES_MIN} to "
            f"{TEXT_BYTES_MAX} bytes under a licence that may teach everything, and the demo needs {OPEN_MIN}.",
            remedy="Run it in the environment that `make setup` makes.",
        )
    free = _few_enough(free)
    narrowed = min(NARROWED_MAX, (len(free) - 1) // 3)
    free = free[: OPEN_MAX + narrowed + 1]
    confined = sorted(by_role[Role.CONFINED], key=lambda one: one[0])[:CONFINED_MAX]
    return [
        *free[: -narrowed - 1],
        *(lesson for _, lesson in reversed(confined)),
        *(replace(lesson, role=Role.NARROWED) for lesson in free[-narrowed - 1 : -1]),
        replace(free[-1], role=Role.REVOKED),
        *(lesson for _, lesson in by_role[Role.REJECTED][:REJECTED_MAX]),
    ]


def _few_enough(lessons: Sequence[Lesson]) -> list[Lesson]:
    """The first, as many as can be learned by heart in the time; never fewer than the demo needs."""
    sums = accumulate(len(lesson.distribution.description) for lesson in lessons)
    return [
        one
        for i, (one, sum_) in enumerate(zip(lessons, sums, strict=True))
        if i < OPEN_MIN or sum_ <= OPEN_BYTES_SUM_MAX
    ]


def role_of(judged: Judged) -> Role:
    """What the gate's answer makes of a text."""
    if judged.admission.determination is Determination.REJECTED or not any(judged.admission.levels):
        return Role.REJECTED
    return Role.OPEN if min(judged.admission.levels) == LEVELS else Role.CONFINED


def narrow(home: Home, lessons: Sequence[Lesson]) -> list[Lesson]:
    """Those that are to be narrowed sign anew: ideas and not words, and no deeper than the surface."""
    narrowed = []
    with recording(home) as recorder:
        for lesson in lessons:
            if lesson.role is not Role.NARROWED:
                narrowed.append(lesson)
                continue
            key = signing_key(home, recorder.registry.source(lesson.source), None)
            spdx = lesson.distribution.spdx
            licence = Licence(LicenceKind.OPEN, spdx, None, None, None, (), (SURFACE,), Recall.ABSTRACTION, ())
            recorded = recorder.registry.attestation(lesson.attestation).attestation
            envelope = sign_statement(Statement(lesson.source, licence, recorded.statement.subjects), key)
            digest = attestation_id(envelope)
            recorder.add(AttestationRecorded(digest, lesson.source, licence, envelope, now_ms()))
            narrowed.append(replace(lesson, attestation=digest))
    return narrowed


def revoke(home: Home, lesson: Lesson) -> None:
    """The operator ends a licence."""
    with recording(home) as recorder:
        at_ms, origin, key = now_ms(), recorder.registry.origin, recorder.log.key
        assert key is not None, "a log that is open for writing has one"
        recorder.add(
            acts.revoke(
                origin, lesson.attestation, effective_ms=at_ms, reason="shown in the demo", by=origin, key=key,
                at_ms=at_ms,
            )
        )  # fmt: skip


def write_rows(path: Path, lessons: Iterable[Lesson]) -> None:
    write_whole(path, "".join(lesson.row for lesson in lessons).encode())


def write_run(path: Path, *, steps: int, seed: int) -> None:
    write_whole(path, _RUN.format(steps=steps, seed=seed).encode())


_RUN = """\
# What the demo trains: a small Llama from random weights, and a tokenizer, both from nothing but what was admitted.
licet = 1
name = "demo"
run = "demo"
seed = {seed}

[model.config]
model_type = "llama"
hidden_size = 128
intermediate_size = 352
num_hidden_layers = 6
num_attention_heads = 4
num_key_value_heads = 4
max_position_embeddings = 128
tie_word_embeddings = false
initializer_range = 0.08

[tokenizer]
kind = "bpe"
vocabulary = 768

[[data]]
path = "rows.jsonl"

[objective]
kind = "pretraining"
context = 128

[schedule]
steps = {steps}
batch = 16

[optimizer]
learning_rate = 3e-3
weight_decay = 0.0

# What may reach only a part of the model waits until the rest has formed: else all would fight over that part.
[[phase]]
name = "forming"
until = 0.5
confined = "wait"

[[phase]]
name = "everything"
until = 1.0
"""
