"""Same record, same bytes, forever; and no second spelling of anything."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger import codec, records
from licet.ledger.errors import FormatError, LicetError, LimitError
from licet.ledger.records import (
    Action,
    AttestationMentioned,
    ContentErased,
    Determination,
    ExampleAdmitted,
    GradientApplied,
    LogOpened,
    Opaque,
    PolicyMentioned,
    ProfileDeclared,
    SourceState,
    SourceStateChanged,
    StepTaken,
)
from tests.ledger import golden
from tests.ledger.strategies import any_record, opaque, record_of

CLASSES = sorted(records.BY_TAG.values(), key=lambda cls: (cls.KIND, cls.VERSION))
STEP = StepTaken(1, 2, 0.5, None, 3, (1.0, -2.5), 4)
ADMITTED = ExampleAdmitted(
    bytes(32), bytes(32), 1, None, 2, Determination.ADMITTED, ("a", ""), "low", 1.25, 0, ("x",), None
)


# ---- there and back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES, ids=golden.name_of)
def test_every_class_comes_back_as_it_went(cls):
    @settings(max_examples=40)
    @given(record_of(cls))
    def check(record):
        entry = codec.encode(record)
        assert entry[:2] == bytes([cls.KIND, cls.VERSION])
        back = codec.decode(entry)
        assert back == record
        assert type(back) is cls
        assert codec.encode(back) == entry

    check()


@given(opaque())
def test_unknown_kinds_and_versions_keep_their_bytes(record):
    entry = codec.encode(record)
    assert entry == bytes([record.kind, record.version]) + record.body
    assert codec.decode(entry) == record


def test_a_later_version_of_a_known_kind_is_opaque():
    entry = bytes([StepTaken.KIND, 99]) + b"whatever it may be"
    assert codec.decode(entry) == Opaque(StepTaken.KIND, 99, b"whatever it may be")


@settings(max_examples=300)
@given(any_record(), any_record())
def test_different_records_have_different_bytes(a, b):
    assert (codec.encode(a) == codec.encode(b)) == (a == b)


@st.composite
def _damaged_entries(draw):
    """Entries with some bytes changed, put in, taken out, or swapped for numbers in a longer form."""
    entry = bytearray(codec.encode(draw(any_record())))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(2, max(2, len(entry) - 1)))
        change = draw(st.integers(0, 3))
        if change == 0:
            entry[at:at] = draw(st.binary(min_size=1, max_size=3))
        elif change == 1:
            del entry[at : at + draw(st.integers(1, 3))]
        elif change == 2 and at < len(entry):
            entry[at] = draw(st.integers(0, 255))
        elif at < len(entry):
            entry[at : at + 1] = bytes([entry[at] | 0x80, 0])  # the same number, spelled longer
    return bytes(entry)


@settings(max_examples=1500)
@given(_damaged_entries())
def test_whatever_is_accepted_has_this_one_spelling(entry):
    try:
        record = codec.decode(entry)
    except FormatError:
        return
    assert codec.encode(record) == entry


@settings(max_examples=600)
@given(st.sampled_from(CLASSES), st.binary(max_size=200))
def test_arbitrary_bytes_are_read_exactly_or_refused(cls, body):
    entry = bytes([cls.KIND, cls.VERSION]) + body
    try:
        record = codec.decode(entry)
    except FormatError:
        return
    assert codec.encode(record) == entry


@pytest.mark.parametrize("cls", CLASSES, ids=golden.name_of)
def test_every_entry_cut_short_or_with_more_behind_it_is_refused(cls):
    entry = codec.encode(golden.example_of(cls))
    with_norms = cls is GradientApplied  # its norms go on to the end of the entry, two bytes each
    for end in range(2, len(entry)):
        if not (with_norms and end >= 29 and (end - 29) % 2 == 0):
            with pytest.raises(FormatError):
                codec.decode(entry[:end])
    with pytest.raises(FormatError):
        codec.decode(entry + b"\x00")


# ---- golden entries --------------------------------------------------------------------------------------------


def _golden() -> dict[str, bytes]:
    pairs = (line.split(" ") for line in golden.GOLDEN.read_text().splitlines())
    return {name: bytes.fromhex(digits) for name, digits in pairs}


def test_every_record_class_has_a_golden_line():
    assert list(_golden()) == [golden.name_of(cls) for cls in CLASSES]


@pytest.mark.parametrize("cls", CLASSES, ids=golden.name_of)
def test_golden_entries_have_not_changed(cls):
    entry = _golden()[golden.name_of(cls)]
    assert codec.encode(golden.example_of(cls)) == entry
    assert codec.decode(entry) == golden.example_of(cls)


# ---- refused when reading --------------------------------------------------------------------------------------


def _replaced(record, old: bytes, new: bytes) -> bytes:
    entry = codec.encode(record)
    assert entry.count(old) == 1
    return entry.replace(old, new)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\x01",
        bytes(codec.ENTRY_BYTES_MAX + 1),
        # a number in a longer form than it needs, and one of 2^63
        _replaced(ContentErased(b"\xee" * 32, "r", "b", 5), b"\x01r", b"\x81\x00r"),
        codec.encode(LogOpened("o", "k", 5))[:-1] + b"\xff" * 9 + b"\x01",
        codec.encode(LogOpened("o", "k", 5))[:-1] + b"\x80" * 9 + b"\x01",
        codec.encode(LogOpened("o", "k", 5))[:-1] + b"\x80" * 8 + b"\x00",
        # a text that is not UTF-8, a surrogate, a text in an overlong form
        _replaced(LogOpened("oo", "k", 5), b"oo", b"\xff\xfe"),
        _replaced(LogOpened("ooo", "k", 5), b"ooo", "\ud800".encode(errors="surrogatepass")),
        _replaced(LogOpened("oo", "k", 5), b"oo", b"\xc0\xaf"),
        # an enumeration's value that does not exist, or in another case
        _replaced(SourceStateChanged("s", SourceState.ACTIVE, "r", "b", 5), b"active", b"Active"),
        _replaced(SourceStateChanged("s", SourceState.ACTIVE, "r", "b", 5), b"active", b"absent"),
        # a flag that is neither 0 nor 1
        _replaced(STEP, struct.pack(">d", 0.5) + b"\x00", struct.pack(">d", 0.5) + b"\x02"),
        # NaN, with any payload and sign; negative zero
        _replaced(STEP, struct.pack(">d", -2.5), struct.pack(">d", math.nan)),
        _replaced(STEP, struct.pack(">d", -2.5), b"\xff\xf8" + bytes(6)),
        _replaced(STEP, struct.pack(">d", -2.5), b"\x7f\xf0" + bytes(5) + b"\x01"),
        _replaced(STEP, struct.pack(">d", -2.5), b"\x80" + bytes(7)),
        # a list longer than the entry, an event cut in the middle of a norm
        _replaced(ProfileDeclared(1, (-3,), ()), b"\x01\x05\x00", b"\xff\xff\xff\x7f\x05\x00"),
        codec.encode(GradientApplied(1, 2, 3, 4, 5, 6, 7, 8, (9,))) + b"\x00",
    ],
    ids=lambda entry: entry[:40].hex(),
)
def test_malformed_entries_are_refused(entry):
    with pytest.raises(FormatError):
        codec.decode(entry)


def test_a_claimed_length_costs_nothing():
    """A list or text said to be enormous is refused before anything of that size is made."""
    huge = b"\xff" * 8 + b"\x7f"
    for head in (b"\x01\x01" + huge, codec.encode(ProfileDeclared(1, (), ()))[:7] + huge):
        with pytest.raises(FormatError):
            codec.decode(head + b"\x00" * 8)


# ---- refused when writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        LogOpened("o", "k", -1),
        LogOpened("o", "k", 2**63),
        LogOpened("o", "k", True),
        LogOpened("o", "k", 1.0),
        LogOpened("o", "k", None),
        LogOpened("o", 5, 1),
        LogOpened("o", b"k", 1),
        LogOpened("\ud800", "k", 1),
        PolicyMentioned(b""),
        PolicyMentioned(bytes(31)),
        PolicyMentioned(bytearray(32)),
        PolicyMentioned("x" * 32),
        AttestationMentioned(bytes(33), "s"),
        ProfileDeclared(2**40, (), ()),
        ProfileDeclared(-1, (), ()),
        ProfileDeclared(1, (2**62,), ()),
        ProfileDeclared(1, (0.5,), ()),
        ProfileDeclared(1, 5, ()),
        StepTaken(1, 2, math.nan, None, 3, (), 4),
        StepTaken(1, 2, "0.5", None, 3, (), 4),
        StepTaken(1, 2, 10**400, None, 3, (), 4),
        SourceStateChanged("s", "dormant", "r", "b", 5),
        SourceStateChanged("s", None, "r", "b", 5),
        GradientApplied(2**16, 0, 0, 0, 0, 1, 2, 3, ()),
        GradientApplied(0, 2**32, 0, 0, 0, 1, 2, 3, ()),
        GradientApplied(0, 0, 0, 0, -1, 1, 2, 3, ()),
        GradientApplied(0, 0, 0, 0, 0, 1, 2, 2**40, ()),
        GradientApplied(0, 0, 0, 0, 0, 1, 2, 3, (2**16,)),
        GradientApplied(0, 0, 0, 0, 0, 1, 2, 3, (-1,)),
        GradientApplied(0, 0, 0, 0, 0, 1, 2, 3, (0.5,)),
        Opaque(256, 1, b""),
        Opaque(-1, 1, b""),
        Opaque(200, 300, b""),
        Opaque(200, 1, "text"),
    ],
    ids=lambda record: repr(record)[:60],
)
def test_what_has_no_encoding_is_refused(record):
    with pytest.raises(FormatError) as caught:
        codec.encode(record)
    assert caught.value.message


def test_an_opaque_record_cannot_pose_as_a_known_one():
    """Reading never gives one: such a record would slip past whatever is checked of its kind."""
    entry = codec.encode(STEP)
    with pytest.raises(FormatError):
        codec.encode(Opaque(entry[0], entry[1], entry[2:]))


def test_negative_zero_is_written_as_zero():
    plus, minus = (StepTaken(1, 2, zero, None, 3, (zero,), 4) for zero in (0.0, -0.0))
    assert codec.encode(plus) == codec.encode(minus)


def test_infinity_can_be_recorded():
    record = StepTaken(1, 2, math.inf, -math.inf, 3, (), 4)
    assert codec.decode(codec.encode(record)) == record


def test_an_entry_too_large_for_a_bundle_is_refused():
    room = codec.ENTRY_BYTES_MAX - len(codec.encode(LogOpened("", "", 0)))
    largest = LogOpened("x" * (room - 2), "", 0)  # its length takes three bytes instead of one
    assert len(codec.encode(largest)) == codec.ENTRY_BYTES_MAX
    assert codec.decode(codec.encode(largest)) == largest
    for too_large in (LogOpened("x" * (room - 1), "", 0), Opaque(200, 1, bytes(codec.ENTRY_BYTES_MAX - 1))):
        with pytest.raises(LimitError) as caught:
            codec.encode(too_large)
        assert caught.value.remedy


def test_enumerations_may_be_given_as_their_text():
    assert codec.encode(SourceStateChanged("s", "active", "r", "b", 5)) == codec.encode(
        SourceStateChanged("s", SourceState.ACTIVE, "r", "b", 5)
    )


# ---- the classes themselves ------------------------------------------------------------------------------------


def test_no_two_enumerations_share_a_class_with_another_meaning():
    assert {action.value for action in Action} == {"allow", "attribute", "suppress"}


def test_records_are_frozen_and_have_no_room_for_more():
    for name in ("step", "extra"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(STEP, name, 1)


def test_every_refusal_of_the_codec_is_ours():
    for entry in (b"", b"\x01\x01\xff", codec.encode(ADMITTED)[:-3]):
        with pytest.raises(LicetError):
            codec.decode(entry)
