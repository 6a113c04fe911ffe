"""Reading rows: each format, what rows claim, what is refused, and that digests are those that were attested."""

from __future__ import annotations

import base64
import hashlib
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import ConfigError, FormatError, LicetError, MissingFileError, NotFoundError
from licet.ledger.records import Digest
from licet.policies import strict_json
from licet.policies.cli.collect import collect
from licet.policies.example import Membership
from licet.policies.provenance import Custody, Labels, Provenance
from licet.train.data.row_files import RowShape, claims_of, read_rows
from licet.train.data.rows import Chat, Claims, Message, Pair, Text
from tests.policies import signed

TEXT, CHAT, PAIR = RowShape("text"), RowShape("chat"), RowShape("preference")
NOTHING = Claims()
MESSAGES = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Good day."}]
SAID = {
    "attestation": "ab" * 32,
    "membership": {"name": "rows.jsonl#00000001", "index": 3, "hashes": ["cd" * 32]},
    "slope": 1,
    "scope": ["general"],
    "provenance": {
        "custody": [{"holder": "ada", "action": "written", "claimedMs": 7}],
        "labels": {"annotator": "ada", "consensus": 0.5},
    },
    "skills": ["coding"],
    "fields": {"domain": "law", "consent": "given"},
    "entropyBand": "medium",
    "bitsPerByte": 1.5,
}
CLAIMED = Claims(
    Digest(bytes([0xAB]) * 32),
    Membership("rows.jsonl#00000001", 3, (bytes([0xCD]) * 32,)),
    1,
    ("general",),
    Provenance((Custody("ada", "written", 7),), Labels("ada", 0.5)),
    ("coding",),
    (("consent", "given"), ("domain", "law")),
    "medium",
    1.5,
)


def lines(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def table(tmp_path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def dataset(tmp_path, *rows):
    import datasets

    datasets.Dataset.from_list(list(rows)).save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


def read(path, shape=TEXT, defaults=NOTHING):
    return list(read_rows(path, shape, defaults))


FORMATS = pytest.mark.parametrize("write", [lines, table, dataset])


# -- what is read


@FORMATS
def test_rows_are_the_same_in_each_format(tmp_path, write):
    path = write(tmp_path, {"text": "one", "licet": SAID}, {"text": "zwölf", "licet": None})
    first, second = read(path)
    assert (first.parts, first.content, first.claims) == (Text("one"), b"one", CLAIMED)
    assert (second.parts, second.content, second.claims) == (Text("zwölf"), "zwölf".encode(), NOTHING)
    assert second.place == f"{path.name} {'line' if path.suffix == '.jsonl' else 'row'} 2"


@FORMATS
def test_conversations_and_pairs(tmp_path, write):
    pair = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    path = write(tmp_path, {"messages": MESSAGES, **pair, "licet": json.dumps(SAID)})
    (chat,) = read(path, CHAT)
    assert chat.parts == Chat((Message("user", "Hi."), Message("assistant", "Good day.")))
    assert chat.content == strict_json.spell(MESSAGES) and chat.claims == CLAIMED
    (found,) = read(path, PAIR)
    assert found.parts == Pair("Why?", "Because.", "No.") and found.content == strict_json.spell(pair)


def test_pairs_may_be_told_in_messages(tmp_path):
    row = {"q": MESSAGES[:1], "a": [MESSAGES[1]], "b": [{"role": "assistant", "content": "No."}]}
    shape = RowShape("preference", prompt="q", chosen="a", rejected="b")
    (found,) = read(lines(tmp_path, row), shape)
    assert found.parts == Pair((Message("user", "Hi."),), "Good day.", "No.")
    assert found.content == strict_json.spell(row)


@FORMATS
@pytest.mark.parametrize("shape", [TEXT, CHAT, PAIR, RowShape("chat", messages="prompt")], ids=range(4))
def test_content_is_what_licet_attest_digests(tmp_path, write, shape):
    """Row by row, also where a table fills up with nulls what some rows do not have."""
    path = write(
        tmp_path,
        {"text": "a", "messages": MESSAGES, "prompt": MESSAGES[:1], "chosen": "x", "rejected": ""},
        {"text": "ü", "messages": MESSAGES[1:], "prompt": MESSAGES, "chosen": "\n", "rejected": "y", "licet": SAID},
    )
    attested = collect(path, shape.columns, lambda done, total: None).entries
    found = read(path, shape)
    assert [(e.digest, e.bytes) for e in attested] == [
        (hashlib.sha256(row.content).digest(), len(row.content)) for row in found
    ]
    assert [int(e.name.rpartition("#")[2]) for e in attested] == [int(row.place.split()[-1]) for row in found]


def test_a_file_is_read_row_by_row(tmp_path):
    path = lines(tmp_path, *[{"text": str(i) * 20_000} for i in range(200)])
    reports = []
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(path, TEXT, NOTHING, lambda done, total: reports.append((done, total))))
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()
    assert count == 200 and reports[-1] == (path.stat().st_size,) * 2


# -- what rows claim


def test_what_a_row_does_not_say_is_its_files(tmp_path):
    path = lines(
        tmp_path, {"text": "a"}, {"text": "b", "licet": {"slope": 0, "scope": [], "fields": {"domain": "art"}}}
    )
    first, second = (row.claims for row in read(path, defaults=CLAIMED))
    assert first == CLAIMED
    assert (second.slope, second.scope, second.skills) == (0, (), ("coding",))
    assert second.fields == (("consent", "given"), ("domain", "art"))
    assert second.attestation == CLAIMED.attestation and second.membership == CLAIMED.membership


def test_a_membership_goes_with_its_attestation():
    assert claims_of({"attestation": "00" * 32}, CLAIMED).membership is None
    assert claims_of({"membership": SAID["membership"]}, NOTHING).membership == CLAIMED.membership


def test_an_attestation_is_an_id_or_an_envelope():
    envelope = signed.envelope()
    assert claims_of({"attestation": base64.b64encode(envelope).decode()}).attestation == envelope
    assert claims_of({"attestation": "AB" * 32}).attestation == CLAIMED.attestation


def test_fields_of_a_table_may_be_pairs(tmp_path):
    kind = pa.struct([("fields", pa.map_(pa.string(), pa.string())), ("slope", pa.int64())])
    found = pa.table({"text": ["a"], "licet": pa.array([{"fields": [("b", "2"), ("a", "1")], "slope": 0}], kind)})
    pq.write_table(found, tmp_path / "rows.parquet")
    (row,) = read(tmp_path / "rows.parquet")
    assert row.claims.fields == (("a", "1"), ("b", "2")) and row.claims.slope == 0


OBJECTS = st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in SAID.items()})


@given(OBJECTS, OBJECTS)
def test_defaults_are_what_is_said_first(first, second):
    """Saying two objects one after the other is saying what they make together, but for a proof of something else."""
    if "attestation" in second and "membership" not in second:
        first.pop("membership", None)
    assert claims_of(second, claims_of(first)) == claims_of({**first, **second})


@pytest.mark.parametrize(
    "said",
    [
        7,
        [],
        "{",
        '{"slope": 0, "slope": 1}',
        {"slop": 0},
        {"slope": -1},
        {"slope": "0"},
        {"slope": 0.5},
        {"scope": "general"},
        {"scope": [7]},
        {"attestation": 7},
        {"attestation": "not base64!"},
        {"attestation": "abc"},
        {"membership": {"name": "x"}},
        {"membership": {"name": "x", "index": -1, "hashes": []}},
        {"provenance": {"by": "ada"}},
        {"fields": [["a", "b"], ["a", "c"]]},
        {"fields": "x"},
        {"fields": {"a": 1}},
        {"bitsPerByte": 1e9},
        {"bitsPerByte": True},
        {"skills": ["\ud800"]},
        {"fields": {"a": "x" * 5_000_000}},
    ],
    ids=range(23),
)
def test_what_cannot_be_claimed_names_its_line(tmp_path, said):
    with pytest.raises(FormatError, match=r"Line 2 of .* 'licet'") as caught:
        read(lines(tmp_path, {"text": "a"}, {"text": "b", "licet": said}))
    assert caught.value.remedy and len(caught.value.message) < 1500


# -- what is refused


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        (TEXT, {"text": MESSAGES}),
        (TEXT, {"text": "\ud800"}),
        (TEXT, {"body": "x"}),
        (TEXT, b"{"),
        (TEXT, b"\xff"),
        (TEXT, b'{"text": "a", "text": "b"}'),
        (CHAT, {"messages": "Hi."}),
        (CHAT, {"messages": []}),
        (CHAT, {"messages": {}}),
        (CHAT, {"messages": ["Hi."]}),
        (CHAT, {"messages": [{"role": "user"}]}),
        (CHAT, {"messages": [{"role": "", "content": "x"}]}),
        (CHAT, {"messages": [{"role": "user\n", "content": "x"}]}),
        (CHAT, {"messages": [{"role": "x" * 65, "content": "x"}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
        (CHAT, {"messages": [{"role": "user", "content": "x", "tool_calls": []}]}),
        (CHAT, {"messages": [{"role": "user", "content": "\udfff"}]}),
        (CHAT, {"messages": [{"role": "user", "content": ""}] * 4097}),
        (PAIR, {"prompt": "x", "chosen": "y"}),
        (PAIR, {"prompt": {}, "chosen": "y", "rejected": "z"}),
        (PAIR, {"prompt": "x", "chosen": MESSAGES, "rejected": "z"}),
        (PAIR, {"prompt": "x", "chosen": MESSAGES[:1], "rejected": "z"}),
    ],
    ids=range(22),
)
def test_a_row_of_another_shape_names_its_line(tmp_path, shape, row):
    good = {"text": "a", "messages": MESSAGES, "prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(FormatError, match="Line 2 of") as caught:
        read(lines(tmp_path, good, row), shape)
    assert caught.value.remedy


def test_a_line_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("licet.policies.cli.file_rows.ROW_BYTES_MAX", 100)
    with pytest.raises(FormatError, match="Line 2 of"):
        read(lines(tmp_path, {"text": "a"}, {"text": "x" * 100}))


def test_a_table_of_another_schema_or_cut_off(tmp_path):
    path = table(tmp_path, {"body": "x", "n": 1, "messages": "Hi."})
    with pytest.raises(ConfigError, match="no column 'text'"):
        read(path)
    with pytest.raises(ConfigError, match="int64"):
        read(path, RowShape("text", text="n"))
    with pytest.raises(FormatError, match=r"Row 1 of .*no list of messages"):
        read(path, CHAT)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(LicetError):
            read(path, RowShape("text", text="body"))


def test_places_without_rows(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("text")
    for path in (tmp_path / "folder", tmp_path / "notes.txt"):
        with pytest.raises(ConfigError, match="holds no rows"):
            read(path)
    for path in (lines(tmp_path), lines(tmp_path, b"", b" "), table(tmp_path, {"text": "a"})):
        if path.suffix == ".parquet":
            pq.write_table(pq.read_table(path).slice(0, 0), path)
        with pytest.raises(NotFoundError, match="no rows"):
            read(path)
    with pytest.raises(MissingFileError):
        read(tmp_path / "none.jsonl")


def test_two_things_are_not_read_from_one_column():
    for shape in ({"text": "licet"}, {"kind": "preference", "chosen": "x", "rejected": "x"}):
        with pytest.raises(ConfigError, match="one column"):
            RowShape(**shape)
