"""Skill certificates as data: what of a sealed model's exposure in a skill's bands was attested and in policy.

A certificate is a sum over a log, and whoever has the log can do the sum again. Blocks that came from elsewhere are
not in the sum: it then speaks of the recorded part only, names them, and is never satisfied. Its JSON has one spelling;
a text that contradicts itself is no certificate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from licet.ledger.errors import FormatError
from licet.ledger.records import Digest
from licet.policies.schema import NAME_CHARS_MAX
from licet.policies.strict_json import Fields, check_text, parse, sha256_of, spell

VERSION = 2
"""The first said nothing of blocks with an unknown past."""
CERTIFICATE_BYTES_MAX = 2 << 20
BANDS_MAX = 64
BLOCKS_MAX = 8192
PPM = 1_000_000
SIZE_MAX = (1 << 63) - 1
_WHOLE = re.compile(r"0|[1-9][0-9]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SkillCertificate:
    """What the ledger says of one skill of one sealed model. Sums are exact, in the units of `ledger/norms.py`."""

    skill: str
    seal: Digest
    policy: Digest
    bands: tuple[str, ...]
    certified: int
    """Exposure in the blocks of these bands that came from whom the policy lets teach the skill."""
    recorded: int
    """All exposure in these blocks that is recorded."""
    share_min_ppm: int
    log_origin: str
    log_size: int
    log_root: Digest
    unknown_blocks: tuple[str, ...] = ()
    """The blocks of these bands whose past no log tells of, sorted."""

    @property
    def share_ppm(self) -> int:
        """The share of what is recorded, in millionths, rounded down; 0 where nothing is: that proves nothing."""
        return self.certified * PPM // self.recorded if self.recorded else 0

    @property
    def satisfied(self) -> bool:
        return self.recorded > 0 and not self.unknown_blocks and self.share_ppm >= self.share_min_ppm

    def to_json(self) -> bytes:
        """The one spelling. Sums are texts: they are larger than the numbers that many readers of JSON know."""
        return spell(
            {
                "bands": list(self.bands),
                "certified": str(self.certified),
                "certificate": VERSION,
                "log": {"origin": self.log_origin, "root": self.log_root.hex(), "size": self.log_size},
                "policy": self.policy.hex(),
                "recorded": str(self.recorded),
                "satisfied": self.satisfied,
                "seal": self.seal.hex(),
                "share_min_ppm": self.share_min_ppm,
                "share_ppm": self.share_ppm,
                "skill": self.skill,
                "unknown_blocks": list(self.unknown_blocks),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> SkillCertificate:
        """Read the one spelling; anything else is a `FormatError` or a `LimitError`."""
        fields = Fields(parse(data, bytes_max=CERTIFICATE_BYTES_MAX, what="The certificate"), "certificate")
        fields.required_whole("certificate", low=VERSION, high=VERSION)
        log = fields.required_object("log")
        found = cls(
            skill=fields.required_text("skill", chars_max=NAME_CHARS_MAX),
            seal=_digest(fields, "seal"),
            policy=_digest(fields, "policy"),
            bands=fields.texts("bands", count_max=BANDS_MAX, chars_max=NAME_CHARS_MAX),
            certified=_sum(fields, "certified"),
            recorded=_sum(fields, "recorded"),
            share_min_ppm=fields.required_whole("share_min_ppm", low=0, high=PPM),
            log_origin=log.required_text("origin"),
            log_size=log.required_whole("size", low=0, high=SIZE_MAX),
            log_root=_digest(log, "root"),
            unknown_blocks=_sorted_texts(fields, "unknown_blocks"),
        )
        log.end()
        if found.certified > found.recorded:
            raise FormatError("The certificate certifies more than was recorded.")
        share = fields.required_whole("share_ppm", low=0, high=PPM)
        if share != found.share_ppm or fields.any("satisfied", required=True) is not found.satisfied:
            raise FormatError("The certificate's share or outcome is not what its sums give.")
        fields.end()
        if found.to_json() != data:
            raise FormatError("The certificate is not in its one spelling.", remedy="Take the file as it was issued.")
        return found


def _sorted_texts(fields: Fields, name: str) -> tuple[str, ...]:
    """A list that must be there, of different texts in order: there is one spelling of a set."""
    values = fields.list(name, required=True, count_max=BLOCKS_MAX)
    found = tuple(check_text(value, fields.named(name)) for value in values)
    if list(found) != sorted(set(found)):
        raise FormatError(f"{fields.named(name)} is not sorted, or names something twice.")
    return found


def _digest(fields: Fields, name: str) -> Digest:
    return sha256_of(fields.required_text(name, chars_max=64), fields.named(name))


def _sum(fields: Fields, name: str) -> int:
    text = fields.required_text(name, chars_max=128)
    if not _WHOLE.fullmatch(text):
        raise FormatError(f"{fields.named(name)} is not a whole number in digits.")
    return int(text)
