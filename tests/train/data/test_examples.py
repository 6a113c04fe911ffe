"""From rows to examples, on a home whose rows were attested by the command itself, up to the gate's answer."""

from __future__ import annotations

import json

import pytest

from licet.ledger.app import app
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.records import Determination, Digest, PolicyAdopted, SourceRegistered
from licet.policies.attestation import attestation_id
from licet.policies.bands import Architecture
from licet.policies.cli.keyring import key_file, new_key
from licet.policies.cli.recording import reading, recording
from licet.policies.evaluate import Gate
from licet.policies.policy import Policy
from licet.policies.provenance import Custody, Provenance
from licet.policies.reasons import Reason
from licet.policies.statement import ManifestRoot
from licet.train.data import examples as making
from licet.train.data.examples import Examples
from licet.train.data.row_files import RowShape, read_rows
from licet.train.data.rows import Claims, Row, Text
from tests.policies import signed

POLICY = signed.policy_text()
GATE = Gate([Policy.parse(POLICY)], Architecture.uniform(6, embedding=10, layer=10, head=10))
SAID = Claims(slope=0, scope=("general",), provenance=Provenance((Custody("ada", "written"),)))
SHAPES = {
    "text": RowShape("text"),
    "chat": RowShape("chat"),
    "preference": RowShape("preference", chosen="better", rejected="worse"),
}
ROWS = [
    {
        "text": f"Text {i}.",
        "messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Ja, schön."}],
        "prompt": f"{i}?",
        "better": "Yes.",
        "worse": "No.",
    }
    for i in range(9)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = Home.create(tmp_path_factory.mktemp("home") / "home", "example.org/t")
    with recording(made) as recorder:
        recorder.add(PolicyAdopted(signed.digest(POLICY), POLICY, "operator", now_ms()))
        key = new_key(key_file(made, "ada"), "ada")
        recorder.add(SourceRegistered("ada", "Ada", str(key.verifier), "publisher", now_ms()))
        recorder.add(SourceRegistered("bob", "Bob", str(signed.key("bob").verifier), "publisher", now_ms()))
    return made


@pytest.fixture(scope="module")
def attested(home, tmp_path_factory):
    """Each shape's rows in a file, and the id of its attestation."""
    return {kind: attest(home, tmp_path_factory.mktemp(kind), shape, ROWS) for kind, shape in SHAPES.items()}


def attest(home, folder, shape, rows):
    path, out = folder / "rows.jsonl", folder / "envelope.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = [part for name in shape.columns for part in ("--column", name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICET_HOME", str(home.path))
        terms = ("--source", "ada", "--kind", "open-licence", "--spdx", "MIT", "--output", str(out))
        app(["attest", str(path), *terms, *columns, "--json"], standalone_mode=False)
    return path, attestation_id(out.read_bytes())


@pytest.fixture
def registry(home):
    with reading(home) as found:
        yield found


@pytest.fixture
def examples(home, registry):
    return Examples(registry, home.path / "manifests", now_ms())


def made(examples, row):
    return examples.example(row, signed.BITS_PER_BYTE, signed.ENTROPY_BAND)


def under(attestation, **changes):
    fields = {name: getattr(SAID, name) for name in ("slope", "scope", "provenance")}
    return Claims(**{**fields, "attestation": attestation, **changes})


# -- what is admitted


@pytest.mark.parametrize("kind", SHAPES)
def test_rows_that_licet_attest_attested_are_admitted(kind, attested, examples):
    path, attestation = attested[kind]
    rows = list(read_rows(path, SHAPES[kind], under(attestation)))
    assert len(rows) == len(ROWS)
    for row in rows:
        admission = GATE.admit(made(examples, row))
        assert (admission.determination, admission.reasons) == (Determination.ADMITTED, ())
        assert admission.attestation == attestation and admission.source == "ada"
    assert examples.problems == {}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_row_changed_by_a_letter_is_not(kind, attested, examples, tmp_path):
    path, attestation = attested[kind]
    other = tmp_path / path.name
    other.write_text(path.read_text().replace("4", "5"))
    rows = list(read_rows(other, SHAPES[kind], under(attestation)))
    reasons = [GATE.admit(made(examples, row)).reasons for row in rows]
    assert reasons[4] == () and rows[4].content == rows[5].content  # what was attested as another row is attested
    other.write_text(path.read_text().replace("4", "44"))
    rows = list(read_rows(other, SHAPES[kind], under(attestation)))
    reasons = [GATE.admit(made(examples, row)).reasons for row in rows]
    assert [bool(found) for found in reasons] == [i == 4 for i in range(9)]
    assert reasons[4] == (Reason.CONTENT_OUT_OF_SCOPE,)


def test_one_row_is_attested_by_itself(home, tmp_path):
    path, attestation = attest(home, tmp_path, SHAPES["text"], ROWS[:1])
    with reading(home) as registry:
        examples = Examples(registry, home.path / "manifests", now_ms())
        (row,) = read_rows(path, SHAPES["text"], under(attestation))
        example = made(examples, row)
    assert example.membership is None and GATE.admit(example).reasons == ()


def test_an_envelope_in_the_row_does_as_well(attested, registry, examples):
    path, attestation = attested["text"]
    envelope = registry.attestation(attestation).attestation.envelope
    row = next(read_rows(path, SHAPES["text"], under(envelope)))
    example = made(examples, row)
    assert example.envelope == envelope and example.membership is not None
    assert GATE.admit(example).attestation == attestation


def test_an_envelope_that_is_not_recorded_is_judged_by_its_signature(examples):
    envelope = signed.envelope(signed.statement("bob", b"A text."))
    row = Row("x line 1", b"A text.", Text("A text."), under(envelope))
    example = made(examples, row)
    assert GATE.admit(example).source == "bob" and GATE.admit(example).reasons == ()
    forged = signed.envelope(signed.statement("bob", b"A text."), by=signed.key("eve"))
    admission = GATE.admit(made(examples, Row("x line 2", b"A text.", Text("A text."), under(forged))))
    assert admission.determination is Determination.REJECTED
    assert attestation_id(forged) in examples.problems


# -- what is missing


def test_a_row_that_claims_nothing_is_rejected_with_reasons(examples):
    example = made(examples, Row("x line 1", b"a", Text("a"), Claims()))
    assert example.envelope is None and example.standing.sources == ()
    reasons = GATE.admit(example).reasons
    assert Reason.ATTESTATION_MISSING in reasons and len(reasons) > 2


def test_an_id_that_nobody_knows_is_remembered(examples):
    unknown = Digest(bytes([7]) * 32)
    row = Row("x line 1", b"a", Text("a"), under(unknown))
    assert made(examples, row).envelope is None
    assert GATE.admit(made(examples, row)).reasons == (Reason.ATTESTATION_MISSING,)
    assert "holds no attestation" in examples.problems[unknown]


def test_what_a_row_says_of_its_entropy_is_not_believed(examples, attested):
    path, attestation = attested["text"]
    row = next(read_rows(path, SHAPES["text"], under(attestation, entropy_band="low", bits_per_byte=0.1)))
    example = made(examples, row)
    assert (example.entropy_band, example.bits_per_byte) == (signed.ENTROPY_BAND, signed.BITS_PER_BYTE)


def test_a_rows_own_proof_is_taken_as_it_is(examples, attested):
    path, attestation = attested["text"]
    rows = list(read_rows(path, SHAPES["text"], under(attestation)))
    proofs = [made(examples, row).membership for row in rows]
    swapped = [
        made(examples, Row(row.place, row.content, row.parts, under(attestation, membership=proof)))
        for row, proof in zip(rows, reversed(proofs), strict=True)
    ]
    reasons = [GATE.admit(example).reasons for example in swapped]
    assert reasons == [() if i == 4 else (Reason.CONTENT_PROOF_INVALID,) for i in range(9)]


@pytest.mark.parametrize("damage", ["gone", "cut off", "another"])
def test_a_manifest_that_is_not_the_one_that_was_signed(home, registry, attested, tmp_path, damage):
    path, attestation = attested["text"]
    root = registry.attestation(attestation).attestation.statement.manifest
    kept = home.path / "manifests" / f"{root.root.hex()}.jsonl"
    if damage == "cut off":
        (tmp_path / kept.name).write_bytes(kept.read_bytes()[:-5])
    elif damage == "another":
        (tmp_path / kept.name).write_bytes(kept.read_bytes().replace(b'"bytes":7', b'"bytes":8', 1))
    examples = Examples(registry, tmp_path, now_ms())
    for row in read_rows(path, SHAPES["text"], under(attestation)):
        assert GATE.admit(made(examples, row)).reasons == (Reason.CONTENT_OUT_OF_SCOPE,)
    assert list(examples.problems) == [attestation]


def test_manifests_are_read_once_and_forgotten_when_there_are_too_many(home, registry, attested, monkeypatch):
    read = []
    real = making._read
    monkeypatch.setattr(making, "_read", lambda file, root: read.append(root) or real(file, root))
    examples = Examples(registry, home.path / "manifests", now_ms())
    for kind in ("text", "chat", "text", "chat"):
        path, attestation = attested[kind]
        for row in read_rows(path, SHAPES[kind], under(attestation)):
            assert made(examples, row).membership is not None
    assert len(read) == len(set(read)) == 2 and all(isinstance(root, ManifestRoot) for root in read)
    monkeypatch.setattr(making, "KEPT_ENTRIES_MAX", 10)
    examples = Examples(registry, home.path / "manifests", now_ms())
    for kind in ("text", "chat", "text"):
        path, attestation = attested[kind]
        assert made(examples, next(read_rows(path, SHAPES[kind], under(attestation)))).membership is not None
    assert len(read) == 5
