"""Reading a policy: whole or not at all, and whatever is wrong is said with the line and the field it stands in.

The identity of a policy is the digest of its text, so two parties who name the same digest mean the same rules.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

from pydantic import ValidationError

from licet.ledger.errors import ConfigError
from licet.ledger.records import Digest
from licet.policies.consistency import Path, contradictions
from licet.policies.lines import line_of
from licet.policies.schema import ALL_OTHERS, Ceiling, Document, EntropyBand

POLICY_BYTES_MAX = 60_000
"""A policy is one entry of the registry log, and an entry has 65,535 bytes at most."""
PROBLEMS_MAX = 32
"""More are counted, not told: nobody mends more at once."""
KEY_PARTS_MAX = 16
_DEFAULTS = resources.files("licet.policies") / "defaults"
_KEY_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_DEEP_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_KEY_PART}(?:{_KEY_PART}){{{KEY_PARTS_MAX}}}")
"""A key of more parts than any that means something. The parser's time grows with their square."""


class PolicyError(ConfigError):
    """A document that is no policy. `problems` says where and why: (line, field, message)."""

    def __init__(self, name: str, problems: Sequence[tuple[int, str, str]], *, more: int = 0) -> None:
        self.problems = tuple(problems)
        said = "\n".join(f"  line {line}, {field}: {message}" for line, field, message in self.problems)
        said += f"\n  and {more} more" if more else ""
        super().__init__(
            f"{name} cannot be used as a policy:\n{said}",
            remedy="Mend these lines; `licet policy check` reads it again, and policies/README.md explains each field.",
        )


@dataclass(frozen=True)
class Policy:
    """A policy that was read: its text, the digest that identifies it, and what it says."""

    text: str
    document: Document

    @classmethod
    def parse(cls, text: str | bytes, name: str = "The document") -> Policy:
        """Read a document; `PolicyError` says all that is wrong with it."""
        raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        if len(raw) > POLICY_BYTES_MAX:
            raise PolicyError(name, [(1, "the whole", f"it has {len(raw)} bytes, and {POLICY_BYTES_MAX} is the most")])
        try:
            decoded = raw.decode()
            if deep := _DEEP_KEY.search(decoded):
                line = decoded.count("\n", 0, deep.start()) + 1
                raise PolicyError(name, [(line, "the syntax", f"a key has more than {KEY_PARTS_MAX} parts")])
            values = tomllib.loads(decoded)
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise PolicyError(name, [(line, "the text", "it is not UTF-8")]) from error
        except (ValueError, RecursionError) as error:  # not only of TOML: a number of 5,000 digits is one, too
            found = re.search(r"at line (\d+)", str(error))
            raise PolicyError(name, [(int(found[1]) if found else 1, "the syntax", f"no TOML: {error}")]) from error
        try:
            document = Document.model_validate(values)
        except ValidationError as error:
            problems = [(_path(e["loc"]), _plainly(e)) for e in error.errors(include_url=False)]
        else:
            problems = list(contradictions(document))
            if not problems:
                return cls(decoded, document)
        told = [(line_of(decoded, path), _dotted(path), said) for path, said in problems[:PROBLEMS_MAX]]
        raise PolicyError(name, told, more=len(problems) - len(told))

    @classmethod
    def read_default(cls, name: str) -> Policy:
        """One of the policies that come with Licet."""
        if name not in cls.defaults():
            raise ConfigError(f"There is no default policy {name}.", remedy=f"There are {', '.join(cls.defaults())}.")
        return cls.parse((_DEFAULTS / f"{name}.toml").read_bytes(), f"The default policy {name}")

    @classmethod
    def defaults(cls) -> tuple[str, ...]:
        """The names of the policies that come with Licet."""
        return tuple(sorted(file.name.removesuffix(".toml") for file in _DEFAULTS.iterdir()))

    @cached_property
    def digest(self) -> Digest:
        return Digest(hashlib.sha256(self.text.encode()).digest())

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """The names of the depth bands, from the top down as they stand in the document."""
        return tuple(band.name for band in self.document.band)

    def weights(self, ceiling: Ceiling) -> tuple[float, ...]:
        """A ceiling as one weight for each depth band."""
        return tuple(ceiling.get(band, ceiling.get(ALL_OTHERS, 0.0)) for band in self.bands)

    def entropy_band(self, bits_per_byte: float) -> EntropyBand:
        """The entropy band that a measurement falls into."""
        return self.document.entropy[bisect_right(self.entropy_edges, bits_per_byte)]

    @cached_property
    def entropy_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.document.entropy)

    @cached_property
    def entropy_edges(self) -> tuple[float, ...]:
        return tuple(band.below for band in self.document.entropy if band.below is not None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.digest)


def _path(loc: tuple[int | str, ...]) -> Path:
    """Pydantic's place of an error, without what it says of keys of tables."""
    return tuple(part for part in loc if part != "[key]")


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path) or "the document"


def _plainly(error: Any) -> str:
    """Pydantic's message as a sentence for the writer of the document."""
    said = {"missing": "this is missing", "extra_forbidden": "there is no such field"}.get(error["type"])
    return said or error["msg"].removeprefix("Value error, ")
