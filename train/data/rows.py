"""A row of the training data as it was read: what is attested, what is trained on, and what it says of itself.

A row does not know whether it may teach. What it claims is what its file says; the gate tells what that is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from licet.ledger.records import Digest
from licet.policies.example import Membership
from licet.policies.provenance import Provenance

Envelope = bytes


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody says in a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """A text to be learned whole."""

    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation: what the assistant says in it is learned."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to the same prompt, and which of them is preferred."""

    prompt: tuple[Message, ...] | str
    chosen: str
    rejected: str


Parts = Text | Chat | Pair


@dataclass(frozen=True, slots=True)
class Claims:
    """What a row says of itself, in the words of `policies.example`. Everything may be missing."""

    attestation: Digest | Envelope | None = None
    """An id that the registry knows (a `Digest`, 32 bytes), or the envelope itself."""
    membership: Membership | None = None
    slope: int | None = None
    scope: tuple[str, ...] = ()
    provenance: Provenance | None = None
    skills: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    entropy_band: str | None = None
    bits_per_byte: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `content` is what its attestation is about (`licet.policies.cli.file_rows.attested_bytes`)."""

    place: str
    """Where it stands, for messages: "corpus.jsonl line 17"."""
    content: bytes
    parts: Parts
    claims: Claims

    @property
    def words(self) -> str:
        """All that is said in it, for measuring how much information that is."""
        match self.parts:
            case Text(text):
                return text
            case Chat(messages):
                return _said(messages)
            case Pair(prompt, chosen, rejected):
                opening = prompt if isinstance(prompt, str) else _said(prompt)
                return "\n".join((opening, chosen, rejected))


def _said(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.content for message in messages)
