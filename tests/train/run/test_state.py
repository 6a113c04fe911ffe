"""What a run keeps to go on: whole after every kill, and nobody's but the run's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from licet.ledger import files
from licet.ledger.errors import FormatError, LicetError, SignatureError, StorageError, VerificationError
from licet.ledger.note import SigningKey
from licet.ledger.records import Digest
from licet.policies import dsse
from licet.train.run import state as run_state
from licet.train.run.state import RunState, load_state, save_state

KEY = SigningKey.generate("example.org/t/training")


def made(kind: str = "adamw", step: int = 4) -> RunState:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), betas=(0.8, 0.9))
        if kind == "adamw"
        else torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9 if kind == "momentum" else 0)
    )
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    facts = {"teaching": {"once": [[1, [-3, 0], "memorization"]]}, "score": 0.1 + 0.2}
    return RunState("run", 7, step, Digest(bytes([step]) * 32), optimizer.state_dict(), facts)


def loaded(folder: Path, run: str = "run", entry: int = 7) -> RunState:
    return load_state(folder, [KEY.verifier], run=run, entry=entry)


def same(a: Any, b: Any) -> bool:
    if torch.is_tensor(a):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("kind", ["adamw", "momentum", "sgd"])
def test_a_state_comes_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    state = made(kind)
    save_state(tmp_path, state, KEY)
    found = loaded(tmp_path)
    assert same(found.optimizer, state.optimizer)
    assert (found.run, found.entry, found.step, found.seal, found.facts) == ("run", 7, 4, state.seal, state.facts)


def test_only_the_last_is_kept(tmp_path: Path) -> None:
    for step in (2, 4):
        save_state(tmp_path, made(step=step), KEY)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state-4.safetensors", "state.json"]
    assert loaded(tmp_path).step == 4


@pytest.mark.parametrize("at", ["tensors", "words"])
def test_whatever_a_kill_leaves_is_one_of_the_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    save_state(tmp_path, made(step=2), KEY)

    class Killed(BaseException):
        pass

    def killed(path: Path, *_: object, **__: object) -> None:
        path.with_name(f".{path.name}.1.tmp").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if at == "words":
            patch.setattr(run_state, "write_whole", killed)
        else:
            patch.setattr(run_state, "save_file", lambda _, path: killed(tmp_path / "state-4.safetensors"))
        save_state(tmp_path, made(step=4), KEY)
    assert loaded(tmp_path).step == 2
    save_state(tmp_path, made(step=4), KEY)
    assert loaded(tmp_path).step == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state-4.safetensors", "state.json"]


def test_a_full_disk_leaves_the_state_before_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, made(step=2), KEY)

    def full(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left") as found:
        patch.setattr(run_state, "save_file", full)
        save_state(tmp_path, made(step=4), KEY)
    assert found.value.remedy
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state-2.safetensors", "state.json"]
    assert loaded(tmp_path).step == 2


def test_an_altered_byte_is_found(tmp_path: Path) -> None:
    save_state(tmp_path, made(), KEY)
    file = tmp_path / "state-4.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(VerificationError, match="is not what was kept"):
        loaded(tmp_path)
    file.unlink()
    with pytest.raises(VerificationError, match="is not what was kept"):
        loaded(tmp_path)


def test_altered_words_are_no_longer_signed(tmp_path: Path) -> None:
    save_state(tmp_path, made(), KEY)
    file = tmp_path / "state.json"
    envelope = dsse.read(file.read_bytes(), bytes_max=1 << 20)
    file.write_bytes(dsse.spell(replace(envelope, payload=envelope.payload.replace(b'"step":4', b'"step":0'))))
    with pytest.raises(SignatureError, match="was not signed"):
        loaded(tmp_path)


def test_another_key_or_nobody_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, made(), SigningKey.generate("example.org/t/training"))
    with pytest.raises(SignatureError, match="was not signed"):
        loaded(tmp_path)
    (tmp_path / "state.json").write_bytes(json.dumps({"step": 4}).encode())
    with pytest.raises(LicetError):
        loaded(tmp_path)


def test_what_was_signed_for_another_purpose_is_no_state(tmp_path: Path) -> None:
    save_state(tmp_path, made(), KEY)
    files.write_whole(tmp_path / "state.json", dsse.sign(b"{}", "application/vnd.licet.seal.v1+json", KEY))
    with pytest.raises(FormatError, match="does not hold the state of a run"):
        loaded(tmp_path)


@pytest.mark.parametrize(("run", "entry"), [("other", 7), ("run", 8)])
def test_the_state_of_another_run_is_refused(tmp_path: Path, run: str, entry: int) -> None:
    save_state(tmp_path, made(), KEY)
    with pytest.raises(VerificationError, match="is the state of the run run") as found:
        loaded(tmp_path, run, entry)
    assert "--fresh" in found.value.remedy
