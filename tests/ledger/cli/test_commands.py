"""Each command on a real home: what it prints, what it refuses, and its exit code."""

import random
import signal
import subprocess
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from licet.ledger.home import Home
from licet.ledger.note import Checkpoint, split_note
from licet.ledger.reader import LogReader
from licet.ledger.records import ExampleAdmitted
from tests.ledger.cli.command import LICET, licet
from tests.ledger.training import Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a small training run in it; not to be written to."""
    home = Home.create(tmp_path_factory.mktemp("cli") / "home", "example.org/acme")
    with home.open_log("training") as ledger:
        trainer = Trainer(ledger, random.Random(2))
        trainer.start(3)
        trainer.declare_some()
        trainer.admit(30)
        for _ in range(10):
            trainer.take_step(20)
        trainer.seal(1)
        ledger.checkpoint()
    return home


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "example.org/acme")


def an_example(home):
    with LogReader.open(home.log("training")) as log:
        return log.all_of(ExampleAdmitted)[0][1].example.hex()


def test_init_makes_a_home_and_prints_the_keys_to_publish(tmp_path):
    made = licet("init", tmp_path / "new", "--name", "example.org/x", "--json")
    assert made.code == 0
    assert made.json["verifier_keys"]["training"].startswith("example.org/x/training+")
    assert licet("config", "show", "--json", home=tmp_path / "new").json["name"]["value"] == "example.org/x"
    again = licet("init", tmp_path / "new")
    assert again.code == 2
    assert "what to do" in again.err


def test_init_encrypted(tmp_path):
    assert licet("init", tmp_path / "a", "--encrypt").code == 2
    assert licet("init", tmp_path / "b", "--encrypt", LICET_PASSPHRASE="x y z").code == 0
    assert licet("ledger", "checkpoint", "registry", home=tmp_path / "b").code == 2
    assert licet("ledger", "checkpoint", "registry", home=tmp_path / "b", LICET_PASSPHRASE="x y z").code == 0


def test_info_and_key(trained):
    facts = licet("ledger", "info", "training", "--json", home=trained.path).json
    assert facts["entries"] == facts["signed_up_to"]
    assert licet("ledger", "key", "training", "--json", home=trained.path).json == [
        str(trained.verifier_key("training"))
    ]
    assert facts["origin"] in licet("ledger", "info", "training", home=trained.path).out


def test_events(trained):
    lines = licet("ledger", "events", "training", "--limit", 3, home=trained.path).out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    admitted = licet("ledger", "events", "training", "--kind", "ExampleAdmitted", "--json", home=trained.path)
    assert len(admitted.out.splitlines()) == 30
    mine = licet("ledger", "events", "training", "--example", an_example(trained), home=trained.path)
    assert "GradientApplied" in mine.out
    wrong = licet("ledger", "events", "training", "--kind", "Nonsense", home=trained.path)
    assert (wrong.code, "ExampleAdmitted" in wrong.err) == (2, True)


def test_forward_and_reverse(trained):
    rows = licet("ledger", "forward", "training", "--source", "source 1", "--json", home=trained.path).json
    assert [row["block"] for row in rows] == ["layer.0", "layer.1", "layer.2"]
    ranking = licet("ledger", "reverse", "training", "layer.0", "layer.2", "--json", home=trained.path).json
    assert abs(sum(row["share"] for row in ranking) - 1) < 1e-9
    some = licet("ledger", "reverse", "training", "layer.0", "--top", 2, "--steps", "2:5", home=trained.path)
    assert len(some.out.splitlines()) == 3
    by_example = licet("ledger", "forward", "training", "--example", an_example(trained), home=trained.path)
    assert "layer.1" in by_example.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("forward", "training"), 2),
        (("forward", "training", "--source", "nobody"), 1),
        (("forward", "training", "--attestation", "zz"), 2),
        (("forward", "training", "--example", "00" * 32), 1),
        (("reverse", "training", "no.such.block"), 1),
        (("reverse", "training", "layer.0", "--steps", "5"), 2),
        (("reverse", "runtime", "layer.0"), 1),
        (("prove", "training", "999999"), 1),
        (("info", "/no/such/log"), 2),
        (("verify", "/no/such/log", "--key", "x"), 2),
        (("diff", "seal:none", "checkpoint:1"), 1),
        (("erase", "00" * 32, "--reason", "r"), 1),
        (("erase", "zz", "--reason", "r"), 2),
        (("re-anchor", "training"), 2),
    ],
)
def test_what_cannot_be_answered_has_a_code_and_a_message(trained, arguments, code):
    result = licet("ledger", *arguments, home=trained.path)
    assert result.code == code
    assert result.err.startswith("error: ")
    assert result.out == ""
    machine = licet("ledger", *arguments, "--json", home=trained.path)
    assert machine.code == code
    assert machine.json["message"]


def test_a_receipt_is_made_and_checked_offline(trained, tmp_path):
    key = str(trained.verifier_key("training"))
    assert licet("ledger", "prove", "training", 100, "-o", tmp_path / "receipt", home=trained.path).code == 0
    good = licet("receipt", "verify", tmp_path / "receipt", "--key", key, "--json")
    assert (good.code, good.json["index"], good.json["kind"]) == (0, 100, "GradientApplied")
    assert licet("receipt", "verify", tmp_path / "receipt", "--key", trained.verifier_key("registry")).code == 1
    raw = (tmp_path / "receipt").read_text()
    (tmp_path / "altered").write_text(raw.replace("index 100", "index 101"))
    assert licet("receipt", "verify", tmp_path / "altered", "--key", key).code == 1
    (tmp_path / "nonsense").write_text("nonsense")
    assert licet("receipt", "verify", tmp_path / "nonsense", "--key", key).code == 2
    bare = licet("ledger", "prove", "training", 100, "--bare", home=trained.path).out
    assert "extra" not in bare


def test_verify_wants_a_key_from_elsewhere(trained):
    assert licet("ledger", "verify", "training", home=trained.path).code == 0
    alone = licet("ledger", "verify", trained.log("training"))
    assert (alone.code, "--key" in alone.err) == (2, True)
    key = trained.public_key_file("training")
    assert licet("ledger", "verify", trained.log("training"), "--key", key, "--json").json["checked"][-1] == "indexes"
    assert licet("ledger", "verify", trained.log("training"), "--key", trained.public_key_file("runtime")).code == 1


def test_export_mirror_over_http_and_verify(trained, tmp_path):
    served, copy = tmp_path / "served", tmp_path / "copy"
    key = str(trained.verifier_key("training"))
    assert licet("ledger", "export", "training", served, home=trained.path).code == 0

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        made = licet("ledger", "mirror", url, copy, "--key", key, "--json")
        assert (made.code, made.json["new_entries"]) == (0, made.json["size"])
        assert licet("ledger", "verify", url, "--key", key).code == 0
    finally:
        server.shutdown()
    assert licet("ledger", "verify", copy, "--key", key).code == 0
    assert licet("ledger", "mirror", copy, tmp_path / "third", "--key", key).code == 0
    assert licet("ledger", "verify", tmp_path, "--key", key).code == 2
    assert licet("ledger", "restore", copy, tmp_path / "again", "--key", key).code == 0
    assert licet("ledger", "verify", tmp_path / "again", "--key", key, "--json").json["checked"][-1] == "indexes"
    assert licet("ledger", "restore", copy, tmp_path / "again", "--key", key).code == 2


def test_fsck_and_repair(home):
    assert licet("ledger", "fsck", "registry", home=home.path).code == 0
    assert "rebuilt" in licet("ledger", "fsck", "registry", "--repair", home=home.path).err


def test_diff(trained):
    with LogReader.open(trained.log("training")) as log:
        seal = digest_of_seal(log)
    change = licet("ledger", "diff", "checkpoint:3", f"seal:{seal}", "--json", home=trained.path).json
    assert len(change["examples"]["added"]) == 30
    assert "30 added" in licet("ledger", "diff", "checkpoint:3", f"seal:{seal}", home=trained.path).out


def digest_of_seal(log):
    from licet.ledger.records import CheckpointSealed

    return log.all_of(CheckpointSealed)[0][1].seal.hex()


def test_rotation(home):
    before = licet("ledger", "key", "registry", home=home.path).out
    assert licet("ledger", "rotate-key", "registry", "--reason", "yearly", home=home.path).code == 0
    after = licet("ledger", "key", "registry", home=home.path).out
    assert after.startswith(before)
    assert len(after.splitlines()) == 2
    assert licet("ledger", "checkpoint", "registry", home=home.path).code == 0
    assert licet("ledger", "verify", "registry", home=home.path).code == 0


def test_re_anchor(home, tmp_path):
    anchor = home.log("registry").with_name("registry.anchor")
    (tmp_path / "kept").write_bytes(anchor.read_bytes())
    anchor.unlink()
    refused = licet("ledger", "checkpoint", "registry", home=home.path)
    assert (refused.code, "re-anchor" in refused.err) == (2, True)
    assert licet("ledger", "re-anchor", "registry", "--checkpoint", tmp_path / "kept", home=home.path).code == 0
    assert licet("ledger", "checkpoint", "registry", home=home.path).code == 0
    anchor.unlink()
    assert licet("ledger", "re-anchor", "registry", "--accept-rollback", home=home.path).code == 0


def test_erase(home):
    commitment = home.content.put(b"private")
    assert licet("ledger", "erase", commitment.hex(), "--reason", "asked for", home=home.path).code == 0
    assert commitment not in home.content
    shown = licet("ledger", "events", "registry", "--kind", "ContentErased", home=home.path).out
    assert commitment.hex() in shown


def test_a_second_writer_is_told_who_the_first_is(home):
    with home.open_log("registry"):
        refused = licet("ledger", "checkpoint", "registry", home=home.path)
    assert refused.code == 2
    assert "process" in refused.err


def test_follow_shows_what_another_process_writes(home):
    command = [LICET, "ledger", "events", "registry", "--follow", "--home", str(home.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert "LogOpened" in follower.stdout.readline()
        commitment = home.content.put(b"x")
        assert licet("ledger", "erase", commitment.hex(), "--reason", "r", home=home.path).code == 0
        assert "ContentErased" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
    assert follower.returncode == 130


def test_witness(home, tmp_path):
    made = licet("ledger", "witness", "init", tmp_path / "w.key", "--name", "example.org/witness")
    witness_key = made.out.strip()
    command = [LICET, "ledger", "witness", "serve", "--key-file", tmp_path / "w.key", "--state", tmp_path / "state"]
    command += ["--log-key", str(home.verifier_key("registry")), "--port", "18642"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as server:
        try:
            assert "listens" in server.stderr.readline()
            url = "http://127.0.0.1:18642"
            for _ in range(50):
                result = licet("ledger", "witness", "submit", "registry", url, "--witness", witness_key, home=home.path)
                if result.code == 0:
                    break
                time.sleep(0.1)
            body, signatures = split_note(result.out.encode())
            assert Checkpoint.parse(body).origin == "example.org/acme/registry"
            assert [s.name for s in signatures] == ["example.org/acme/registry", "example.org/witness"]
            note, receipt = tmp_path / "note", tmp_path / "receipt"
            note.write_text(result.out)
            prove = ("ledger", "prove", "registry", 0, "-o", receipt)
            checked = ("receipt", "verify", receipt, "--key", home.public_key_file("registry"))
            checked += ("--witness", witness_key, "--witnesses-min", 1)
            assert licet(*prove, home=home.path).code == 0
            assert licet(*checked).code == 1
            assert licet(*prove, "--checkpoint", note, home=home.path).code == 0
            assert licet(*checked).code == 0
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0
