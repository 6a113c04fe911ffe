"""What must agree between the parts of a policy document whose parts are each well-formed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from licet.policies.rights import UNKNOWN_CLASS
from licet.policies.schema import ALL_OTHERS, Band, Ceiling, Condition, Document, Reserved

Path = tuple[str | int, ...]
"""Where in a document something stands: names of tables and fields, numbers in lists."""


def contradictions(document: Document) -> list[tuple[Path, str]]:
    """What is wrong between the parts of a document whose parts are each well-formed."""
    return [
        *_band_problems(document),
        *_ceiling_problems(document),
        *_entropy_problems(document),
        *_name_problems(document),
        *_memorization_problems(document),
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
        for where, condition in (("when", rule.when), ("unless", rule.unless or Condition())):
            when: Path = ("rule", i, where)
            known((*when, "spdx"), condition.spdx, {*document.spdx, UNKNOWN_CLASS, "none"}, "class of licences")
            known((*when, "authority"), condition.authority, document.authority, "authority class")
            known((*when, "scope"), condition.scope, document.scopes, "scope")
            known((*when, "skill"), condition.skill, document.skill, "skill")
            known((*when, "entropy"), condition.entropy, {band.name for band in document.entropy}, "entropy band")
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


def _memorization_problems(document: Document) -> list[tuple[Path, str]]:
    """Bands that are named are declared, and whoever names some answers for all."""
    memorization, bands = document.memorization, [band.name for band in document.band]
    places = {
        "thresholds": memorization.thresholds,
        "response": memorization.response,
        "response_below": memorization.response_below,
    }
    found: list[tuple[Path, str]] = []
    for field, named in places.items():
        path: Path = ("memorization", field)
        unknown = sorted(set(named) - {*bands, ALL_OTHERS})
        found += [(path, f"there is no depth band {name}") for name in unknown]
        missing = [name for name in bands if name not in named]
        if missing and ALL_OTHERS not in named and field != "thresholds":
            found.append((path, f'it says nothing of {", ".join(missing)}: name them, or all others with "*"'))
    concentration = memorization.concentration.bands
    path = ("memorization", "concentration", "bands")
    found += [(path, f"there is no depth band {name}") for name in concentration if name not in bands]
    return found
