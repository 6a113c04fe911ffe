"""run.toml: what a training run is made from. Read strictly: a field that is not known is a mistake, not a hint.

Paths are taken from the folder of the file. What each field means stands in its description, and in train/README.md.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from licet.ledger.errors import ConfigError
from licet.ledger.files import read_whole
from licet.ledger.records import Digest, Stage, Technique
from licet.policies.schema import NAME_CHARS_MAX, Ceiling, Name

RUN_FILE_BYTES_MAX = 1 << 20
SLOTS_MAX = 1 << 16
"""An event has 16 bits for its slot, and as many for its microbatch."""


def _inside(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("a path is not empty")
    return Path(text)


Where = Annotated[str, AfterValidator(_inside)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPart(_Part):
    """The model: one that is there, or a configuration to start from scratch."""

    base: Where | None = Field(default=None, description="a folder with a seal, or a model from elsewhere")
    config: dict[str, Any] | None = Field(default=None, description="a Hugging Face configuration with its model_type")
    layers_per_block: int = Field(default=1, ge=1, le=4096, description="how many layers make a block")
    autocast: Literal["float32", "bfloat16"] = Field(
        default="float32", description="what layers compute in; weights and optimizer stay in float32"
    )
    sharded: bool = Field(default=False, description="on several ranks: each keeps a part of the model (FSDP2)")
    checkpointing: bool = Field(default=False, description="compute activations twice to save memory")
    compile: bool = Field(default=False, description="use torch.compile")

    @model_validator(mode="after")
    def _one_beginning(self) -> ModelPart:
        if (self.base is None) == (self.config is None):
            raise ValueError("say where the model begins in exactly one way: base or config")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("a configuration names its model_type, as llama")
        return self


class TokenizerPart(_Part):
    """A tokenizer that is there, or one to train on what was admitted. Without either, the base's own."""

    path: Where | None = None
    kind: Literal["bpe", "bytes"] | None = None
    vocabulary: int = Field(default=4096, ge=260, le=1_000_000)

    @model_validator(mode="after")
    def _one_way(self) -> TokenizerPart:
        if self.path is not None and self.kind is not None:
            raise ValueError("a tokenizer is loaded from a path or trained, not both")
        return self


class DataPart(_Part):
    """One file or folder of rows, and what holds for rows that do not say it themselves."""

    path: Where
    column: str = Field(default="text", description="of a text, or of the messages of a conversation")
    prompt: str = Field(default="prompt", description="column of what a preferred answer answers to")
    chosen: str = "chosen"
    rejected: str = "rejected"
    metadata: dict[str, Any] = Field(default={}, description="as the object `licet` of a row: attestation, scope, …")


class HeldOutPart(_Part):
    """Texts that are never trained on: how well the model does on them is told at each checkpoint."""

    path: Where
    column: str = "text"
    texts_max: int = Field(default=256, ge=1, le=100_000)


class ObjectivePart(_Part):
    """What is learned from a row."""

    kind: Literal["pretraining", "chat", "preference"] = "pretraining"
    context: int = Field(default=256, ge=8, le=1 << 20, description="tokens in a sample at most")
    beta: float = Field(default=0.1, gt=0, le=100, description="how firmly preferences are held against the reference")


class LoraPart(_Part):
    """Adapters on a frozen base."""

    rank: int = Field(default=8, ge=1, le=4096)
    alpha: float = Field(default=16.0, gt=0, le=65_536)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=(), description="ends of modules' names; empty: all linear ones")


class OptimizerPart(_Part):
    """The optimizer behind the guard."""

    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=3e-4, gt=0, le=100)
    weight_decay: float = Field(default=0.01, ge=0, le=10)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    clip_norm: float | None = Field(default=1.0, gt=0, allow_inf_nan=False, description="for each block by itself")


class SchedulePart(_Part):
    """How long, and how much at once."""

    steps: int | None = Field(default=None, ge=1, lt=1 << 32)
    epochs: float | None = Field(default=None, gt=0, le=65_535)
    batch: int = Field(default=16, ge=1, le=SLOTS_MAX, description="slots in a step, over all ranks and microbatches")
    accumulate: int = Field(default=1, ge=1, le=SLOTS_MAX, description="microbatches in a step")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps")
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    floor: float = Field(default=0.1, ge=0, le=1, description="of the learning rate, where the decay ends")

    @model_validator(mode="after")
    def _one_length(self) -> SchedulePart:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say how long in exactly one way: steps or epochs")
        if self.batch % self.accumulate:
            raise ValueError("a batch is divided into equal microbatches: let accumulate divide batch")
        return self


class CheckpointsPart(_Part):
    """When the model is sealed. It is sealed at the end in any case, and when it is asked to stop."""

    every: int | None = Field(default=None, ge=1, description="steps; without it, at the end only")


class PhasePart(_Part):
    """A part of the run in which profiles are restricted further."""

    name: Name
    until: float = Field(gt=0, le=1, description="share of the run's steps; the last phase ends at 1")
    ceiling: Ceiling = Field(default={"*": 1.0}, description="the most that may reach each band")
    confined: Literal["teach", "wait"] = Field(default="teach", description="what may not reach all bands")


class RunFile(_Part):
    """The whole file."""

    licet: Literal[1] = Field(description="the version of this format")
    name: Name = Field(description="the model's, under models/")
    run: Name | None = Field(default=None, description="this run's; default: the file's own name")
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    stage: Stage = Field(default=Stage.ENFORCE, description="observe: record only; enforce: apply the profiles")
    technique: Technique = Technique.SCALE
    method: Literal["full", "lora"] = "full"
    policies: tuple[Where, ...] = Field(default=(), description="beside the policy that the home adopted")
    entropy: Literal["model", "compression"] | None = Field(
        default=None, description="how information is measured; default: the base where there is one, else compression"
    )
    model: ModelPart
    tokenizer: TokenizerPart = TokenizerPart()
    data: tuple[DataPart, ...] = Field(min_length=1)
    held_out: HeldOutPart | None = None
    objective: ObjectivePart = ObjectivePart()
    lora: LoraPart = LoraPart()
    optimizer: OptimizerPart = OptimizerPart()
    schedule: SchedulePart
    checkpoints: CheckpointsPart = CheckpointsPart()
    phase: tuple[PhasePart, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> RunFile:
        if self.method == "lora" and self.model.base is None:
            raise ValueError("adapters need a base: name one in [model], or train the full model")
        if self.model.base is None and self.tokenizer.path is None and self.tokenizer.kind is None:
            raise ValueError("a model from scratch needs a tokenizer: a path, or a kind to train")
        if self.model.base is None and self.entropy == "model":
            raise ValueError("there is no model yet to measure information with: use compression")
        ends = [phase.until for phase in self.phase]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1.0):
            raise ValueError("phases end one after the other, and the last at 1.0")
        return self


@dataclass(frozen=True, slots=True)
class Run:
    """A run file, read: what it says, where it lies, and what it is called."""

    file: RunFile
    text: str
    folder: Path
    name: str

    @property
    def digest(self) -> Digest:
        return Digest(hashlib.sha256(self.text.encode()).digest())

    def path(self, where: str | Path) -> Path:
        """A path of the file, seen from where the file lies."""
        return self.folder / where


def read_run(path: Path) -> Run:
    """Read a run.toml."""
    raw = read_whole(path, bytes_max=RUN_FILE_BYTES_MAX)
    try:
        text = raw.decode()
        said = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits are no TOMLDecodeError
        raise ConfigError(f"{path} is not TOML: {error}.", remedy="Mend that line.") from error
    try:
        file = RunFile.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ConfigError(
            f"{path} cannot be used: {where}: {first['msg']}.",
            remedy="train/README.md explains each field; `licet train --dry-run` checks a file without training.",
        ) from error
    return Run(file, text, path.resolve().parent, file.run or _name_of(path))


def _name_of(path: Path) -> str:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem.lower())
    return name.lstrip("._-")[:NAME_CHARS_MAX] or "run"
