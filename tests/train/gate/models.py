"""Small real architectures with random weights, each with a batch and a loss for each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS, TOKENS, VOCABULARY = 4, 9, 31


@dataclass(frozen=True, slots=True)
class Case:
    model: nn.Module
    batch: dict[str, Tensor]
    loss: Callable[[Any, dict[str, Tensor]], Tensor]

    def losses(self) -> Tensor:
        return self.loss(self.model(**self.batch), self.batch)


def next_token(out: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = out.logits[:, :-1].transpose(1, 2)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, batch["input_ids"][:, 1:], reduction="none").mean(1)


def text(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=generator)
    ids[:, 3] = ids[:, 1]  # a token that an example holds twice
    return {"input_ids": ids}


def llama(**changes: Any) -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    return Case(LlamaForCausalLM(LlamaConfig(**_decoder() | changes)), text(), next_token)


def llama_tied() -> Case:
    return llama(tie_word_embeddings=True)


def qwen2() -> Case:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Case(Qwen2ForCausalLM(Qwen2Config(**_decoder())), text(), next_token)


def qwen3() -> Case:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Case(Qwen3ForCausalLM(Qwen3Config(**_decoder(), head_dim=8)), text(), next_token)


def gemma() -> Case:
    """Its norms multiply by one plus their weight."""
    from transformers import GemmaConfig, GemmaForCausalLM

    return Case(GemmaForCausalLM(GemmaConfig(**_decoder(), head_dim=8, pad_token_id=0)), text(), next_token)


def gpt2() -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=VOCABULARY, n_positions=16)
    model = GPT2LMHeadModel(config).eval()  # no dropout
    return Case(model, text(), next_token)


def vit() -> Case:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=5)).eval()
    images = {"pixel_values": torch.randn(ROWS, 3, 8, 8), "targets": torch.tensor([0, 3, 1, 4])}

    def loss(out: Any, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(out.logits, images["targets"], reduction="none")

    return Case(model, {"pixel_values": images["pixel_values"]}, loss)


class DiT(nn.Module):
    """A diffusion transformer as in Peebles and Xie: patches, labels, time, and adaptive norms."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.places = nn.Parameter(torch.randn(1, 16, width))
        self.label, self.time = nn.Embedding(7, width), nn.Sequential(nn.Linear(4, width), nn.SiLU())
        self.layers = nn.ModuleList(DiTLayer(width) for _ in range(layers))
        self.table = nn.Parameter(torch.randn(2, width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out = nn.Linear(width, 12)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        angles = t[:, None] * torch.tensor([1.0, 10.0], dtype=t.dtype)
        c = self.time(torch.cat([angles.sin(), angles.cos()], -1)) + self.label(y)
        for layer in self.layers:
            x = layer(x, c)
        shift, scale = (self.table[None] + c[:, None]).chunk(2, dim=1)
        return self.out(self.norm(x) * (1 + scale) + shift)


class DiTLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.adapt = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 6 * width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        a, b, g, d, e, h = self.adapt(F.silu(c))[:, None].chunk(6, dim=-1)
        q, k, v = (
            z.unflatten(-1, (2, -1)).transpose(1, 2) for z in self.qkv(self.norm(x) * (1 + b) + a).chunk(3, dim=-1)
        )
        x = x + g * self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + h * self.down(F.gelu(self.up(self.norm(x) * (1 + e) + d)))


def dit() -> Case:
    batch = {"x": torch.randn(ROWS, 3, 8, 8), "t": torch.rand(ROWS), "y": torch.tensor([2, 6, 2, 0])}
    noise = torch.randn(ROWS, 16, 12)
    return Case(DiT(), batch, lambda out, _: (out - noise.to(out.dtype)).square().flatten(1).mean(1))


CASES: dict[str, Callable[[], Case]] = {
    "llama": llama,
    "llama-tied": llama_tied,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma": gemma,
    "gpt2": gpt2,
    "vit": vit,
    "dit": dit,
}


def build(name: str, dtype: torch.dtype = torch.float64) -> Case:
    torch.manual_seed(3)
    case = CASES[name]()
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # no zeros and ones left: each use must show
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.batch.items()}
    return Case(case.model.to(dtype), batch, case.loss)


def _decoder() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
        "tie_word_embeddings": False,
        "attn_implementation": "sdpa",
    }
