"""Rows as attestations are about them: lists, objects, several columns, saved datasets."""

from __future__ import annotations

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import ConfigError, FormatError, LicetError, LimitError
from licet.policies import strict_json
from licet.policies.cli import file_rows
from licet.policies.cli.collect import collect
from licet.policies.cli.file_rows import attested_bytes, read_columns, without_nulls

CHAT = [{"role": "user", "content": "Grüß dich."}, {"role": "assistant", "content": "Hello."}]
PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}


def entries(path, *columns):
    return collect(path, columns, lambda done, total: None).entries


def rows(path, *columns, optional=()):
    return list(read_columns(path, columns, optional, lambda done, total: None))


def lines(tmp_path, *found):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A dataset as the library saves it, in two files."""
    import datasets

    folder = tmp_path_factory.mktemp("saved") / "set"
    found = [{"text": f"row {i}", "messages": CHAT, "n": i} for i in range(7)]
    datasets.Dataset.from_list(found).save_to_disk(str(folder), num_shards=2)
    return folder


def test_a_text_is_its_utf8_and_anything_else_its_one_spelling():
    assert attested_bytes({"text": "zwölf"}) == "zwölf".encode()
    assert attested_bytes({"messages": CHAT}) == strict_json.spell(CHAT)
    assert attested_bytes(dict(reversed(PAIR.items()))) == strict_json.spell(PAIR)
    assert attested_bytes({"messages": []}) == b"[]"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab\u00fc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=3))
def test_null_fields_are_left_out_and_nothing_else(value):
    plain = without_nulls(value)
    assert without_nulls(plain) == plain
    assert attested_bytes({"x": value}) == attested_bytes({"x": plain}) == strict_json.spell(plain)


def test_json_lines_parquet_and_datasets_agree(tmp_path, saved):
    spelled = strict_json.spell(CHAT)
    found = [{"text": f"row {i}", "messages": CHAT} for i in range(7)]
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "rows.parquet")
    for path in (lines(tmp_path, *found), tmp_path / "rows.parquet", saved):
        assert [e.digest for e in entries(path, "messages")] == [hashlib.sha256(spelled).digest()] * 7
        assert [e.name.rpartition("#")[2] for e in entries(path, "text")] == [f"{n:08d}" for n in range(1, 8)]
        both = strict_json.spell({"messages": CHAT, "text": "row 3"})
        assert entries(path, "text", "messages")[3].digest == hashlib.sha256(both).digest()


def test_what_a_table_fills_up_with_nulls_has_the_digest_of_what_was_meant(tmp_path):
    found = [{"m": [{"role": "user", "content": "a"}]}, {"m": [{"role": "user", "content": "b", "name": "Ada"}]}]
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist()[0]["m"][0].get("name", 0) is None
    by_table = [e.digest for e in entries(tmp_path / "rows.parquet", "m")]
    assert by_table == [e.digest for e in entries(lines(tmp_path, *found), "m")]


def test_columns_that_need_not_be_there(tmp_path):
    path = lines(tmp_path, {"text": "a", "licet": {"slope": 0}}, {"text": "b", "licet": None}, {"text": "c", "n": 1})
    assert [dict(row.values) for row in rows(path, "text", optional=("licet",))] == [
        {"text": "a", "licet": {"slope": 0}},
        {"text": "b"},
        {"text": "c"},
    ]
    table = pa.table({"text": ["a", "b"], "licet": pa.array([{"slope": 0}, None])})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = rows(tmp_path / "rows.parquet", "text", optional=("licet", "more"))
    assert [dict(row.values) for row in found] == [{"text": "a", "licet": {"slope": 0}}, {"text": "b"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"x": 7}', "no text, list or object"),
        (b'{"x": null}', "no text, list or object"),
        (b'{"x": "a", "x": "b"}', "twice"),
        (b'{"x": [NaN]}', "NaN"),
        (b'{"x": ["\\ud800"]}', "surrogates"),
        (b'{"x": ' + b"[" * 900 + b"]" * 900 + b"}", "nested"),
        (b"\xef\xbb\xbf{}", "JSON"),
    ],
    ids=range(7),
)
def test_a_row_that_cannot_be_attested_is_named(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"x": "good"}\n' + line + b"\n")
    with pytest.raises(FormatError, match="Line 2 of") as caught:
        entries(path, "x")
    assert said in caught.value.message and caught.value.remedy


def test_no_row_is_without_bounds(monkeypatch):
    monkeypatch.setattr(file_rows, "ROW_BYTES_MAX", 100)
    with pytest.raises(LimitError):
        attested_bytes({"x": ["y" * 100]})


def test_columns_are_named_once(tmp_path):
    path = lines(tmp_path, {"a": "x"})
    for columns in (("a", "a"), ()):
        with pytest.raises(ConfigError):
            rows(path, *columns)
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "rows.parquet")
    with pytest.raises(ConfigError, match="several columns"):
        rows(tmp_path / "rows.parquet", "a")


def test_a_dataset_names_what_it_leaves_out(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "set")
    (folder / "notes.txt").write_text("no row")
    found = collect(folder, ("text",), lambda done, total: None)
    assert len(found.entries) == 7 and [one.name for one in found.skipped] == ["notes.txt"]
    assert found.entries[0].name == "set#00000001"


def test_a_dataset_of_several_splits_is_named_by_one(tmp_path, saved):
    shutil.copytree(saved, tmp_path / "all" / "train")
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(ConfigError, match="several splits"):
        entries(tmp_path / "all", "text")
    assert len(entries(tmp_path / "all" / "train", "text")) == 7


def test_a_dataset_that_was_cut_off_or_changed_is_refused_or_reads_the_same(tmp_path, saved):
    whole = [e.digest for e in entries(saved, "text", "messages")]
    folder = shutil.copytree(saved, tmp_path / "set")
    file = folder / "data-00001-of-00002.arrow"
    raw = file.read_bytes()
    for cut in (0, 4, 8, len(raw) // 2, len(raw) - 8, len(raw) - 1):
        file.write_bytes(raw[:cut])
        with pytest.raises(LicetError):
            entries(folder, "text")
    for at in range(0, len(raw), max(1, len(raw) // 80)):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        try:
            assert len(entries(folder, "text", "messages")) <= len(whole) * 2
        except LicetError:
            continue
    file.unlink()
    with pytest.raises(LicetError):
        entries(folder, "text")


@pytest.mark.parametrize(
    "state",
    [
        "{",
        "[]",
        "{}",
        '{"_data_files": []}',
        '{"_data_files": [{"filename": "../data.arrow"}]}',
        '{"_data_files": [{"filename": "/etc/passwd"}]}',
        '{"_data_files": [{"filename": 7}]}',
        '{"_data_files": ["x"]}',
        '{"_data_files": [{"filename": "data-00000-of-00002.arrow"}], "_indices_data_files": [{"filename": "i"}]}',
    ],
    ids=range(9),
)
def test_a_dataset_whose_state_says_something_else(tmp_path, saved, state):
    folder = shutil.copytree(saved, tmp_path / "set")
    (folder / "state.json").write_text(state)
    with pytest.raises(LicetError):
        entries(folder, "text")
