"""The policy document: what a compliance officer writes, as TOML, and what each part of it means.

`policy.py` reads it, `consistency.py` says what must agree between its parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from licet.ledger.errors import FormatError
from licet.ledger.records import LicenceKind, Mode, Recall
from licet.policies.rights import check_jurisdiction

NAME_CHARS_MAX = 64
ALL_OTHERS = "*"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


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
Side = Literal["above", "below"]
Response = Literal["exclude", "restrict", "attenuate", "unlearn-once", "record"]
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
    unless: Condition | None = Field(default=None, description="what exempts from it, read like `when`")
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


class Sigmas(_Part):
    """How far from what is usual a norm may lie, in standard deviations: `high` for the most predictable content."""

    low: float = Field(gt=0, le=100, allow_inf_nan=False, description="for the densest entropy band")
    high: float = Field(gt=0, le=100, allow_inf_nan=False, description="for the most predictable one; linear between")

    @model_validator(mode="after")
    def _in_order(self) -> Sigmas:
        if self.low > self.high:
            raise ValueError("low is at most high: what is denser is flagged sooner")
        return self


class Concentrated(_Part):
    """When exposure that should be spread sits in a few deep blocks."""

    bands: tuple[str, ...] = Field(default=(), description="the deep bands; empty: all below the surface")
    share_max: Share = Field(default=0.6, description="of all exposure of an attestation")
    blocks_max: int = Field(default=2, ge=1, le=4096, description="in how many blocks of these bands at most")


class Memorization(_Part):
    """When an example is being stored rather than learned from, and what is done then."""

    thresholds: Mapping[str, Sigmas] = Field(
        default={}, description="by band, * for the others; what is not named: surface 4 to 8, all deeper 2 to 4"
    )
    observations_min: int = Field(
        default=256, ge=8, le=100_000, description="norms of a block before any counts as unusual"
    )
    window: int = Field(default=1024, ge=8, le=10_000_000, description="norms over which the statistics of a block run")
    sides: frozenset[Side] = Field(
        default=frozenset({"above", "below"}),
        min_length=1,
        description="flagged are norms far above, far below, or both",
    )
    response: Mapping[str, Response] = Field(default={ALL_OTHERS: "attenuate"}, description="by band, * for the others")
    response_below: Mapping[str, Response] = Field(
        default={ALL_OTHERS: "exclude"}, description="the same where the norm has collapsed: the text is stored already"
    )
    concentration: Concentrated = Concentrated()
    repeats_max: int = Field(
        default=2,
        ge=0,
        le=65_535,
        description="how often the same content is taught where its licence allows no verbatim recall; 0: no limit",
    )

    @model_validator(mode="after")
    def _window_holds_the_first(self) -> Memorization:
        if self.window < self.observations_min:
            raise ValueError("window is at least observations_min")
        return self


class Adaptation(_Part):
    """How far the profiles of entropy bands may follow what the model has become."""

    enabled: bool = False
    factor_min: Share = Field(default=0.5, description="a weight stays between this part of its ceiling and it")
    step_max: float = Field(default=0.2, ge=0.07, le=1, description="the most that a weight changes at one checkpoint")


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
    memorization: Memorization = Memorization()
    adaptation: Adaptation = Adaptation()
    inference: Inference = Inference()
