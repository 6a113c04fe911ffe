"""Reading content: what is found, what is left out, and what refuses the whole."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from licet.ledger.errors import ConfigError, FormatError, LicetError, MissingFileError, NotFoundError
from licet.policies.cli import collect as collecting
from licet.policies.cli import file_rows
from licet.policies.cli.collect import collect
from licet.policies.cli.distributions import installed_distributions, spdx_of
from licet.policies.cli.moments import moment


def read(path, *columns):
    reports = []
    found = collect(path, columns or ("text",), lambda done, total: reports.append((done, total)))
    assert all(done <= total for done, total in reports)
    return found


def digests(found):
    return {entry.name: entry.digest for entry in found.entries}


def sha(text):
    return hashlib.sha256(text.encode()).digest()


def lines(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


def test_a_folder_is_its_regular_files(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deep" / "er" / "ü.txt").write_text("two")
    (folder / ".hidden").write_text("no")
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    os.close(os.open(os.fsencode(folder) + b"/\xff\xfe", os.O_CREAT))
    (folder / "back\\slash").write_text("no")
    found = read(folder)
    assert digests(found) == {"a.txt": sha("one"), "deep/er/ü.txt": sha("two")}
    assert sorted(one.name for one in found.skipped) == [
        ".hidden",
        "\\udcff\\udcfe",
        "back\\\\slash",
        "link",
        "loop",
        "pipe",
    ]
    assert all(one.why.encode() and one.name.encode() for one in found.skipped)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """The tests may run as root, whom no permission stops: so the refusal is the opening's own."""
    (tmp_path / "good").write_text("good")
    (tmp_path / "bad").write_text("bad")
    real = os.open

    def refusing(path, *arguments, **named):
        if str(path).endswith("bad"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr(collecting.os, "open", refusing)
    found = read(tmp_path)
    assert list(digests(found)) == ["good"]
    (left_out,) = found.skipped
    assert left_out.name == "bad" and "Permission denied" in left_out.why


def test_a_folder_of_nothing_says_what_it_left_out(tmp_path):
    (tmp_path / ".git").mkdir()
    with pytest.raises(NotFoundError, match="hidden"):
        read(tmp_path)


def test_one_file_is_its_bytes(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\xff\x00")
    assert digests(read(tmp_path / "x.bin")) == {"x.bin": hashlib.sha256(b"\xff\x00").digest()}
    with pytest.raises(MissingFileError):
        read(tmp_path / "y.bin")
    with pytest.raises(LicetError, match="cannot be read"):
        read(tmp_path / ("x" * 5000))
    for name in ("pipe", "pipe.jsonl", "pipe.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(LicetError, match="no regular file"):
            read(tmp_path / name)


def test_each_row_of_json_lines_is_a_content(tmp_path):
    path = lines(tmp_path, {"text": "one"}, b"\n", {"text": "zwölf", "n": 1})
    assert digests(read(path)) == {"rows.jsonl#00000001": sha("one"), "rows.jsonl#00000003": sha("zwölf")}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(b"{\n", id="cut off"),
        pytest.param(b"\xff\n", id="no UTF-8"),
        pytest.param(b"[1]\n", id="a list"),
        pytest.param(b'{"body": "x"}\n', id="another column"),
        pytest.param(b'{"text": 7}\n', id="a number"),
        pytest.param(b'{"text": null}\n', id="null"),
        pytest.param(b'{"text": "\\ud800"}\n', id="half a surrogate pair"),
        pytest.param(b"[" * 100_000 + b"\n", id="deep"),
        pytest.param(b"1" * 10_000 + b"\n", id="a long number"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row):
    with pytest.raises(FormatError, match="Line 2 of"):
        read(lines(tmp_path, {"text": "good"}, row, {"text": "good"}))


def test_a_row_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(file_rows, "ROW_BYTES_MAX", 100)
    with pytest.raises(FormatError, match="Line 1 of"):
        read(lines(tmp_path, {"text": "x" * 100}))


def test_texts_are_not_kept(tmp_path):
    path = lines(tmp_path, *[{"text": str(i) * 20_000} for i in range(200)])
    tracemalloc.start()
    try:
        assert len(read(path).entries) == 200
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


def test_parquet_gives_the_same_digests_as_json_lines(tmp_path):
    texts = [f"row {i}" for i in range(1000)]
    pq.write_table(pa.table({"text": texts, "n": range(1000)}), tmp_path / "rows.parquet")
    rows = read(tmp_path / "rows.parquet")
    assert [e.digest for e in rows.entries] == [
        e.digest for e in read(lines(tmp_path, *({"text": t} for t in texts))).entries
    ]


def test_parquet_that_cannot_be_attested(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"body": ["x"], "n": [1], "text": pa.array([None], pa.string())}), path)
    with pytest.raises(ConfigError, match="it has 'body', 'n', 'text'"):
        read(path, "content")
    with pytest.raises(ConfigError, match="int64"):
        read(path, "n")
    with pytest.raises(FormatError, match="Row 1 of"):
        read(path)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(LicetError):
            read(path)
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read(path, "body")
        except LicetError:
            continue
    with pytest.raises(MissingFileError):
        read(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("expression", "licence", "classifiers", "said"),
    [
        ("MIT OR Apache-2.0", "BSD", [], "MIT OR Apache-2.0"),
        (None, "mit", [], "MIT"),
        (None, "Apache License,\n Version 2.0", ["License :: OSI Approved :: Apache Software License"], "Apache-2.0"),
        (None, None, ["License :: OSI Approved", "License :: OSI Approved :: MIT License"], "MIT"),
        (None, None, ["License :: OSI Approved :: BSD License"], None),
        (None, "BSD", ["License :: OSI Approved :: BSD License"], None),
        (None, "MIT", ["License :: OSI Approved :: ISC License (ISCL)"], None),
        (None, "MIT", ["License :: OSI Approved :: MIT License", "License :: Other/Proprietary License"], None),
        (None, "x" * 10_000, [], None),
        ("nonsense", None, ["Topic :: Text"], None),
        (None, None, [], None),
    ],
    ids=range(11),
)
def test_a_licence_is_taken_over_where_it_is_plain(expression, licence, classifiers, said):
    assert spdx_of(expression, licence, classifiers) == said


def test_installed_distributions_can_be_read():
    found = list(installed_distributions())
    assert len(found) > 20 and len({one.name for one in found}) == len(found)
    assert all(one.description.strip() for one in found) and any(one.spdx for one in found)


@pytest.mark.parametrize(
    "text", ["", "2026", "31.1.2026", "2026-02-30", "2026-01-01T25:00:00Z", "٢٠٢٦-01-01", "1900-01-01"]
)
def test_what_is_no_date_is_refused(text):
    with pytest.raises(ConfigError, match="--until"):
        moment(text, "--until")


def test_a_date_is_its_beginning_in_utc():
    assert moment("2026-01-31", "--from") == moment("2026-01-31T00:00:00Z", "--from") == 1_769_817_600_000
    assert moment(None, "--from") is None
