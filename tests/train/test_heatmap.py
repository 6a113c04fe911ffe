"""The heatmap says what the index says, in a picture that is well formed whatever the names are."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import NotFoundError
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.train.heatmap import NAME_CHARS_MAX, ROWS_MAX, Heatmap
from tests.ledger.logs import BLOCKS, training_log

SVG = "{http://www.w3.org/2000/svg}"
names = st.text(min_size=1, max_size=60)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("heatmap") / "log"
    with training_log(path, SigningKey.generate("example.org/log")) as ledger:
        yield ledger


def heatmap(*rows, blocks=("a", "b"), sources=None):
    return Heatmap(tuple(sources or (f"s{i}" for i in range(len(rows)))), tuple(blocks), tuple(rows))


def test_it_is_the_index(log):
    read = Heatmap.read(log.exposure)
    assert read.blocks == BLOCKS
    for source, row in zip(read.sources, read.totals, strict=True):
        assert list(row) == [block.total for block in log.exposure.forward(source=source)]
    for block, column in zip(BLOCKS, zip(*read.shares(), strict=True), strict=True):
        ranking = {row.source: row.share for row in log.exposure.reverse([block], top=None)}
        assert dict(zip(read.sources, column, strict=True)) == pytest.approx(
            {source: ranking.get(source, 0.0) for source in read.sources}
        )


def test_the_strongest_source_stands_first(log):
    read = Heatmap.read(log.exposure)
    sums = [sum(row) for row in read.totals]
    assert sums == sorted(sums, reverse=True)


def test_sources_stand_as_asked_and_one_without_exposure_is_an_empty_row(log):
    read = Heatmap.read(log.exposure, sources=["nobody", "source-1"])
    assert read.sources == ("nobody", "source-1")
    assert read.totals[0] == (0, 0, 0)
    assert read.table()[1][0][1:] == ("·", "·", "·")


def test_a_log_without_a_run_is_refused(tmp_path):
    with (
        Ledger.create(tmp_path / "log", SigningKey.generate("example.org/log")) as ledger,
        pytest.raises(NotFoundError) as refused,
    ):
        Heatmap.read(ledger.exposure)
    assert refused.value.remedy


def test_a_run_that_taught_nothing_is_refused(tmp_path):
    with (
        training_log(tmp_path / "log", SigningKey.generate("example.org/log"), events=0) as ledger,
        pytest.raises(NotFoundError, match="No gradient") as refused,
    ):
        Heatmap.read(ledger.exposure)
    assert refused.value.remedy


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 1 << 80)] * n), min_size=1, max_size=8)))
def test_each_block_that_was_given_anything_adds_up_to_one(rows):
    shares = heatmap(*rows, blocks=[f"b{i}" for i in range(len(rows[0]))]).shares()
    for column, totals in zip(zip(*shares, strict=True), zip(*rows, strict=True), strict=True):
        assert sum(column) == pytest.approx(1.0 if any(totals) else 0.0)


@given(st.lists(names, min_size=1, max_size=4, unique=True), st.lists(names, min_size=1, max_size=3, unique=True))
def test_any_name_is_only_text(sources, blocks):
    made = heatmap(*[[1] * len(blocks)] * len(sources), blocks=blocks, sources=sources)
    picture = ElementTree.fromstring(made.svg("a <title> & more"))  # noqa: S314  made here
    titles = [title.text or "" for title in picture.iter(f"{SVG}title")]
    assert len(titles) == len(sources) * (1 + len(blocks))
    columns, rows = made.table()
    assert all(cell.isprintable() and len(cell) <= NAME_CHARS_MAX for row in rows for cell in row)
    assert all(cell.isprintable() for cell in columns)


def test_the_picture_tells_nothing_from_little():
    picture = ElementTree.fromstring(heatmap((1 << 60, 0), (1, 5)).svg())  # noqa: S314  made here
    cells = picture.findall(f".//{SVG}rect[@class='cell']")
    assert len(cells) == 3, "the empty one has a frame and no colour"
    assert all(float(cell.get("fill-opacity")) >= 0.05 for cell in cells)
    assert len(picture.findall(f".//{SVG}rect[@class='frame']")) == 4


def test_very_many_sources_are_cut_and_it_says_so():
    made = heatmap(*[(i + 1, 1) for i in range(ROWS_MAX + 5)])
    text = made.svg()
    assert "5 more sources are not shown" in text
    assert len(ElementTree.fromstring(text).findall(f".//{SVG}g")) == ROWS_MAX * 2  # noqa: S314  made here
    assert len(made.table()[1]) == ROWS_MAX + 5


def test_the_table_has_shades_by_share():
    _, rows = heatmap((90, 0), (10, 1)).table()
    assert rows[0][1] == "█ 90.0"
    assert rows[1][1].endswith(" 10.0")
    assert rows[0][2] == "·"
    assert rows[1][2] == "█ 100.0"
