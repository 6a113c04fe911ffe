"""Lookup keys: every record of a kind can be listed, and found by what it is about."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger import lookup, records
from licet.ledger.records import ContentErased, GradientApplied, Opaque, SourceRegistered
from tests.ledger.golden import example_of, name_of
from tests.ledger.strategies import any_record

CLASSES = sorted(records.BY_TAG.values(), key=lambda cls: (cls.KIND, cls.VERSION))


@given(any_record(), st.integers(0, 2**40 - 1))
def test_a_key_gives_the_index_back(record, index):
    key = lookup.key(record, index)
    if isinstance(record, GradientApplied):
        assert key is None
    else:
        assert lookup.index_of(key) == index
        assert key.startswith(lookup.prefix(type(record)))


@pytest.mark.parametrize("cls", lookup.ABOUT, ids=name_of)
def test_records_are_found_by_the_field_they_are_about(cls):
    record = example_of(cls)
    about = getattr(record, lookup.ABOUT[cls])
    assert lookup.key(record, 9).startswith(lookup.prefix(cls, about))
    other = about[:-1] + (b"\x00" if isinstance(about, bytes) else "?")
    if isinstance(about, str):
        assert not lookup.key(record, 9).startswith(lookup.prefix(cls, other))
    else:
        assert lookup.prefix(cls, other) == lookup.prefix(cls, about), "ids are cut: the caller compares"


@pytest.mark.parametrize("cls", lookup.ABOUT, ids=name_of)
def test_the_field_exists_and_is_a_digest_or_a_text(cls):
    assert isinstance(getattr(example_of(cls), lookup.ABOUT[cls]), bytes | str)


def test_texts_are_hashed_and_digests_cut():
    assert lookup.prefix(SourceRegistered, "alice")[1:] == hashlib.sha256(b"alice").digest()[: lookup.ID_BYTES]
    assert lookup.prefix(ContentErased, bytes(range(32)))[1:] == bytes(range(lookup.ID_BYTES))


def test_kinds_do_not_share_prefixes():
    prefixes = [lookup.prefix(cls) for cls in CLASSES]
    assert len(set(prefixes)) == len({cls.KIND for cls in CLASSES})


def test_unknown_kinds_are_listed_too():
    key = lookup.key(Opaque(250, 1, b"whatever"), 7)
    assert key == bytes([250]) + bytes(lookup.ID_BYTES) + (7).to_bytes(lookup.INDEX_BYTES, "big")


def test_keys_of_one_id_sort_by_index():
    record = example_of(SourceRegistered)
    keys = [lookup.key(record, index) for index in (0, 1, 255, 256, 2**32)]
    assert sorted(keys) == keys
