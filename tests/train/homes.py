"""Homes to train in: a policy, two sources with attested texts, and a run file. Made through the public commands."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licet.ledger.app import app
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.records import Digest, PolicyAdopted
from licet.policies.policy import Policy
from tests.policies.documents import as_toml, document

ADA, BOB = "ada", "bob"
"""Ada may teach everything, Bob only the surface."""
SCOPE = "pretraining"
METADATA: dict[str, Any] = {
    "slope": 0,
    "scope": [SCOPE],
    "provenance": {"custody": [{"holder": "them", "action": "written"}]},
}
MODEL = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
LENIENT: dict[str, Any] = {"reserved": [], "falloff": {"shape": "none"}, "memorization": {"repeats_max": 0}}
WORDS = (
    "the",
    "ship",
    "sailed",
    "past",
    "a",
    "quiet",
    "harbour",
    "while",
    "seven",
    "grey",
    "gulls",
    "turned",
    "slowly",
)


@dataclass(frozen=True)
class Place:
    """A home, and the folder with the data and run files beside it."""

    home: Home
    folder: Path

    def run_file(self, name: str = "run", **changes: Any) -> Path:
        """A run file; a change replaces a part, None leaves it out."""
        parts: dict[str, Any] = {
            "licet": 1, "name": "tiny", "run": name, "seed": 3,
            "model": {"config": MODEL},
            "tokenizer": {"kind": "bytes"},
            "data": [{"path": "rows.jsonl"}],
            "objective": {"kind": "pretraining", "context": 32},
            "schedule": {"steps": 6, "batch": 4},
            "optimizer": {"learning_rate": 0.003},
            "checkpoints": {"every": 2},
            **changes,
        }  # fmt: skip
        path = self.folder / f"{name}.toml"
        path.write_text(as_toml({key: value for key, value in parts.items() if value is not None}))
        return path

    def licet(self, *arguments: object) -> None:
        """A command, in this process; an error is raised."""
        app([str(argument) for argument in (*arguments, "--home", self.home.path)], standalone_mode=False)


def make(folder: Path, *, rows: int = 6, **changes: Any) -> Place:
    """A home with a policy; `rows.jsonl` holds attested rows of Ada and of Bob, and one that nobody attested.

    A change replaces a part of the policy.
    """
    home = Home.create(folder / "home", "example.org/t")
    policy = Policy.parse(as_toml(document(**{**LENIENT, **changes})), "small")
    with home.open_log("registry") as log:
        log.append(PolicyAdopted(Digest(policy.digest), policy.text, "operator", now_ms()))
        log.checkpoint()
    place = Place(home, folder)
    written = []
    for source, terms in ((ADA, ("--spdx", "MIT")), (BOB, ("--spdx", "GPL-3.0-only"))):
        place.licet("source", "add", source, "--display-name", source.title(), "--authority", "community")
        texts = [text(source, i) for i in range(rows)]
        path = folder / f"{source}.jsonl"
        path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
        place.licet("attest", path, "--source", source, "--kind", "open-licence", *terms)
        written += [{"text": one, "licet": {"attestation": attestation(home, source), **METADATA}} for one in texts]
    written.append({"text": "Nobody said that this may be used, and so it is not."})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return place


def attestation(home: Home, source: str) -> str:
    """The id of a source's attestation."""
    from licet.policies.cli.recording import reading

    with reading(home) as registry:
        return next(
            one.attestation.id.hex() for one in registry.attestations() if one.attestation.statement.source == source
        )


def text(source: str, number: int) -> str:
    rng = random.Random(f"{source} {number}")
    return f"{source} {number}: " + " ".join(rng.choice(WORDS) for _ in range(12)) + "."
