"""The policy document: what a compliance officer writes, as TOML, and what each part of it means.

A document is read whole or not at all. Whatever is wrong with it is said with the line and the field it stands in.
Its identity is the digest of its text, so two parties who name the same digest mean the same rules.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from licet.ledger.errors import ConfigError, FormatError
from licet.ledger.records import Digest, LicenceKind, Mode, Recall
from licet.policies.lines import line_of
from licet.policies.rights import UNKNOWN_CLASS, check_jurisdiction

POLICY_BYTES_MAX = 60_000
"""A policy is one entry of the registry log, and an entry has 65,535 bytes at most."""
NAME_CHARS_MAX = 64
PROBLEMS_MAX = 32
"""More are counted, not told: nobody mends more at once."""
KEY_PARTS_MAX = 16
ALL_OTHERS = "*"
_DEFAULTS = resources.files("licet.policies") / "defaults"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
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


def _name(text: str) -> str:
    if len(text) > NAME_CHARS_MAX or not _NAME.fullmatch(text):
        raise ValueError("a name has small letters, digits and . _ - and at most 64 of them")
    return text


def _place(text: str) -> str:
    try:
        return check_jurisdiction(text)
    except FormatError as error:
        raise ValueError(str(error)) from error


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("a digest is 64 small hexadecimal digits")
    return text


Name = Annotated[str, AfterValidator(_name)]
Place = Annotated[str, AfterValidator(_place)]
HexDigest = Annotated[str, AfterValidator(_digest)]
Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Ceiling = dict[str, Weight]
"""The most that may reach each band, as a part of the gradient. `*` stands for the bands that are not named."""
Right = Literal["align", "revoke", "review"]
Term = Literal[
    "spdx", "terms-uri", "valid-from", "valid-until", "jurisdictions", "bands", "skills", "custody", "labels",
    "generator", "upstream",
]  # fmt: skip


class _Part(BaseModel):
    """Part of the document. A field that is not known is a mistake, not a hint."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cover(_Part):
    """Which layers: a share of the depth (0 is the bottom, 1 the top), layer numbers, or names of blocks."""

    share: tuple[Share, Share] | None = None
    layers: tuple[tuple[int, int], ...] | None = Field(
        default=None, description="first and last, both included; -1 is the top"
    )
    blocks: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Cover:
        if sum(way is not None for way in (self.share, self.layers, self.blocks)) != 1:
            raise ValueError("say which layers in exactly one way: share, layers or blocks")
        if self.share is not None and self.share[0] >= self.share[1]:
            raise ValueError("a share begins below its end, as [0.85, 1.0]")
        return self


class Band(Cover):
    """One depth band."""

    name: Name
    title: str = ""


class Reserved(Cover):
    """Blocks that only sources with a right may write to, whatever band they lie in."""

    name: Name
    right: Right = "align"
    title: str = ""


class Falloff(_Part):
    """How weights pass from one band to a more restricted one: always downwards, inside the less restricted band."""

    shape: Literal["none", "linear", "smooth"] = "smooth"
    width: Share = Field(default=0.05, description="as a part of the whole depth")


class EntropyBand(_Part):
    """Examples of this much information: how deep they may go at most, before anything else is asked."""

    name: Name
    below: float | None = Field(
        default=None, gt=0, description="bits per byte where the band ends; the last has no end"
    )
    ceiling: Ceiling
    falloff: float = Field(default=1.0, ge=0, le=10, description="the width of the falloff for these, as a factor")


class Slope(_Part):
    """How far from first-hand content an example may be, and what each step away from it costs."""

    ceilings: tuple[Ceiling, ...] = Field(min_length=1, max_length=16, description="for slope 0, 1, 2…; beyond: none")
    chain_max: int = Field(default=32, ge=1, le=256, description="attestations in a chain at most")


class Authority(_Part):
    """A class of sources in the published taxonomy."""

    title: str = ""
    ceiling: Ceiling
    rights: frozenset[Right] = frozenset()
    skills: frozenset[str] = Field(default=frozenset(), description="what it may teach; * for everything")


class Kind(_Part):
    """What a licence of this kind allows, and which of its terms must be there."""

    ceiling: Ceiling
    require: frozenset[Term] = frozenset()


class Condition(_Part):
    """When a rule applies: all fields that are given must hold; of a list, one of its values."""

    kind: frozenset[LicenceKind] | None = None
    spdx: frozenset[str] | None = Field(default=None, description="classes of the section [spdx], or unknown, or none")
    recall: Recall | None = None
    source: frozenset[str] | None = None
    authority: frozenset[str] | None = None
    scope: frozenset[str] | None = None
    skill: frozenset[str] | None = None
    entropy: frozenset[str] | None = None
    slope_above: int | None = Field(default=None, ge=0)
    quality_below: float | None = Field(
        default=None, ge=0, le=1, description="label quality; without any, it is below all"
    )
    fields: Mapping[str, frozenset[str]] = Field(default={}, description="values of the example's further fields")
    lacks: frozenset[str] = Field(default=frozenset(), description="further fields of which one at least is not there")


class Rule(_Part):
    """A restriction. Every rule that applies counts, in whatever order they stand: the most restrictive wins."""

    id: Name
    when: Condition = Condition()
    reject: bool = False
    ceiling: Ceiling | None = None
    because: str = Field(min_length=1, description="one sentence for whoever asks why")

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        if self.reject == (self.ceiling is not None):
            raise ValueError("a rule either rejects or has a ceiling")
        return self


class Skill(_Part):
    """Something that a model can be taught, by whom, and what a certificate for it asks."""

    title: str = ""
    bands: tuple[str, ...] = Field(min_length=1, description="where the skill is formed")
    ceiling: Ceiling = {ALL_OTHERS: 1.0}
    authorities: frozenset[str] = Field(
        default=frozenset(), description="classes that may teach it; empty: as each class says"
    )
    certified_share_min: Share = Field(default=1.0, description="of the bands' exposure, attested and in policy")


class Exclusion(_Part):
    """What may teach nothing, nowhere."""

    content: frozenset[HexDigest] = frozenset()
    sources: frozenset[str] = frozenset()
    attestations: frozenset[HexDigest] = frozenset()


class Limits(_Part):
    """From where on a match counts."""

    similarity_min: Share = Field(default=0.8, description="for edited copies")
    verbatim_chars_min: int = Field(default=50, ge=1, le=100_000)
    quotation_chars_max: int = Field(default=200, ge=0, le=1_000_000)


class Tenant(_Part):
    """What one tenant of the server may ask, where the policy differs for it."""

    mode: Mode | None = None
    jurisdictions: frozenset[Place] | None = None
    query_classes: frozenset[str] | None = None


class QueryClass(_Part):
    """Requests of one class: the skills that the model must be certified for, and what happens if it is not."""

    skills: frozenset[str] = frozenset()
    otherwise: Literal["restrict", "refuse"] = "refuse"


class Inference(_Part):
    """What may be said."""

    mode: Mode = Mode.DIVERT
    attribute: bool = Field(default=False, description="name the source of verbatim text that may be said freely, too")
    user_text_exempt: bool = True
    common_sources_min: int = Field(default=0, ge=0, description="text taught by so many sources is common; 0: never")
    limits: Limits = Limits()
    heightened: Limits = Limits(similarity_min=0.6, verbatim_chars_min=25, quotation_chars_max=0)
    tainted_heighten: Share = 0.1
    tainted_refuse: Share = 0.5
    fallback: str | None = Field(default=None, description="what is served instead where a request is restricted")
    tenants_open: bool = Field(default=True, description="whether tenants that are not listed are served")
    tenant: Mapping[str, Tenant] = {}
    query_class: Mapping[str, QueryClass] = {}

    @model_validator(mode="after")
    def _heightened_is_not_laxer(self) -> Inference:
        low, high = self.limits, self.heightened
        if (
            high.similarity_min > low.similarity_min
            or high.verbatim_chars_min > low.verbatim_chars_min
            or high.quotation_chars_max > low.quotation_chars_max
        ):
            raise ValueError("heightened limits are at most as high as the ordinary ones")
        if self.tainted_heighten > self.tainted_refuse:
            raise ValueError("tainted_heighten is at most tainted_refuse")
        return self


class Document(_Part):
    """The whole policy."""

    licet: Literal[1] = Field(description="the version of this format")
    name: Name
    version: str = Field(min_length=1, max_length=NAME_CHARS_MAX)
    title: str = ""
    description: str = ""
    scopes: frozenset[Name] = Field(min_length=1, description="what it governs; an example must name one of these")
    jurisdictions: frozenset[Place] = Field(
        default=frozenset(), description="where the model is used: licences must cover all"
    )
    require: frozenset[str] = Field(default=frozenset(), description="further fields that every example must carry")
    measure: Literal["layers", "parameters"] = Field(
        default="layers", description="what a share of the depth is a share of"
    )
    band: tuple[Band, ...] = Field(min_length=3, max_length=7)
    reserved: tuple[Reserved, ...] = Field(default=(), max_length=7)
    falloff: Falloff = Falloff()
    entropy: tuple[EntropyBand, ...] = Field(min_length=1, max_length=16)
    slope: Slope
    authority: Mapping[Name, Authority] = Field(min_length=1)
    licence: Mapping[LicenceKind, Kind] = Field(min_length=1)
    spdx: Mapping[Name, tuple[str, ...]] = Field(
        default={}, description="classes of licences, the least restrictive first"
    )
    rule: tuple[Rule, ...] = ()
    skill: Mapping[Name, Skill] = {}
    exclusion: Exclusion = Exclusion()
    inference: Inference = Inference()


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
            problems = list(_contradictions(document))
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
        return self.document.entropy[bisect_right(self._entropy_edges, bits_per_byte)]

    @cached_property
    def _entropy_edges(self) -> tuple[float, ...]:
        return tuple(band.below for band in self.document.entropy if band.below is not None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.digest)


Path = tuple[str | int, ...]


def _path(loc: tuple[int | str, ...]) -> Path:
    """Pydantic's place of an error, without what it says of keys of tables."""
    return tuple(part for part in loc if part != "[key]")


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path) or "the document"


def _plainly(error: Any) -> str:
    """Pydantic's message as a sentence for the writer of the document."""
    said = {"missing": "this is missing", "extra_forbidden": "there is no such field"}.get(error["type"])
    return said or error["msg"].removeprefix("Value error, ")


def _contradictions(document: Document) -> list[tuple[Path, str]]:
    """What is wrong between the parts of a document whose parts are each well-formed."""
    return [
        *_band_problems(document),
        *_ceiling_problems(document),
        *_entropy_problems(document),
        *_name_problems(document),
    ]


def _band_problems(document: Document) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    names = [band.name for band in _named(document)]
    found += [(("band",), f"{name} names two bands") for name in sorted({n for n in names if names.count(n) > 1})]
    shares = sorted((band.share, i) for i, band in enumerate(document.band) if band.share is not None)
    if not shares:
        return found
    if len(shares) < len(document.band):
        return [*found, (("band",), "depth bands are all given as shares, or none of them is")]
    end = 0.0
    for share, i in shares:
        if share[0] > end:
            found.append((("band", i), f"the depth from {end} to {share[0]} is in no band"))
        elif share[0] < end:
            found.append((("band", i), f"the depth from {share[0]} to {min(end, share[1])} is in two bands"))
        end = max(end, share[1])
    if end < 1:
        found.append((("band", shares[-1][1]), f"the depth from {end} to 1 is in no band"))
    return found


def _named(document: Document) -> list[Band | Reserved]:
    return [*document.band, *document.reserved]


def _ceiling_problems(document: Document) -> list[tuple[Path, str]]:
    """A ceiling says something of each depth band and of nothing else."""
    places: list[tuple[Path, Ceiling | None]] = [
        *((("entropy", i, "ceiling"), band.ceiling) for i, band in enumerate(document.entropy)),
        *((("slope", "ceilings", i), ceiling) for i, ceiling in enumerate(document.slope.ceilings)),
        *((("authority", name, "ceiling"), authority.ceiling) for name, authority in document.authority.items()),
        *((("licence", kind.value, "ceiling"), allowed.ceiling) for kind, allowed in document.licence.items()),
        *((("rule", i, "ceiling"), rule.ceiling) for i, rule in enumerate(document.rule)),
        *((("skill", name, "ceiling"), skill.ceiling) for name, skill in document.skill.items()),
    ]
    bands = [band.name for band in document.band]
    found: list[tuple[Path, str]] = []
    for path, ceiling in places:
        if ceiling is None:
            continue
        found += [(path, f"there is no depth band {name}") for name in ceiling if name not in (*bands, ALL_OTHERS)]
        missing = [name for name in bands if name not in ceiling and ALL_OTHERS not in ceiling]
        if missing:
            found.append((path, f'it says nothing of {", ".join(missing)}: name them, or all others with "*"'))
    return found


def _entropy_problems(document: Document) -> list[tuple[Path, str]]:
    *inner, last = (band.below for band in document.entropy)
    found: list[tuple[Path, str]] = []
    if last is not None:
        found.append((("entropy", len(inner), "below"), "the last entropy band has no end"))
    before = 0.0
    for i, below in enumerate(inner):
        if below is None or below <= before:
            found.append((("entropy", i, "below"), f"each entropy band ends above {before}, where the one before does"))
        before = below or before
    names = [band.name for band in document.entropy]
    if len(set(names)) < len(names):
        found.append((("entropy",), "two entropy bands have the same name"))
    return found


def _name_problems(document: Document) -> list[tuple[Path, str]]:
    """Names that are used are declared."""
    found: list[tuple[Path, str]] = []

    def known(path: Path, used: Sequence[str] | frozenset[str] | None, declared: Any, what: str) -> None:
        found.extend((path, f"there is no {what} {name}") for name in sorted(used or ()) if name not in declared)

    bands = {band.name for band in _named(document)}
    skills = {*document.skill, ALL_OTHERS}
    ids = [rule.id for rule in document.rule]
    again = [i for i, name in enumerate(ids) if name in ids[:i]]
    found += [(("rule", i, "id"), f"two rules have the id {ids[i]}") for i in again]
    for i, rule in enumerate(document.rule):
        when: Path = ("rule", i, "when")
        known((*when, "spdx"), rule.when.spdx, {*document.spdx, UNKNOWN_CLASS, "none"}, "class of licences")
        known((*when, "authority"), rule.when.authority, document.authority, "authority class")
        known((*when, "scope"), rule.when.scope, document.scopes, "scope")
        known((*when, "skill"), rule.when.skill, document.skill, "skill")
        known((*when, "entropy"), rule.when.entropy, {band.name for band in document.entropy}, "entropy band")
    for name, skill in document.skill.items():
        known(("skill", name, "bands"), skill.bands, bands, "band")
        known(("skill", name, "authorities"), skill.authorities, document.authority, "authority class")
    for name, authority in document.authority.items():
        known(("authority", name, "skills"), authority.skills, skills, "skill")
    for name, query in document.inference.query_class.items():
        known(("inference", "query_class", name, "skills"), query.skills, document.skill, "skill")
    for name, tenant in document.inference.tenant.items():
        path: Path = ("inference", "tenant", name, "query_classes")
        known(path, tenant.query_classes, document.inference.query_class, "query class")
    if UNKNOWN_CLASS in document.spdx or "none" in document.spdx:
        found.append((("spdx",), "unknown and none are what a licence is that is in no class or is not stated"))
    patterns = [pattern for patterns in document.spdx.values() for pattern in patterns]
    twice = sorted({pattern for pattern in patterns if patterns.count(pattern) > 1})
    found += [(("spdx",), f"{pattern} is in two classes") for pattern in twice]
    return found
