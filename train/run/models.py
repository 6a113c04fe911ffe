"""The model of a run: from a configuration, from a sealed checkpoint, or from elsewhere; whole or with adapters.

Nothing is fetched: what is not on the disk is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from licet.ledger.errors import ConfigError, LicetError
from licet.train.run.file import LoraPart, ModelPart

ADAPTER_CONFIG = "adapter_config.json"
_AS_IT_LIES: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "trust_remote_code": False}


class ModelError(ConfigError):
    """A model that cannot be made or loaded."""


def from_config(config: Mapping[str, Any], vocabulary: int, seed: int) -> nn.Module:
    """A causal language model with random weights, the same for the same seed."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM  # noqa: PLC0415

    kind = str(config["model_type"])
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"transformers knows no model_type {kind!a}.",
            remedy="Name one, as llama or gpt2, in [model.config].",
        )
    said = {key: value for key, value in config.items() if key != "model_type"}
    try:
        made = CONFIG_MAPPING[kind](**{"vocab_size": vocabulary, **said})
        if made.vocab_size < vocabulary:
            raise ModelError(
                f"The model has {made.vocab_size} tokens, and the tokenizer {vocabulary}.",
                remedy="Leave vocab_size out of [model.config], or make the tokenizer's vocabulary smaller.",
            )
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(made, dtype=torch.float32, attn_implementation=_attention(made))
    except LicetError:
        raise
    except Exception as error:
        raise ModelError(
            f"No {kind} model can be made of [model.config]: {str(error)[:300]}.", remedy="Mend the configuration."
        ) from error


def from_folder(folder: Path) -> nn.Module:
    """A causal language model as it lies in a folder; with its adapter, if it is one."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}.", remedy="[model] base names a folder with a model's files.")
    _check_code(folder)
    try:
        if (folder / ADAPTER_CONFIG).exists():
            from peft import AutoPeftModelForCausalLM  # noqa: PLC0415

            model = AutoPeftModelForCausalLM.from_pretrained(folder, **_AS_IT_LIES)
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, config=config, use_safetensors=True, attn_implementation=_attention(config), **_AS_IT_LIES
            )
    except Exception as error:
        raise ModelError(
            f"{folder} holds no model that can be loaded: {str(error)[:300]}.",
            remedy="It should hold config.json and safetensors files, as save_pretrained writes them.",
        ) from error
    return model


def with_adapters(model: nn.Module, lora: LoraPart, seed: int) -> nn.Module:
    """Adapters on a frozen model."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"No adapter can be put there: {error}.", remedy="Name modules in [lora] targets.") from error


def prepare(model: nn.Module, part: ModelPart) -> nn.Module:
    """As it is trained: without a cache of keys and values, with its activations computed twice if asked."""
    config = getattr(model, "config", None)
    if config is not None:
        config.use_cache = False
    if part.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        if hasattr(model, "enable_input_require_grads") and not any(
            p.requires_grad
            for p in model.get_input_embeddings().parameters()  # type: ignore[operator]
        ):
            model.enable_input_require_grads()  # type: ignore[operator]
    return model.train()


def check_context(model: nn.Module, context: int) -> None:
    """Raise if samples would be longer than the model knows positions for."""
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(positions, int) and positions < context:
        raise ModelError(
            f"The model knows {positions} positions, and samples have {context} tokens.",
            remedy="Lower [objective] context, or raise max_position_embeddings.",
        )


def check_vocabulary(model: nn.Module, tokens: int) -> None:
    """Raise if the tokenizer has tokens that the model has no embedding of."""
    known = getattr(getattr(model, "config", None), "vocab_size", None)
    if isinstance(known, int) and known < tokens:
        raise ModelError(
            f"The model has {known} tokens, and the tokenizer {tokens}.",
            remedy="Leave [tokenizer] out to take the base's own, or make its vocabulary smaller.",
        )


def trainable(model: nn.Module) -> Sequence[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _attention(config: Any) -> str:
    """The kernel that a model's attention takes: never one that a configuration names, which may be code from afar."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING  # noqa: PLC0415

    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def _check_code(folder: Path) -> None:
    """Code that lies in a model's folder is never run."""
    config = folder / "config.json"
    try:
        said = json.loads(config.read_bytes()) if config.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{config} cannot be read: {error}.", remedy="Restore the model's files.") from error
    if isinstance(said, dict) and said.get("auto_map"):
        raise ModelError(
            f"The model in {folder} asks for code of its own to be run.", remedy="Use one that transformers knows."
        )
