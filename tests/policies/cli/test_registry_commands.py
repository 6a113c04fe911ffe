"""`licet source`, `attest` and `revoke` as a user runs them, on one home that grows."""

from __future__ import annotations

import base64
import hashlib
import json
import stat

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from licet.ledger import fsck
from licet.ledger.app import app
from licet.ledger.errors import LicetError
from licet.ledger.home import Home
from licet.ledger.keys import save_key
from licet.ledger.log import now_ms
from licet.ledger.note import SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.records import LicenceKind, PolicyAdopted, Recall
from licet.policies.attestation import attestation_id, sign_statement
from licet.policies.manifest import Manifest, holds
from licet.policies.registry import Registry
from licet.policies.rights import LicenceState
from tests.ledger.cli.command import licet
from tests.policies import signed

POLICY = signed.policy_text(tail='[authority.community]\nceiling = { "*" = 0.5 }\n')
OPEN = ("--kind", "open-licence", "--spdx", "MIT")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return Home.create(tmp_path_factory.mktemp("empty") / "home", "example.org/t")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a policy, and with ada and bob for sources."""
    made = Home.create(tmp_path_factory.mktemp("home") / "home", "example.org/t")
    with made.open_log("registry") as log:
        log.append(PolicyAdopted(signed.digest(POLICY), POLICY, "operator", now_ms()))
    for name in ("ada", "bob"):
        added = run(made, "source", "add", name, "--display-name", name.title(), "--authority", "publisher", "--json")
        assert added.json["source"] == name
    return made


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("content") / "text.txt"
    path.write_text("A text.\n")
    return path


def run(home, *arguments, code=0, **environment):
    done = licet(*arguments, home=home.path, **environment)
    assert done.code == code, done.out + done.err
    return done


def refused(home, *arguments, code, said):
    """Run a command that must fail, in this process, which is faster; the size of the registry's log after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICET_HOME", str(home.path))
        with pytest.raises(LicetError) as error:
            app([str(argument) for argument in arguments], standalone_mode=False)
    assert error.value.exit_code == code and said in str(error.value), error.value
    with LogReader.open(home.log("registry")) as log:
        return log.size


def registry_of(home):
    log = LogReader.open(home.log("registry"))
    return Registry.read(log)


# -- sources


def test_without_a_policy_no_source_can_be_added(empty):
    added = ("source", "add", "ada", "--display-name", "Ada", "--authority", "publisher")
    assert refused(empty, *added, code=1, said="licet policy adopt") == 1
    assert not (empty.path / "keys" / "sources").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("ada", "--authority", "publisher"), "already", id="an id that exists"),
        pytest.param(("eve", "--authority", "emperor"), "community, publisher", id="a class that is not known"),
        pytest.param(("../eve", "--authority", "publisher"), "cannot be the id", id="a path for an id"),
        pytest.param(("eve", "--authority", "publisher", "--key", "none.key"), "no file", id="a key that is not there"),
    ],
)
def test_sources_that_cannot_be_added(home, arguments, said):
    size = registry_of(home).size
    assert refused(home, "source", "add", *arguments, "--display-name", "X", code=2, said=said) == size
    assert not (home.path / "keys" / "sources" / "eve.key").exists()


def test_a_source_has_a_key_that_others_cannot_read(home):
    place = home.path / "keys" / "sources"
    assert stat.S_IMODE((place / "ada.key").stat().st_mode) == 0o600 and stat.S_IMODE(place.stat().st_mode) == 0o700
    listed = run(home, "source", "list", "--json").json
    assert [one["source"] for one in listed["sources"]][:2] == ["ada", "bob"] and listed["problems"] == []


def test_a_source_keeps_its_key_to_itself(home, tmp_path, text):
    key = SigningKey.generate("cid.example")
    public, private = tmp_path / "cid.pub", tmp_path / "cid.key"
    public.write_text(f"{key.verifier}\n")
    save_key(private, key)
    added = ("source", "add", "cid", "--display-name", "Cid", "--authority", "community", "--key", public)
    assert run(home, *added, "--json").json["verifier_key"] == str(key.verifier)
    refused(home, "attest", text, "--source", "cid", *OPEN, code=2, said="--key")
    done = run(home, "attest", text, "--source", "cid", *OPEN, "--key", private, "--json")
    assert done.json["source"] == "cid"


def test_a_source_signs_with_a_tool_of_its_own(home, tmp_path):
    """What it signed elsewhere, in another spelling, is taken in; what was altered since is not."""
    key = SigningKey.generate("dora.example")
    public, signed_elsewhere = tmp_path / "dora.pub", tmp_path / "dora.json"
    public.write_text(f"{key.verifier}\n")
    run(home, "source", "add", "dora", "--display-name", "Dora", "--authority", "community", "--key", public)
    envelope = sign_statement(signed.statement("dora"), key)
    signed_elsewhere.write_text(json.dumps(json.loads(envelope), indent=2))
    done = run(home, "attest", "--envelope", signed_elsewhere, "--json").json
    assert done["attestation"] == attestation_id(envelope).hex()
    assert registry_of(home).attestation(attestation_id(envelope)).attestation.statement.source == "dora"
    refused(home, "attest", "--envelope", signed_elsewhere, "--source", "dora", code=2, said="Leave out")
    altered = json.loads(envelope)
    payload = base64.b64decode(altered["payload"]).replace(b"Apache-2.0", b"Apache-1.0")
    altered["payload"] = base64.b64encode(payload).decode()
    signed_elsewhere.write_text(json.dumps(altered))
    refused(home, "attest", "--envelope", signed_elsewhere, code=1, said="signed by")
    refused(home, "attest", "--envelope", tmp_path / "nowhere", code=2, said="nowhere")


def test_a_key_is_rotated(home, text):
    run(home, "source", "add", "dan", "--display-name", "Dan", "--authority", "community")
    before = registry_of(home).source("dan").key
    rotated = run(home, "source", "rotate", "dan", "--json").json
    after = registry_of(home).source("dan")
    assert after.registration.verifier_keys == (rotated["verifier_key"], before)
    assert run(home, "attest", text, "--source", "dan", *OPEN)
    (home.path / "keys" / "sources" / "dan.key").unlink()
    refused(home, "source", "rotate", "dan", code=2, said="no key file")
    assert run(home, "source", "rotate", "dan", "--lost", "--json").json["by"] == "example.org/t/registry"
    assert run(home, "attest", text, "--source", "dan", *OPEN)


def test_a_suspended_source_attests_nothing(home, text):
    run(home, "source", "suspend", "bob", "--reason", "under review")
    refused(home, "attest", text, "--source", "bob", *OPEN, code=1, said="suspended")
    refused(home, "source", "suspend", "bob", "--reason", "again", code=2, said="already")
    run(home, "source", "reinstate", "bob", "--reason", "cleared")
    assert run(home, "attest", text, "--source", "bob", *OPEN, "--json").json["source"] == "bob"


# -- attestations


def test_a_folder_is_attested_with_all_terms(home, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "sub" / "b.txt").write_text("two")
    (folder / "link").symlink_to("/etc/passwd")
    terms = ("--kind", "time-limited", "--spdx", "mit", "--terms-uri", "https://example.org/terms")
    dates = ("--from", "2026-01-01", "--until", "2027-06-01T12:00:00Z")
    where = ("--jurisdiction", "US", "--jurisdiction", "EU", "--band", "surface", "--skill", "coding")
    labels = ("--annotator", "eve", "--quality", "0.9", "--custody", "ada:written", "--recall", "verbatim")
    envelope = tmp_path / "envelope.json"
    done = run(
        home, "attest", folder, "--source", "ada", *terms, *dates, *where, *labels, "--output", envelope, "--json"
    )
    assert "link" in done.err and "no skill 'coding'" in done.err
    recorded = registry_of(home).find(done.json["attestation"])
    assert recorded.index == done.json["entry"] and recorded.attestation.envelope == envelope.read_bytes()
    statement = recorded.attestation.statement
    licence = statement.licence
    assert (licence.spdx, licence.jurisdictions, licence.bands) == ("MIT", ("US", "EU"), ("surface",))
    assert (licence.kind, licence.recall) == (LicenceKind.TIME_LIMITED, Recall.VERBATIM)
    assert licence.valid_from_ms == 1_767_225_600_000 and licence.valid_until_ms == 1_811_851_200_000
    assert statement.provenance.labels.quality == 0.9 and statement.provenance.custody[0].action == "written"
    manifest = Manifest.parse((home.path / "manifests" / f"{done.json['manifest']}.jsonl").read_bytes())
    membership = manifest.membership(manifest.index_of("sub/b.txt"))
    content = hashlib.sha256(b"two").digest()
    assert holds(membership, statement.manifest, content, 3) and not holds(membership, statement.manifest, content, 4)


def test_what_was_made_from_attested_content_says_so(home, text):
    first = run(home, "attest", text, "--source", "ada", *OPEN, "--json").json["attestation"]
    made = ("--kind", "synthetic", "--generator", "model@1.0", "--upstream", first[:12])
    second = run(home, "attest", text, "--source", "ada", *made, "--json").json["attestation"]
    registry = registry_of(home)
    statement = registry.find(second).attestation.statement
    assert statement.upstream == (bytes.fromhex(first),) and statement.generator.version == "1.0"
    assert len(registry.standing(bytes.fromhex(second), now_ms()).upstream) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(("--source", "eve", *OPEN), 1, "not registered", id="a source that is not registered"),
        pytest.param(("--source", "ada", *OPEN, "--until", "31.12.2026"), 2, "no date", id="a bad date"),
        pytest.param(("--source", "ada", "--kind", "time-limited"), 1, "validUntil", id="no end"),
        pytest.param(("--source", "ada", *OPEN, "--jurisdiction", "Mars"), 2, "jurisdiction", id="no jurisdiction"),
        pytest.param(("--source", "ada", *OPEN[:2], "--spdx", "NO-SUCH"), 2, "SPDX", id="no licence"),
        pytest.param(("--source", "ada", "--kind", "synthetic"), 1, "generator", id="no generator"),
        pytest.param(("--source", "ada", *OPEN, "--upstream", "00" * 32), 1, "no attestation", id="nothing upstream"),
        pytest.param(("--source", "ada"), 2, "--kind", id="no kind"),
    ],
)
def test_statements_that_are_refused(home, text, arguments, code, said):
    size = registry_of(home).size
    assert refused(home, "attest", text, *arguments, code=code, said=said) == size


def test_rows_that_are_refused(home, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "good"}) + "\n{broken\n")
    size = refused(home, "attest", rows, "--source", "ada", *OPEN, code=2, said="Line 2 of")
    table = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"body": ["x", "y"]}), table)
    assert refused(home, "attest", table, "--source", "ada", *OPEN, code=2, said="no column 'text'") == size
    done = run(home, "attest", table, "--source", "ada", *OPEN, "--column", "body", "--json")
    assert done.json["contents"] == 2


def test_a_log_that_another_process_holds_names_it(home, text):
    with home.open_log("registry"):
        done = run(home, "attest", text, "--source", "ada", *OPEN, "--json", code=2)
        assert done.json["error"] == "LockedError" and "process " in done.json["message"]
        assert run(home, "source", "list")  # reading is not kept from anybody


# -- revocations


def test_a_licence_is_revoked_once_or_earlier(home, text):
    digits = run(home, "attest", text, "--source", "ada", *OPEN, "--json").json["attestation"]
    refused(home, "revoke", "00000000", "--reason", "x", code=1, said="no attestation")
    refused(home, "revoke", digits[:4], "--reason", "x", code=2, said="no id")
    refused(home, "revoke", digits, "--reason", " ", code=2, said="A reason")
    refused(home, "revoke", digits, "--reason", "x", "--effective", "soon", code=2, said="no date")
    later = run(home, "revoke", digits[:16], "--reason", "sold", "--effective", "2030-01-01", "--json")
    assert later.json["effective"] == "2030-01-01T00:00:00Z" and later.json["by"] == "example.org/t/registry"
    refused(home, "revoke", digits, "--reason", "x", "--effective", "2030-01-01", code=1, said="revoked already")
    assert registry_of(home).licence_state(bytes.fromhex(digits), now_ms()) is LicenceState.ACTIVE
    run(home, "revoke", digits, "--reason", "sooner")
    assert registry_of(home).licence_state(bytes.fromhex(digits), now_ms()) is LicenceState.REVOKED
    refused(home, "revoke", digits, "--reason", "again", code=1, said="revoked already")


def test_only_those_with_the_right_revoke(home, text, tmp_path):
    digits = run(home, "attest", text, "--source", "ada", *OPEN, "--json").json["attestation"]
    stranger = tmp_path / "stranger.key"
    save_key(stranger, SigningKey.generate("ada"))
    refused(home, "revoke", digits, "--reason", "x", "--key", stranger, code=1, said="nobody's key")
    keys = home.path / "keys" / "sources"
    refused(home, "revoke", digits, "--reason", "x", "--key", keys / "bob.key", code=1, said="may not revoke")
    assert run(home, "revoke", digits, "--reason", "x", "--key", keys / "ada.key", "--json").json["by"] == "ada"
    assert len(registry_of(home).revocations(bytes.fromhex(digits))) == 1


# -- distributions, and the whole


def test_installed_distributions_are_attested_once(home):
    refused(home, "attest", "--from-distributions", "--authority", "emperor", code=2, said="no authority class")
    first = run(home, "attest", "--from-distributions", "--json").json
    assert len(first["attested"]) > 20 and first["known"] == 0 and first["refused"] == {}
    size = registry_of(home).size
    second = run(home, "attest", "--from-distributions", "--json").json
    assert second["attested"] == {} and second["sources"] == [] and second["known"] == len(first["attested"])
    registry = registry_of(home)
    assert registry.size == size
    licences = [registry.find(digits).attestation.statement.licence for digits in first["attested"].values()]
    assert all((one.kind is LicenceKind.OPEN) is (one.spdx is not None) for one in licences)


def test_what_the_commands_wrote_holds(home):
    assert registry_of(home).audit() == ()
    fsck.fsck(home.log("registry"), home.verifier_key("registry"))


def test_encrypted_keys_need_their_passphrase(tmp_path):
    made = Home.create(tmp_path / "home", "example.org/t", "secret")
    added = ("source", "add", "ada", "--display-name", "Ada", "--authority", "publisher")
    run(made, *added, code=2)
    run(made, "policy", "adopt", policy_file(tmp_path), LICET_PASSPHRASE="secret")
    run(made, *added, LICET_PASSPHRASE="secret")
    assert b"ENCRYPTED" in (made.path / "keys" / "sources" / "ada.key").read_bytes()


def policy_file(folder):
    path = folder / "policy.toml"
    path.write_text(POLICY)
    return path
