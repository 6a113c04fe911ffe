"""Real logs to test with: a small training run, appended as a trainer would."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from licet.ledger.events import Events
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    Determination,
    ExampleAdmitted,
    Opaque,
    ProfileDeclared,
    RunStarted,
    Stage,
    Technique,
)

BLOCKS = ("embedding", "middle", "head")


def append_opaque(ledger: Ledger, count: int) -> bytes:
    """That many entries of no particular meaning, signed."""
    for i in range(count):
        ledger.append(Opaque(200, 1, b"entry %d" % (ledger.size + i)))
    return ledger.checkpoint()


def training_log(path: Path, key: SigningKey, *, events: int = 600, batch: int = 64) -> Ledger:
    """An open log of a run: two sources, five examples, one profile, and events over three blocks; signed."""
    ledger = Ledger.create(path, key)
    blocks = tuple(Block(name, (), 10) for name in BLOCKS)
    run = ledger.append(RunStarted("run", "model", blocks, Technique.SCALE, Stage.ENFORCE, None, None, None, 0))
    sources = [ledger.append(AttestationMentioned(_digest(f"att {i}"), f"source-{i}")) for i in range(2)]
    profile = ledger.append(ProfileDeclared(run, (15, 0, 7), ("rule", "rule", "rule")))
    examples = [
        ledger.append(
            ExampleAdmitted(
                *(_digest(f"example {i}"), _digest(f"content {i}"), sources[i % 2], None, profile),
                *(Determination.ADMITTED, (), "low", 1.5, 0, (), None),
            )
        )
        for i in range(5)
    ]
    ledger.commit()
    for start in range(0, events, batch):
        which = np.arange(start, min(start + batch, events)) % len(examples)
        ledger.append_events(
            Events.of(
                example=np.array(examples)[which],
                attestation=np.array(sources)[which % 2],
                profile=profile,
                step=start // batch,
                slot=np.arange(len(which)),
                norms_raw=np.ones((len(which), len(BLOCKS))),
            )
        )
        ledger.commit()
    ledger.checkpoint()
    return ledger


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
