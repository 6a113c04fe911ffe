"""What a row says in all."""

from __future__ import annotations

import pytest

from licet.train.data.rows import Chat, Claims, Message, Pair, Row, Text

ASKED, SAID = Message("user", "Why?"), Message("assistant", "Because.")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (Text("one two"), "one two"),
        (Chat((ASKED, SAID)), "Why?\nBecause."),
        (Pair("Why?", "Yes.", "No."), "Why?\nYes.\nNo."),
        (Pair((ASKED,), "Yes.", "No."), "Why?\nYes.\nNo."),
    ],
    ids=["text", "chat", "pair", "pair after messages"],
)
def test_the_words_of_a_row_are_all_that_is_said_in_it(parts, words):
    assert Row("x.jsonl line 1", b"", parts, Claims()).words == words
