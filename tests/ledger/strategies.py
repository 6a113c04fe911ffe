"""Hypothesis strategies: any record, by the annotations of its class."""

from __future__ import annotations

import dataclasses
import functools
import types
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from licet.ledger import records
from licet.ledger.records import Opaque, Record

_INT_MAX = 2**63 - 1
_SIGNED_MIN, _SIGNED_MAX = -(2**62), 2**62 - 1
_FIXED = {records.U8: 8, records.U16: 16, records.U32: 32, records.U40: 40, records.Ref: 40}


def _edged(low: int, high: int) -> st.SearchStrategy[int]:
    edges = [edge for edge in (low, high, 0, 1, -1, 127, 128, -64, 64, 16_383, 16_384) if low <= edge <= high]
    return st.sampled_from(edges) | st.integers(low, high)


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotated field."""
    if kind in _FIXED:
        return _edged(0, (1 << _FIXED[kind]) - 1)
    if kind is records.Norms:
        return st.lists(st.integers(0, 0xFFFF), max_size=40).map(tuple)
    if kind is records.Digest:
        return st.binary(min_size=32, max_size=32)
    if kind is records.Signed:
        return _edged(_SIGNED_MIN, _SIGNED_MAX)
    if kind in (int, records.ClaimedMs):
        return _edged(0, _INT_MAX)
    if kind is bool:
        return st.booleans()
    if kind is float:
        return st.floats(allow_nan=False).map(lambda value: value + 0.0)  # no negative zero
    if kind is str:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    if kind is bytes:
        return st.binary(max_size=40)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return st.sampled_from(kind)
    if get_origin(kind) is tuple:
        return st.lists(of_type(get_args(kind)[0]), max_size=4).map(tuple)
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = (arg for arg in get_args(kind) if arg is not types.NoneType)
        return st.none() | of_type(inner)
    return record_of(kind)


@functools.cache
def record_of(cls: type) -> st.SearchStrategy[Any]:
    """Any record, or part of one, of this class."""
    hints = get_type_hints(cls)
    return st.builds(cls, *(of_type(hints[field.name]) for field in dataclasses.fields(cls)))


@functools.cache
def any_record() -> st.SearchStrategy[Record]:
    classes = sorted(records.BY_TAG.values(), key=lambda cls: (cls.KIND, cls.VERSION))
    return st.one_of([record_of(cls) for cls in classes])


def unknown_tag() -> st.SearchStrategy[tuple[int, int]]:
    """A kind and version that no class reads."""
    tags = st.tuples(st.integers(0, 255), st.integers(0, 255))
    return tags.filter(lambda tag: tag not in records.BY_TAG)


def opaque() -> st.SearchStrategy[Opaque]:
    return st.builds(lambda tag, body: Opaque(*tag, body), unknown_tag(), st.binary(max_size=60))
