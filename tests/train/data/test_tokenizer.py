"""Tokenizers: nothing of a text is lost, the same texts make the same one, and folders without one are refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError
from licet.train.data import tokenizer as module
from licet.train.data.tokenizer import BEGIN, END, PAD, TokenizerError, closing, load, opening, padding, tokenize, train

TEXTS = [f"The {i}th text says: it is permitted.\n\tÜbrigens, {'ha' * i}!\r\n" for i in range(60)]
TRAINED = {kind: train(iter(TEXTS), 400, kind) for kind in ("bpe", "bytes")}
ANY = st.text() | st.sampled_from([f"a{END}b{BEGIN}", "  \n\n  x\u200d😀", "'s  't ,  .", "a\x00b", "﷽" * 3])
KINDS = pytest.mark.parametrize("kind", TRAINED)


@KINDS
@given(text=ANY)
def test_nothing_of_a_text_is_lost(kind, text):
    ids = tokenize(TRAINED[kind], text)
    assert TRAINED[kind].decode(ids) == text
    assert not set(ids) & set(TRAINED[kind].all_special_ids)


@given(st.text(max_size=40))
def test_bytes_are_one_token_each(text):
    assert len(tokenize(TRAINED["bytes"], text)) == len(text.encode())


def test_a_vocabulary_is_as_large_as_was_asked():
    assert len(TRAINED["bpe"]) == 400 and len(TRAINED["bytes"]) == 259
    assert len(tokenize(TRAINED["bpe"], TEXTS[3])) < len(TEXTS[3].encode()) / 2


def test_begin_end_and_pad():
    for made in TRAINED.values():
        assert made.convert_ids_to_tokens([opening(made), closing(made), padding(made)]) == [BEGIN, END, PAD]
        assert made("x")["input_ids"][0] == opening(made)  # as a server puts a prompt


@KINDS
def test_it_is_saved_and_loaded(tmp_path, kind):
    TRAINED[kind].save_pretrained(tmp_path)
    found = load(tmp_path)
    assert all(tokenize(found, text) == tokenize(TRAINED[kind], text) for text in TEXTS)
    assert (opening(found), closing(found), padding(found)) == (1, 2, 0)
    said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Good day."}]
    written = f"{BEGIN}user\nHi.{END}{BEGIN}assistant\nGood day.{END}"
    assert found.apply_chat_template(said, tokenize=False) == written
    asked = found.apply_chat_template(said[:1], tokenize=False, add_generation_prompt=True)
    assert asked == f"{BEGIN}user\nHi.{END}{BEGIN}assistant\n"


def test_the_same_texts_make_the_same_one_in_another_process(tmp_path):
    code = (
        "import hashlib, json, sys\nfrom licet.train.data.tokenizer import train\n"
        "made = train(iter(json.load(sys.stdin)), 400, 'bpe')\n"
        "print(hashlib.sha256(made.backend_tokenizer.to_str().encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "false", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(TEXTS),
        text=True,
        capture_output=True,
        check=True,
        env=environment,
    )
    here = hashlib.sha256(TRAINED["bpe"].backend_tokenizer.to_str().encode()).hexdigest()
    assert done.stdout.strip() == here
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_one_letter_a_million_times_makes_no_long_token():
    made = train(iter(["a" * 300_000]), 1000, "bpe")
    assert max(map(len, made.get_vocab())) <= module.TOKEN_CHARS_MAX
    assert made.decode(tokenize(made, "a" * 1_000_000)) == "a" * 1_000_000


def test_a_long_text_goes_in_pieces(monkeypatch):
    text = "".join(TEXTS)
    whole = tokenize(TRAINED["bytes"], text)
    monkeypatch.setattr(module, "PIECE_CHARS", 50)
    assert tokenize(TRAINED["bytes"], text) == whole
    assert TRAINED["bpe"].decode(tokenize(TRAINED["bpe"], text)) == text
    assert all(len(piece) <= 50 for piece in module._pieces(text + "x" * 120, 50))


@pytest.mark.parametrize("vocabulary", [-1, 0, 258, 10**9])
def test_a_vocabulary_that_cannot_be(vocabulary):
    with pytest.raises(TokenizerError, match="vocabulary"):
        train(iter(TEXTS), vocabulary, "bpe")


def test_what_cannot_be_learned_from():
    for nothing in ([], ["", ""]):
        with pytest.raises(TokenizerError, match="no text"):
            train(iter(nothing), 300, "bpe")
    with pytest.raises(FormatError, match="Text 1 "):
        train(iter(["good", "\ud800"]), 300, "bpe")
    with pytest.raises(FormatError, match="half a character"):
        tokenize(TRAINED["bpe"], "\ud800")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"notes.txt": "text"},
        {"config.json": '{"model_type": "llama"}'},
        {"tokenizer.json": "{"},
        {"tokenizer.json": "{}"},
        {"tokenizer.json": '{"version": "9", "model": {"type": "x"}, "added_tokens": []}'},
        {"tokenizer_config.json": '{"tokenizer_class": "NoSuchThing"}'},
        {"tokenizer_config.json": "[]"},
        {
            "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["mine.Mine", null]}, "tokenizer_class": "Mine"}',
            "mine.py": "raise SystemExit('this code was run')",
        },
    ],
    ids=range(9),
)
def test_what_is_no_tokenizer(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(TokenizerError) as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.message and caught.value.remedy


def test_a_name_is_no_folder(tmp_path):
    for place in (tmp_path / "gpt2", tmp_path / "file"):
        if place.name == "file":
            place.write_text("{}")
        with pytest.raises(TokenizerError, match="no folder"):
            load(place)


def test_tokenizers_that_lack_tokens():
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=TRAINED["bytes"].backend_tokenizer)
    assert opening(bare) is None and padding(bare) == 0
    with pytest.raises(TokenizerError, match="end-of-text"):
        closing(bare)
    ending = PreTrainedTokenizerFast(tokenizer_object=TRAINED["bytes"].backend_tokenizer, eos_token=END)
    assert opening(ending) == closing(ending) == padding(ending) == 2
