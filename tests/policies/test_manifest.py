"""Manifests: proofs that must fail, files that must be refused, then what every manifest must give."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError, LicetError, LimitError, NotFoundError, ProofError
from licet.ledger.records import Digest
from licet.policies.example import Membership
from licet.policies.manifest import Manifest, ManifestEntry, check_name, holds
from licet.policies.statement import ManifestRoot
from tests.policies.signed import digest


def entry(name: str, content: str | None = None) -> ManifestEntry:
    said = content if content is not None else name
    return ManifestEntry(name, digest(said), len(said.encode()))


def manifest(count: int) -> Manifest:
    return Manifest.of(entry(f"dir/{i:06}.txt") for i in range(count))


FIVE = manifest(5)
SECOND = FIVE.entries[1]
PROOF = FIVE.membership(1)


def proved(membership=PROOF, root=FIVE.root, content=SECOND.digest, size=SECOND.bytes) -> bool:
    return holds(membership, root, content, size)


# -- proofs


def test_a_proof_is_of_one_file_in_one_manifest():
    assert proved()
    assert not proved(content=FIVE.entries[2].digest)
    assert not proved(size=SECOND.bytes + 1)
    assert not proved(membership=replace(PROOF, name="dir/000002.txt"))
    assert not proved(membership=replace(PROOF, name="dir//000001.txt"))
    assert not proved(membership=replace(PROOF, index=0))
    assert not proved(root=manifest(6).root)
    assert not proved(root=replace(FIVE.root, entries=3))


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"index": 5},
        {"index": 2**80},
        {"hashes": ()},
        {"hashes": (*PROOF.hashes, bytes(32))},
        {"hashes": PROOF.hashes[:-1]},
        {"hashes": (b"", *PROOF.hashes[1:])},
        {"hashes": PROOF.hashes[::-1]},
        {"name": ""},
        {"name": "\ud800"},
        {"name": "x" * 5000},
        {"name": "../000001.txt"},
    ],
    ids=range(12),
)
def test_odd_proofs(change):
    assert not proved(membership=replace(PROOF, **change))


@pytest.mark.parametrize("size", [-1, 2**63, 2**200])
def test_odd_sizes(size):
    assert not proved(size=size)


def test_odd_roots():
    assert not proved(root=ManifestRoot(Digest(b""), 5))
    assert not proved(root=ManifestRoot(FIVE.root.root, 0))
    assert not proved(root=ManifestRoot(FIVE.root.root, 2**300))
    assert not proved(content=Digest(b"short"))


@given(st.integers(0, 8 * 96 - 1))
def test_every_flipped_bit_of_a_proof(bit):
    flipped = bytearray(b"".join(PROOF.hashes))
    flipped[bit // 8] ^= 1 << bit % 8
    hashes = tuple(bytes(flipped[i : i + 32]) for i in range(0, len(flipped), 32))
    assert not proved(membership=replace(PROOF, hashes=hashes))


def test_no_file_stands_outside():
    for index in (-1, 5):
        with pytest.raises(ProofError):
            FIVE.membership(index)
    with pytest.raises(NotFoundError):
        FIVE.index_of("dir/000005.txt")


# -- names and files

BAD_NAMES = [
    "",
    "/etc/passwd",
    "a//b",
    "a/",
    ".",
    "..",
    "a/../b",
    "./a",
    "a\\b",
    "a\nb",
    "a\x00b",
    "a\u2028b",
    "\ud800",
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "x" * 1025, "é" * 513], ids=range(15))
def test_bad_names(name):
    with pytest.raises(FormatError):
        check_name(name)
    with pytest.raises(FormatError):
        Manifest.of([ManifestEntry(name, digest("x"), 1)])


@pytest.mark.parametrize("name", ["a", "a b", "...", ".git/x", "ä/日本語.txt", "a..b", "x" * 1024])
def test_good_names(name):
    assert check_name(name) == name


def test_names_are_unique():
    with pytest.raises(FormatError):
        Manifest.of([entry("a"), entry("b"), entry("a", "other")])


def test_an_empty_manifest():
    with pytest.raises(LimitError):
        Manifest.of([])
    with pytest.raises(LicetError):
        Manifest.parse(b"")


def line(**changes) -> bytes:
    fields = {"bytes": "1", "name": '"a"', "sha256": f'"{"0" * 64}"', **changes}
    return ("{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}\n").encode()


@pytest.mark.parametrize(
    "bad",
    [
        line()[:-1],
        b"\n",
        line() + b"\n",
        b"[]\n",
        b"{}\n",
        b"\xff\n",
        b"[" * 8000 + b"\n",
        line(name='"' + "x" * 9000 + '"'),
        line(extra="1"),
        line(bytes="-1"),
        line(bytes="1.0"),
        line(bytes="true"),
        line(bytes="9" * 5000),
        line(bytes="NaN"),
        line(bytes='1,"bytes":1'),
        line(sha256='"0"'),
        line(sha256="null"),
        line(sha256='"' + "G" * 64 + '"'),
        line(name='"../a"'),
        line(name='"\\ud800"'),
        line() + line(),
        line(name='"b"') + line(),
        line().replace(b"\n", b"\r\n").replace(b"}", b"}x"),
    ],
    ids=range(23),
)
def test_files_that_are_no_manifest(bad):
    with pytest.raises(LicetError) as caught:
        Manifest.parse(bad)
    assert caught.value.message


def test_a_message_names_the_line():
    with pytest.raises(FormatError, match="Line 2"):
        Manifest.parse(line() + line(name='"b"', bytes="-1"))


@given(st.binary(max_size=200))
def test_random_bytes_are_no_manifest(data):
    with pytest.raises(LicetError):
        Manifest.parse(data)


# -- what a manifest gives

NAMES = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="/\\."), min_size=1, max_size=8)
ENTRIES = st.lists(
    st.builds(ManifestEntry, NAMES, st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1)),
    min_size=1,
    max_size=70,
    unique_by=lambda one: one.name,
)


@given(ENTRIES)
def test_a_manifest_does_not_depend_on_the_order_and_survives_its_file(entries):
    whole = Manifest.of(entries)
    assert Manifest.of(reversed(entries)).root == whole.root
    again = Manifest.parse(whole.to_lines())
    assert again == whole
    assert again.root == whole.root
    assert again.to_lines() == whole.to_lines()
    assert [whole.index_of(one.name) for one in whole.entries] == list(range(len(entries)))


@given(ENTRIES, st.data())
def test_every_file_is_proved_and_no_other(entries, data):
    whole = Manifest.of(entries)
    i, j = (data.draw(st.integers(0, len(entries) - 1)) for _ in range(2))
    membership, content = whole.membership(i), whole.entries[j]
    assert membership.name == whole.entries[i].name
    assert holds(membership, whole.root, content.digest, content.bytes) == (
        (whole.entries[i].digest, whole.entries[i].bytes) == (content.digest, content.bytes)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 511, 513, 65_537])
def test_sizes_around_tiles(count):
    whole = manifest(count)
    for index in {0, 1, count // 2, count - 2, count - 1} & set(range(count)):
        one = whole.entries[index]
        assert holds(whole.membership(index), whole.root, one.digest, one.bytes)


def test_the_root_is_that_of_another_implementation():
    """The leaf: purpose, digest, length in eight bytes, name."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for one in FIVE.entries:
        tree.append_entry(b"licet/manifest/v1\0" + one.digest + one.bytes.to_bytes(8, "big") + one.name.encode())
    assert FIVE.root == ManifestRoot(Digest(tree.get_root()), 5)


def test_a_leaf_is_nothing_else():
    one = entry("a")
    leaf = hashlib.sha256(b"\0licet/manifest/v1\0" + one.digest + (1).to_bytes(8, "big") + b"a").digest()
    assert Manifest.of([one]).root == ManifestRoot(Digest(leaf), 1)
    assert holds(Membership("a", 0, ()), ManifestRoot(Digest(leaf), 1), one.digest, 1)


def test_a_hundred_thousand_files_in_a_moment():
    began = time.monotonic()
    whole = manifest(100_000)
    for index in range(0, 100_000, 100):
        whole.membership(index)
    assert time.monotonic() - began < 10
