"""Seals: what is refused and named first, then what holds. Each tensor's every flip names its own block."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from licet.ledger import codec
from licet.ledger.errors import FormatError, LicetError, LimitError, SignatureError, StorageError
from licet.ledger.events import Events
from licet.ledger.home import Home
from licet.ledger.log import Ledger
from licet.ledger.note import Checkpoint as LogCheckpoint
from licet.ledger.note import SigningKey
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    CheckpointSealed,
    Determination,
    ExampleAdmitted,
    ProfileDeclared,
    RunStarted,
    Stage,
    Technique,
)
from licet.policies import dsse, strict_json
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.seal import PAYLOAD_TYPE, as_record, open_seal, sign_seal
from licet.train.seals.statement import (
    UNGATED,
    Claims,
    History,
    LedgerPoint,
    Role,
    RunPlace,
    SealError,
)
from licet.train.seals.verify import Fault, SealReport, verify_seal
from licet.train.seals.writer import Checkpoint, Companion, SealWriteError, checkpoint_of, write_seal

torch.set_num_threads(1)
KEY = SigningKey.generate("test/training")
OTHER = SigningKey.generate("test/other")
POINT = LedgerPoint.of(LogCheckpoint("test/training", 7, bytes(range(32))).sign([KEY]))


class Gate:
    """Blocks by the beginnings of names."""

    def __init__(self, model: nn.Module, **blocks: str | tuple[str, ...]) -> None:
        self._members = {
            block: [p for name, p in model.named_parameters() if name.startswith(begins)]
            for block, begins in blocks.items()
        }

    @property
    def block_names(self):
        return tuple(self._members)

    def block_of(self, parameter):
        for i, members in enumerate(self._members.values()):
            if any(parameter is member for member in members):
                return i
        raise SealError("This parameter is not one of the gate's.")


def claims(**how) -> Claims:
    return Claims(**{"model": "m", "label": "step-1", "step": 0, "claimed_ms": 0, "ledger": POINT, **how})


def plain_checkpoint(seed: int = 0, **changed: torch.Tensor) -> Checkpoint:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "low.a": torch.randn(3, 4, generator=generator),
        "low.b": torch.randn(2, generator=generator).to(torch.bfloat16),
        "high.a": torch.randn(4, 3, generator=generator).double(),
        "high.scale": torch.randn((), generator=generator),
        "count": torch.tensor([1, 2, 3]),
        **changed,
    }
    blocks = {"low": ("low.a", "low.b"), "high": ("high.a", "high.scale"), UNGATED: ("count",)}
    config = Companion(Role.CONFIG, lambda folder: (folder / "config.json").write_text("{}"))
    return Checkpoint(tensors, blocks, {"high.tied": "low.a"}, (config,))


@pytest.fixture
def sealed(tmp_path) -> Path:
    write_seal(tmp_path / "m" / "one", plain_checkpoint(), claims(), KEY)
    return tmp_path / "m" / "one"


def verify(directory: Path, **how) -> SealReport:
    return verify_seal(directory, [KEY.verifier], **how)


def faults(report: SealReport) -> list[tuple[Fault, str | None]]:
    return [(problem.fault, problem.block) for problem in report.problems]


def places(file: Path) -> dict[str, tuple[int, int]]:
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    return {n: tuple(8 + length + at for at in v["data_offsets"]) for n, v in header.items() if n != "__metadata__"}


def flip(file: Path, at: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(bytes(raw))


# ---- models -----------------------------------------------------------------------------------------------------


def tiny(kind: str) -> tuple[nn.Module, Gate]:
    import transformers as hf

    torch.manual_seed(0)
    if kind == "gpt2":
        model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=31, n_positions=16, n_embd=8, n_layer=2, n_head=2))
        blocks = {"embedding": ("transformer.wte", "transformer.wpe", "transformer.ln_f")}
        return model, Gate(model, **blocks, low="transformer.h.0", high="transformer.h.1")
    config = hf.LlamaConfig(
        vocab_size=31,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=kind == "llama-tied",
    )
    model = hf.LlamaForCausalLM(config)
    blocks = {"embedding": ("model.embed_tokens", "model.norm"), "low": "model.layers.0", "high": "model.layers.1"}
    return model, Gate(model, **blocks, **({} if kind == "llama-tied" else {"head": "lm_head"}))


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
def test_a_models_seal_names_the_block_of_each_byte(kind, tmp_path):
    model, gate = tiny(kind)
    directory = tmp_path / "seal"
    seal = write_seal(directory, checkpoint_of(model, gate), claims(), KEY)
    assert verify(directory).is_good
    assert (
        dict(seal.tied)
        == {
            "llama": {},
            "llama-tied": {"lm_head.weight": "model.embed_tokens.weight"},
            "gpt2": {"lm_head.weight": "transformer.wte.weight"},
        }[kind]
    )
    of = {tensor.name: block.name for block in seal.blocks for tensor in block.tensors}
    assert set(of) == {name for name, _ in model.named_parameters()}
    weights = directory / "model.safetensors"
    for name, (start, end) in places(weights).items():
        for at in (start, (start + end) // 2, end - 1):
            flip(weights, at)
            report = verify(directory)
            assert faults(report) == [(Fault.TENSOR, of[name])]
            assert name in report.problems[0].text
            assert [b.name for b in report.blocks if not b.intact] == [of[name]]
            flip(weights, at)
    assert verify(directory).is_good


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
def test_a_sealed_model_loads_as_it_was(kind, tmp_path):
    from transformers import AutoModelForCausalLM

    model, gate = tiny(kind)
    write_seal(tmp_path / "seal", checkpoint_of(model, gate), claims(), KEY, shard_bytes_max=2000)
    assert len(list((tmp_path / "seal").glob("*.safetensors"))) > 1
    assert verify(tmp_path / "seal").is_good
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "seal").eval()
    ids = torch.arange(12)[None]
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_sharding_and_aliases_do_not_change_the_digests(tmp_path):
    model, gate = tiny("gpt2")
    one = write_seal(tmp_path / "one", checkpoint_of(model, gate), claims(), KEY)
    many = write_seal(tmp_path / "many", checkpoint_of(nn.DataParallel(model), gate), claims(), KEY, shard_bytes_max=9)
    assert one.blocks == many.blocks
    assert one.config_digest == many.config_digest
    assert one.files != many.files


# ---- hostile folders --------------------------------------------------------------------------------------------


def rewrite(directory: Path, **tensors: torch.Tensor | None) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(directory / "model.safetensors")
    found.update({name.replace("_", "."): value for name, value in tensors.items() if value is not None})
    for name in [name.replace("_", ".") for name, value in tensors.items() if value is None]:
        del found[name]
    save_file(found, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "expected", "said"),
    [
        ({"low_a": None}, (Fault.TENSOR, "low"), "missing"),
        ({"extra": torch.zeros(1)}, (Fault.TENSOR, None), "extra is not in the seal"),
        ({"low_a": torch.zeros(3, 4).half()}, (Fault.TENSOR, "low"), r"F16 \[3, 4\], and was sealed as F32"),
        ({"low_a": torch.zeros(4, 3)}, (Fault.TENSOR, "low"), "sealed as"),
        ({"high_a": torch.zeros(4, 3).double()}, (Fault.TENSOR, "high"), "changed after"),
        ({"high_tied": torch.zeros(3, 4)}, (Fault.TENSOR, None), "high.tied"),
    ],
    ids=["missing", "extra", "dtype", "shape", "values", "untied"],
)
def test_other_tensors_are_named(sealed, change, expected, said):
    rewrite(sealed, **change)
    report = verify(sealed)
    assert expected in faults(report)
    with pytest.raises(SealError):
        report.check()
    import re

    assert any(re.search(said, problem.text) for problem in report.problems)


def test_metadata_in_the_header_is_sealed_too(sealed):
    from safetensors.torch import load_file, save_file

    save_file(load_file(sealed / "model.safetensors"), sealed / "model.safetensors", metadata={"format": "xx"})
    assert faults(verify(sealed)) == [(Fault.FILE, None)]


@pytest.mark.parametrize(
    "spoil",
    {
        "truncated": lambda f: f.write_bytes(f.read_bytes()[:-1]),
        "longer": lambda f: f.write_bytes(f.read_bytes() + b"\0"),
        "empty": lambda f: f.write_bytes(b""),
        "huge header": lambda f: f.write_bytes(struct.pack("<Q", 2**63) + f.read_bytes()[8:]),
        "no json": lambda f: f.write_bytes(struct.pack("<Q", 4) + b"{{{{"),
        "a list": lambda f: f.write_bytes(struct.pack("<Q", 2) + b"[]"),
        "gone": lambda f: f.unlink(),
        "a folder": lambda f: (f.unlink(), f.mkdir()),
        "a pipe": lambda f: (f.unlink(), os.mkfifo(f)),
        "a link to itself": lambda f: (f.rename(f.parent.parent / "w"), f.symlink_to(f.parent.parent / "w")),
    }.items(),
    ids=lambda item: item[0],
)
def test_weights_that_are_no_plain_whole_file_are_refused(sealed, spoil):
    spoil[1](sealed / "model.safetensors")
    report = verify(sealed)
    assert not report.is_good
    assert (Fault.FILE, None) in faults(report)
    assert not any(block.intact for block in report.blocks if block.name == "low")


HEADERS = {
    "a hole": {"a": ("F32", [1], [0, 4]), "b": ("F32", [1], [8, 12])},
    "an overlap": {"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])},
    "negative": {"a": ("F32", [1], [-4, 0]), "b": ("F32", [3], [0, 12])},
    "too long for its shape": {"a": ("F32", [1], [0, 12])},
    "unknown type": {"a": ("F3", [3], [0, 12])},
    "a fractional shape": {"a": ("F32", [3.0], [0, 12])},
    "beyond the end": {"a": ("F32", [4], [0, 16])},
}


@pytest.mark.parametrize("tensors", HEADERS.values(), ids=HEADERS.keys())
def test_headers_that_lie_are_refused(tmp_path, tensors):
    from licet.train.seals.tensor_file import read_header

    values = {name: {"dtype": t, "shape": s, "data_offsets": o} for name, (t, s, o) in tensors.items()}
    raw = json.dumps(values).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(12))
    with pytest.raises(FormatError):
        read_header(tmp_path / "w")


def test_a_name_twice_in_a_header_is_refused(tmp_path):
    from licet.train.seals.tensor_file import read_header

    one = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    raw = f"{{{one},{one}}}".encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0")
    with pytest.raises(FormatError, match="twice"):
        read_header(tmp_path / "w")


@pytest.mark.parametrize("name", ["config.json", "extra.bin", ".hidden", "modeling.py"])
def test_files_that_the_seal_does_not_know_are_named(sealed, name):
    (sealed / name).write_text('{"auto_map": {}}')
    report = verify(sealed)
    assert faults(report) == [(Fault.FILE, None)]
    assert name in report.problems[0].text


def test_swapped_files_are_named(tmp_path):
    checkpoint = plain_checkpoint()
    two = [Companion(Role.OTHER, lambda f: ((f / "a").write_text("1"), (f / "b").write_text("2")))]
    write_seal(tmp_path / "s", replace(checkpoint, companions=tuple(two)), claims(), KEY)
    (tmp_path / "s/a").rename(tmp_path / "t")
    (tmp_path / "s/b").rename(tmp_path / "s/a")
    (tmp_path / "t").rename(tmp_path / "s/b")
    assert len(verify(tmp_path / "s").problems) == 2


def test_a_linked_companion_is_refused(sealed, tmp_path):
    (sealed / "config.json").rename(tmp_path / "c")
    (sealed / "config.json").symlink_to(tmp_path / "c")
    assert faults(verify(sealed)) == [(Fault.FILE, None)]


# ---- hostile seals ----------------------------------------------------------------------------------------------


def test_a_seal_of_another_key_is_refused(sealed):
    with pytest.raises(SignatureError, match=r"test/training"):
        verify_seal(sealed, [OTHER.verifier])
    with pytest.raises(SignatureError):
        verify_seal(sealed, [])


def test_a_seal_of_100_mb_is_not_read(sealed):
    with (sealed / "seal.json").open("r+b") as file:
        file.truncate(100 << 20)
    with pytest.raises(LimitError):
        verify(sealed)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"{" * 100_000, b"\xff", b'{"payload":1}'], ids=range(6))
def test_what_is_no_seal_is_refused(sealed, raw):
    (sealed / "seal.json").write_bytes(raw)
    with pytest.raises(LicetError):
        verify(sealed)


def test_a_missing_or_linked_seal_is_refused(sealed, tmp_path):
    (sealed / "seal.json").rename(tmp_path / "x")
    with pytest.raises(LicetError, match="no file"):
        verify(sealed)
    (sealed / "seal.json").symlink_to(tmp_path / "x")
    with pytest.raises(StorageError):
        verify(sealed)


def statement(sealed: Path) -> dict:
    return json.loads(dsse.read((sealed / "seal.json").read_bytes(), bytes_max=1 << 20).payload)


def change(place: str, value: object):
    """A change of one field; `blocks.0.name` goes into lists and objects; None removes."""

    def apply(said: dict) -> None:
        *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        for part in path:
            said = said[part]
        if value is None:
            del said[last]
        else:
            said[last] = value

    return apply


SPOILED = {
    "traversal": change("files.1.name", "../w.safetensors"),
    "absolute": change("files.1.name", "/etc/passwd"),
    "hidden": change("files.1.name", ".w"),
    "a file twice": change("files.1.name", "CONFIG.json"),
    "a role": change("files.1.role", "payload"),
    "a version": change("version", 2),
    "no blocks": change("blocks", None),
    "a null": lambda said: said.update(parent=None),
    "a further field": change("note", "x"),
    "a digest": change("blocks.0.sha256", "0" * 64),
    "a capital digest": change("files.0.sha256", "A" * 64),
    "a tensor's digest": change("blocks.0.tensors.0.sha256", "0" * 64),
    "a type": change("blocks.0.tensors.0.dtype", "F33"),
    "a shape": change("blocks.0.tensors.0.shape", [-1]),
    "tied to nothing": change("tied", {"a": "b"}),
    "tied to itself": change("tied", {"low.a": "low.a"}),
    "a negative step": change("step", -1),
    "true for a number": change("step", True),
    "a history": change("history", "none"),
    "recorded nowhere": change("ledger", None),
    "a ledger that is none": change("ledger", "x"),
    "outside with a parent": lambda said: said.update(history="outside", parent="0" * 64),
    "a control character": change("label", "a\x1b[2J"),
    "proposals twice": change("proposals", ["0" * 64] * 2),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_a_signed_statement_that_says_nonsense_is_refused(sealed, spoil):
    said = statement(sealed)
    spoil(said)
    (sealed / "seal.json").write_bytes(dsse.sign(strict_json.spell(said), PAYLOAD_TYPE, KEY))
    with pytest.raises(FormatError):
        verify(sealed)


def test_another_spelling_or_another_type_is_refused(sealed):
    said = statement(sealed)
    spaced = json.dumps(said, sort_keys=True).encode()
    with pytest.raises(FormatError, match="spelling"):
        open_seal(dsse.sign(spaced, PAYLOAD_TYPE, KEY), [KEY.verifier])
    with pytest.raises(FormatError, match="not a seal"):
        open_seal(dsse.sign(strict_json.spell(said), "application/vnd.in-toto+json", KEY), [KEY.verifier])


def test_an_unsigned_statement_is_not_even_parsed(sealed, monkeypatch):
    envelope = dsse.sign(b"{{{", PAYLOAD_TYPE, OTHER)
    with pytest.raises(SignatureError):
        open_seal(envelope, [KEY.verifier])


def test_signing_again_does_not_change_the_name(sealed):
    seal = open_seal((sealed / "seal.json").read_bytes(), [KEY.verifier])
    again = open_seal(sign_seal(seal, OTHER), [KEY.verifier, OTHER.verifier])
    assert again.id == seal.id
    assert again == seal


def test_a_ledger_checkpoint_of_another_key_is_a_problem(tmp_path):
    note = LogCheckpoint("test/training", 7, bytes(32)).sign([OTHER])
    write_seal(tmp_path / "s", plain_checkpoint(), claims(ledger=LedgerPoint.of(note)), KEY)
    assert faults(verify(tmp_path / "s")) == [(Fault.LEDGER, None)]


# ---- parents and authority --------------------------------------------------------------------------------------


class Told:
    """A history that is told."""

    def __init__(self, *blocks: str, knows: bool = True, holds: bool | None = True, elsewhere: bool = False) -> None:
        self.blocks, self.knows, self.held, self.elsewhere = frozenset(blocks), knows, holds, elsewhere

    def holds(self, point):
        return self.held

    def blocks_written(self, child, parent):
        return self.blocks if self.knows else None

    def began_elsewhere(self, seal):
        return self.elsewhere


def family(folder: Path, *checkpoints: Checkpoint, **first) -> Path:
    """Seals, each the parent of the next; the folder of the last."""
    parent = None
    for i, checkpoint in enumerate(checkpoints):
        how = first if i == 0 else {"parent": parent, "label": f"step-{i}", "step": i}
        parent = write_seal(folder / str(i), checkpoint, claims(**how), KEY).id
    return folder / str(len(checkpoints) - 1)


CHANGED = {"low.a": torch.zeros(3, 4), "high.scale": torch.zeros(())}


def test_the_block_that_changed_without_authority_is_named(tmp_path):
    child = family(tmp_path, plain_checkpoint(), plain_checkpoint(**CHANGED))
    report = verify(child, parents=seals_in(tmp_path), history=Told("low"))
    assert faults(report) == [(Fault.UNAUTHORISED, "high")]
    assert "high.scale" in report.problems[0].text
    assert [(b.name, b.changed) for b in report.blocks] == [("low", True), ("high", True), (UNGATED, False)]
    assert verify(child, parents=seals_in(tmp_path), history=Told("low", "high")).is_good


def test_the_walk_goes_to_the_base(tmp_path):
    """The change lies two seals back, and the weights of the forebears are not needed."""
    leaf = family(tmp_path, plain_checkpoint(), *[plain_checkpoint(**CHANGED)] * 3)
    for i in range(3):
        (tmp_path / str(i) / "model.safetensors").unlink()
    report = verify(leaf, parents=seals_in(tmp_path), history=Told())
    assert faults(report) == [(Fault.UNAUTHORISED, "low"), (Fault.UNAUTHORISED, "high")]
    assert "step-1 to step-1" in report.problems[0].text
    assert len(report.chain) == 4
    assert report.history_known


def test_without_a_log_authority_is_not_claimed(tmp_path):
    report = verify(family(tmp_path, plain_checkpoint(), plain_checkpoint(**CHANGED)), parents=seals_in(tmp_path))
    assert report.is_good
    assert not report.authority_checked


def test_a_log_that_does_not_know_the_seal_gives_no_authority(tmp_path):
    child = family(tmp_path, plain_checkpoint(), plain_checkpoint(**CHANGED))
    report = verify(child, parents=seals_in(tmp_path), history=Told("low", "high", knows=False))
    assert faults(report) == [(Fault.UNAUTHORISED, None)]


def test_a_log_that_was_rolled_back_is_named(sealed):
    assert faults(verify(sealed, history=Told(holds=False))) == [(Fault.LEDGER, None)]
    assert verify(sealed, history=Told(holds=None)).is_good


def test_a_parent_that_was_left_out_is_named(sealed):
    assert faults(verify(sealed, history=Told(elsewhere=True))) == [(Fault.CHAIN, None)]


def test_ungated_tensors_never_have_authority(tmp_path):
    child = family(tmp_path, plain_checkpoint(), plain_checkpoint(count=torch.tensor([1, 2, 4])))
    report = verify(child, parents=seals_in(tmp_path), history=Told("low", "high"))
    assert faults(report) == [(Fault.UNAUTHORISED, UNGATED)]


@pytest.mark.parametrize(
    ("before", "after", "block"),
    [
        ({}, {"low.a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).half()}, "low"),
        ({"low.a": torch.zeros(12)}, {"low.a": torch.zeros(3, 4)}, "low"),
    ],
    ids=["dtype", "shape"],
)
def test_another_type_or_shape_is_a_change(tmp_path, before, after, block):
    child = family(tmp_path, plain_checkpoint(**before), plain_checkpoint(**after))
    report = verify(child, parents=seals_in(tmp_path), history=Told())
    assert (Fault.UNAUTHORISED, block) in faults(report)


def test_tensors_that_come_and_go_are_changes(tmp_path):
    whole = plain_checkpoint()
    part = replace(
        whole,
        tensors={n: t for n, t in whole.tensors.items() if n != "high.scale"},
        blocks={**whole.blocks, "high": ("high.a",)},
    )
    gone = verify(family(tmp_path / "a", whole, part), parents=seals_in(tmp_path / "a"), history=Told())
    new = verify(family(tmp_path / "b", part, whole), parents=seals_in(tmp_path / "b"), history=Told())
    assert faults(gone) == faults(new) == [(Fault.UNAUTHORISED, "high")]


def test_other_blocks_over_the_same_tensors_are_no_change(tmp_path):
    whole = plain_checkpoint()
    recut = replace(whole, blocks={"all": tuple(n for n in whole.tensors if n != "count"), UNGATED: ("count",)})
    child = family(tmp_path, whole, recut)
    assert verify(child, parents=seals_in(tmp_path), history=Told()).is_good


def test_untying_without_a_change_is_none_and_with_one_is_named(tmp_path):
    whole = plain_checkpoint()
    for i, (value, expected) in enumerate(
        [(whole.tensors["low.a"].clone(), []), (torch.zeros(3, 4), [(Fault.UNAUTHORISED, "high")])]
    ):
        untied = replace(
            whole,
            tensors={**whole.tensors, "high.tied": value},
            blocks={**whole.blocks, "high": ("high.a", "high.scale", "high.tied")},
            tied={},
        )
        child = family(tmp_path / str(i), whole, untied)
        assert faults(verify(child, parents=seals_in(tmp_path / str(i)), history=Told())) == expected
        back = family(tmp_path / f"back {i}", untied, whole)
        report = verify(back, parents=seals_in(tmp_path / f"back {i}"), history=Told())
        assert bool(report.problems) == bool(expected)


def test_an_outside_base_is_said_to_be_unknown(tmp_path):
    child = family(tmp_path, plain_checkpoint(), plain_checkpoint(**CHANGED), history=History.OUTSIDE, ledger=None)
    report = verify(child, parents=seals_in(tmp_path), history=Told("low", "high"))
    assert report.is_good
    assert not report.history_known
    base = verify(tmp_path / "0")
    assert base.is_good
    assert not base.history_known


def test_a_parent_that_is_missing_or_another_breaks_the_chain(tmp_path):
    child = family(tmp_path, plain_checkpoint(), plain_checkpoint(seed=1))
    other = write_seal(tmp_path / "x" / "y", plain_checkpoint(seed=2), claims(), OTHER)
    lookups = {
        "none": None,
        "missing": lambda wanted: None,
        "garbage": lambda wanted: b"{}",
        "another": lambda wanted: (child / "seal.json").read_bytes(),
        "of another key": lambda wanted: sign_seal(other, OTHER),
    }
    for parents in lookups.values():
        report = verify(child, parents=parents)
        assert faults(report) == [(Fault.CHAIN, None)]
        assert not report.history_known


def test_a_ledger_that_shrinks_from_parent_to_child_is_named(tmp_path):
    longer = LedgerPoint.of(LogCheckpoint("test/training", 9, bytes(32)).sign([KEY]))
    child = family(tmp_path, plain_checkpoint(), plain_checkpoint(), ledger=longer)
    assert faults(verify(child, parents=seals_in(tmp_path))) == [(Fault.CHAIN, None)]


# ---- with a real log --------------------------------------------------------------------------------------------


class Training:
    """A log to which a run applies one example, at some levels."""

    def __init__(self, log: Ledger) -> None:
        self.log = log

    def run(self, name: str, parent: bytes | None = None, blocks: tuple[str, ...] = ("low", "high")) -> RunPlace:
        stated = tuple(Block(block, (), 1) for block in blocks)
        at = self.log.append(RunStarted(name, "m", stated, Technique.SCALE, Stage.ENFORCE, None, parent, None, 0))
        return RunPlace(name, at)

    def apply(self, run: RunPlace, *levels: int, step: int = 0) -> LedgerPoint:
        attestation = self.log.append(AttestationMentioned(bytes(32), "source"))
        profile = self.log.append(ProfileDeclared(run.entry, levels, ("rule",) * len(levels)))
        example = self.log.append(
            ExampleAdmitted(
                *(bytes(32), bytes(32), attestation, None, profile, Determination.ADMITTED, (), "low", 1.0, 0, (), None)
            )
        )
        self.log.commit()
        refs = {"example": example, "attestation": attestation, "profile": profile}
        norms = np.ones((1, len(levels)))
        self.log.append_events(
            Events.of(**{k: np.array([v]) for k, v in refs.items()}, step=step, slot=np.zeros(1, int), norms_raw=norms)
        )
        self.log.commit()
        return LedgerPoint.of(self.log.checkpoint())


def test_the_log_says_which_blocks_were_written_between_two_seals(tmp_path):
    with Ledger.create(tmp_path / "log", KEY) as log:
        training, history = Training(log), LogHistory(log)
        place = training.run("one")
        base = write_seal(
            tmp_path / "m/a", plain_checkpoint(), claims(ledger=training.apply(place, 15, 15), run=place), KEY
        )
        point = training.apply(place, -3, 0, step=1)  # unlearning is writing; zero is not
        how = {"ledger": point, "run": place, "parent": base.id, "step": 1}
        write_seal(tmp_path / "m/b", plain_checkpoint(**CHANGED), claims(**how), KEY)
        report = verify(tmp_path / "m/b", parents=seals_in(tmp_path / "m"), history=history)
        assert faults(report) == [(Fault.UNAUTHORISED, "high")]
        write_seal(tmp_path / "m/c", plain_checkpoint(**{"low.a": CHANGED["low.a"]}), claims(**how, label="c"), KEY)
        assert verify(tmp_path / "m/c", parents=seals_in(tmp_path / "m"), history=history).is_good

        wrong = training.run("two", parent=bytes(32))
        how = {"ledger": training.apply(wrong, 15, 15), "run": wrong, "parent": base.id}
        write_seal(tmp_path / "m/d", plain_checkpoint(**CHANGED), claims(**how, label="d"), KEY)
        assert len(verify(tmp_path / "m/d", parents=seals_in(tmp_path / "m"), history=history).problems) == 2

        right = training.run("three", parent=base.id)
        how = {"ledger": training.apply(right, 1, 1), "run": right, "parent": base.id}
        write_seal(tmp_path / "m/e", plain_checkpoint(**CHANGED), claims(**how, label="e"), KEY)
        assert verify(tmp_path / "m/e", parents=seals_in(tmp_path / "m"), history=history).is_good
        hidden = claims(**{**how, "parent": None}, label="f")
        write_seal(tmp_path / "m/f", plain_checkpoint(**CHANGED), hidden, KEY)
        assert faults(verify(tmp_path / "m/f", history=history)) == [(Fault.CHAIN, None)]


def test_a_point_that_the_log_does_not_hold_is_a_problem(tmp_path):
    with Ledger.create(tmp_path / "log", KEY) as log:
        for size in (log.size, 99):
            note = LogCheckpoint(log.origin, size, bytes(32)).sign([KEY])
            write_seal(tmp_path / str(size), plain_checkpoint(), claims(ledger=LedgerPoint.of(note)), KEY)
            assert faults(verify(tmp_path / str(size), history=LogHistory(log))) == [(Fault.LEDGER, None)]


def test_a_seal_becomes_an_entry(tmp_path):
    with Ledger.create(tmp_path / "log", KEY) as log:
        training = Training(log)
        place = training.run("one")
        point = training.apply(place, 15, 0)
        seal = write_seal(
            tmp_path / "s", plain_checkpoint(), claims(ledger=point, run=place, step=1, proposals=(bytes(32),)), KEY
        )
        record = as_record(seal)
        assert codec.decode(codec.encode(record)) == record
        log.append(record)
        log.commit()
        ((_, found),) = log.find(CheckpointSealed, seal.id)
        assert (found.log_size, found.log_root, found.run, found.step) == (point.size, point.root, place.entry, 1)
        assert [(b.name, b.digest) for b in found.blocks] == [(b.name, b.digest) for b in seal.blocks]
        with pytest.raises(FormatError):
            as_record(seal, policy=0)
    outside = write_seal(tmp_path / "o", plain_checkpoint(), claims(history=History.OUTSIDE, ledger=None), KEY)
    assert as_record(outside).log_size == 0


# ---- writing ----------------------------------------------------------------------------------------------------


def test_a_seal_is_never_written_over(sealed):
    before = (sealed / "seal.json").read_bytes()
    with pytest.raises(SealWriteError, match="already exists"):
        write_seal(sealed, plain_checkpoint(seed=1), claims(), KEY)
    assert (sealed / "seal.json").read_bytes() == before


@pytest.mark.parametrize(
    "blocks",
    [
        {"low": ("low.a",)},
        {"low": ("low.a", "low.b"), "high": ("low.a", "high.a", "high.scale"), UNGATED: ("count",)},
        {"low": ("low.a", "low.b"), "high": ("high.a", "high.scale", "nose"), UNGATED: ("count",)},
    ],
    ids=["in none", "in two", "not there"],
)
def test_a_tensor_that_is_not_in_exactly_one_block_is_not_sealed(tmp_path, blocks):
    with pytest.raises(SealWriteError):
        write_seal(tmp_path / "s", replace(plain_checkpoint(), blocks=blocks), claims(), KEY)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_lie_beside_a_seal_are_refused(tmp_path):
    def folder(at: Path) -> None:
        (at / "templates").mkdir()

    for save in (folder, lambda at: (at / ".x").touch(), lambda at: (at / "seal.json").touch()):
        with pytest.raises(SealWriteError):
            write_seal(
                tmp_path / "s", replace(plain_checkpoint(), companions=(Companion(Role.OTHER, save),)), claims(), KEY
            )
    assert not list(tmp_path.iterdir())


def test_buffers_and_parameters_of_no_block_are_ungated(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    checkpoint = checkpoint_of(model, Gate(model, low="0", norm="1"))
    assert checkpoint.blocks[UNGATED] == (
        "1.running_mean", "1.running_var", "1.num_batches_tracked", "2.weight", "2.bias",
    )  # fmt: skip
    write_seal(tmp_path / "s", checkpoint, claims(), KEY)
    assert verify(tmp_path / "s").is_good


def test_a_view_of_a_larger_memory_is_stored_alone(tmp_path):
    flat = torch.randn(100)
    checkpoint = Checkpoint({"a": flat[:10].view(2, 5), "b": flat[10:40].view(5, 6).t()}, {"x": ("a", "b")}, {})
    write_seal(tmp_path / "s", checkpoint, claims(), KEY)
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "s/model.safetensors")["b"], flat[10:40].view(5, 6).t())
    assert (tmp_path / "s/model.safetensors").stat().st_size < 500


CHILD = """
import os, signal, sys, resource
from pathlib import Path
from tests.train.seals import test_seal as t
from licet.train.seals import writer as seal_writer
directory, where = Path(sys.argv[1]), sys.argv[2]
real = getattr(seal_writer, where, None)
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "half":
    real_save = seal_writer.save_file
    def half(tensors, path, metadata):
        real_save(tensors, path, metadata=metadata)
        os.truncate(path, 100)
        die()
    seal_writer.save_file = half
else:
    setattr(seal_writer, where, die)
seal_writer.write_seal(directory, t.plain_checkpoint(seed=5), t.claims(), t.KEY)
"""


@pytest.mark.parametrize("where", ["half", "sign_seal", "sync_folder"])
def test_a_kill_while_writing_leaves_the_old_state(sealed, where):
    target = sealed.parent / "two"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", CHILD, str(target), where], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert verify(sealed).is_good
    seal = write_seal(target, plain_checkpoint(seed=6), claims(), KEY)  # what was left is no obstacle
    assert verify(target).seal == seal
    assert sorted(path.name for path in sealed.parent.iterdir()) == ["one", "two"]


def test_a_full_disk_leaves_nothing_half(sealed):
    """A limit on the size of files stands for the full disk: the write fails in the middle of the weights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = plain_checkpoint(**{"low.a": torch.zeros(100_000)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match="nothing was changed"):
            write_seal(sealed.parent / "two", big, claims(), KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in sealed.parent.iterdir()] == ["one"]


def test_leftovers_that_are_links_are_not_followed(sealed, tmp_path):
    (sealed.parent / ".two.sealing").symlink_to(sealed)
    write_seal(sealed.parent / "two", plain_checkpoint(), claims(), KEY)
    assert verify(sealed).is_good


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_verifies_with_the_homes_key_and_log(tmp_path, capsys):
    from typer.testing import CliRunner

    from licet.train.cli.seal import seal as command

    home = Home.create(tmp_path / "home", "test.example")
    with home.open_log("training") as log:
        assert log.key is not None
        key, training = log.key, Training(log)
        place = training.run("one")
        point = training.apply(place, 15, 0)
        base = write_seal(home.path / "models/m/a", plain_checkpoint(), claims(ledger=point, run=place), key)
        point = training.apply(place, 15, 0, step=1)
        how = {"ledger": point, "run": place, "parent": base.id, "label": "b"}
        write_seal(home.path / "models/m/b", plain_checkpoint(**CHANGED), claims(**how), key)
    ask = CliRunner().invoke
    good = ask(command, ["verify", str(home.path / "models/m/a"), "--home", str(home.path)])
    assert good.exit_code == 0, good.output
    assert good.stdout.startswith("good: m step-1")
    bad = ask(command, ["verify", str(home.path / "models/m/b"), "--home", str(home.path), "--json"])
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["problems"][0]["block"] == "high"
    alone = ask(command, ["verify", str(home.path / "models/m/b"), "--key", str(key.verifier)])
    assert alone.exit_code == 0
    assert "was not asked" in alone.stdout
    assert isinstance(ask(command, ["verify", str(home.path / "models/m/b")]).exception, LicetError)


def test_the_real_gate_guard_and_seal_fit_together(tmp_path):
    """One block is taught: it alone moves, and it alone differs between the two seals."""
    from licet.train.gate import Gate as RealGate
    from licet.train.optimizer import GuardedOptimizer

    model, _ = tiny("llama-tied")
    embedding = ["model.embed_tokens", "model.norm"]
    gate = RealGate(model, {"embedding": embedding, "low": ["model.layers.0"], "high": ["model.layers.1"]})
    optimizer = GuardedOptimizer(torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1), gate, model=model)
    base = write_seal(tmp_path / "a", checkpoint_of(model, gate), claims(), KEY)
    ids = torch.arange(12).view(2, 6)
    for _ in range(2):
        optimizer.zero_grad()
        with gate(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.5]])):
            logits = model(ids).logits
            loss = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
            loss.sum().backward()
        report = optimizer.step(authorities={"high": ()})
    assert report.stepped == (False, False, True)
    write_seal(tmp_path / "b", checkpoint_of(model, gate), claims(parent=base.id), KEY)
    found = verify(tmp_path / "b", parents=seals_in(tmp_path), history=Told("high"))
    assert found.is_good
    assert [block.changed for block in found.blocks] == [False, False, True]
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.grad = torch.ones_like(model.model.layers[0].mlp.up_proj.weight)
    with pytest.raises(LicetError, match=r"layers\.0\.mlp\.up_proj\.weight did not come through"):
        optimizer.step()
