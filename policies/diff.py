"""What changes from one policy to another: each field by its path, lists of named parts by name and not by place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from licet.policies.policy import Policy

ABSENT = "(not there)"
_NAMES = ("name", "id")


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs."""

    field: str
    before: Any
    after: Any


def diff(before: Policy, after: Policy) -> tuple[Change, ...]:
    """All fields that differ, in order of their paths. What is not written stands with its default."""
    old, new = (dict(_all_fields(policy)) for policy in (before, after))
    return tuple(
        Change(field, old.get(field, ABSENT), new.get(field, ABSENT))
        for field in sorted({*old, *new})
        if old.get(field, ABSENT) != new.get(field, ABSENT)
    )


def _all_fields(policy: Policy) -> Iterator[tuple[str, Any]]:
    yield from _fields(policy.document.model_dump(mode="json"), "")
    yield "spdx, from the least restrictive class on", list(policy.document.spdx)


def _fields(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _fields(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for i, part in enumerate(value):
            name = next((part[key] for key in _NAMES if key in part), i)
            yield from _fields(part, f"{path}[{name}]")
    elif isinstance(value, list) and all(isinstance(part, str) for part in value):
        yield path, sorted(value)  # sets: their order says nothing
    else:
        yield path, value
