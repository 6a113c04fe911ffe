"""A small Llama with random weights, and a tokenizer of bytes: a model to try things on, in seconds."""

from __future__ import annotations

from typing import Any

from licet.train.data import tokenizer
from licet.train.run import models

CONTEXT = 64
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}


def make() -> tuple[Any, Any]:
    """A model, and its tokenizer."""
    known = tokenizer.train(["bytes"], tokenizer.VOCABULARY_MIN, "bytes")
    return models.from_config(CONFIG, len(known), seed=0), known
