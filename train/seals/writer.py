"""Writing a sealed checkpoint: weights, configuration, tokenizer and seal, whole or not at all.

Everything is written into a folder beside the target and made durable there; a rename then puts it in its place. What
a kill or a full disk leaves is that hidden folder, and the next attempt removes it. Digests are taken from the files
as written, so that the seal says what is on the disk. Tensors pass through memory one shard at a time.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from licet.ledger.errors import ConfigError, LicetError, StorageError
from licet.ledger.files import sync_folder, write_whole
from licet.ledger.note import SigningKey
from licet.policies import strict_json
from licet.train.seals.reader import FILE_NAME
from licet.train.seals.seal import SEAL_FILE, sign_seal
from licet.train.seals.statement import UNGATED, Claims, Role, Seal, SealedBlock, SealedFile, SealedTensor, sorted_block
from licet.train.seals.tensor_file import Header, digest_of, read_header

SHARD_BYTES_MAX = 4 << 30
ADAPTER_STEM = "adapter_model"
"""What adapters are stored as: where peft and vLLM look for them."""


class SealWriteError(ConfigError):
    """A checkpoint that cannot be sealed as it is."""


class Blocks(Protocol):
    """What is needed of a gate: which parameter belongs to which block. One that it does not hold raises."""

    @property
    def block_names(self) -> Sequence[str]: ...
    def block_of(self, parameter: Tensor) -> int: ...


@dataclass(frozen=True, slots=True)
class Companion:
    """Files that belong to a checkpoint: `save` writes them into a folder, as every `save_pretrained` does."""

    role: Role
    save: Callable[[Path], Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is to be sealed: each tensor once, the block of each, its further names, and the files beside them."""

    tensors: Mapping[str, Tensor]
    blocks: Mapping[str, tuple[str, ...]]
    tied: Mapping[str, str]
    companions: tuple[Companion, ...] = ()
    stem: str = "model"


def checkpoint_of(model: nn.Module, gate: Blocks, tokenizer: Any = None) -> Checkpoint:
    """A model with the blocks of its gate. Parameters of no block and buffers go into `ungated`.

    Of a model with adapters, the adapters alone: the base has its own seal. What is sharded over several ranks is put
    together, which all of them must ask for.
    """
    model = _unwrapped(model)
    tensors, tied = tensors_of(model)
    if UNGATED in gate.block_names:
        raise SealWriteError(f"A block cannot be called {UNGATED}.", remedy="Give it another name.")
    blocks: dict[str, list[str]] = {block: [] for block in [*gate.block_names, UNGATED]}
    for name, value in tensors.items():
        blocks[_block_of(gate, value)].append(name)
    placed = {block: tuple(names) for block, names in blocks.items() if names or block != UNGATED}
    whole = {name: _gathered(value) for name, value in tensors.items()}
    stem = ADAPTER_STEM if _adapter_of(model) is not None else "model"
    return Checkpoint(whole, placed, tied, _companions(model, tokenizer), stem)


def tensors_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors that a checkpoint of a model holds, each once, and the further names of those with several."""
    adapter = _adapter_of(model)
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for raw, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise SealWriteError(f"{raw} is no tensor and cannot be sealed.", remedy="Keep it out of the state dict.")
        name = _plain(raw)
        if adapter is not None:
            if not value.requires_grad:
                continue
            name = name.replace(f".{adapter}.", ".")
        if id(value) in first:
            tied[name] = first[id(value)]
        else:
            first[id(value)], tensors[name] = name, value
    return tensors, tied


def write_seal(
    directory: Path, checkpoint: Checkpoint, claims: Claims, key: SigningKey, *, shard_bytes_max: int = SHARD_BYTES_MAX
) -> Seal:
    """Write a checkpoint and its seal as a new folder."""
    if directory.exists() or directory.is_symlink():
        raise SealWriteError(f"{directory} already exists.", remedy="Each seal has a folder of its own: name another.")
    _check(checkpoint)
    making = directory.with_name(f".{directory.name}.sealing")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _clear(making)
        making.mkdir()
        roles = _write_companions(making, checkpoint.companions)
        weights = _write_weights(making, checkpoint, shard_bytes_max)
        seal = Seal(
            claims,
            _sealed_blocks(making, checkpoint, weights),
            tuple(sorted(checkpoint.tied.items())),
            tuple(_sealed_files(making, roles, weights)),
        )
        write_whole(making / SEAL_FILE, sign_seal(seal, key))
        for file in making.iterdir():
            _sync(file)
        sync_folder(making)
        making.rename(directory)
        sync_folder(directory.parent)
    except (OSError, SafetensorError) as error:
        _clear(making)
        raise StorageError(
            f"{directory} could not be sealed: {getattr(error, 'strerror', None) or error}.",
            remedy="Look at free space and permissions; nothing was changed, and training can go on.",
        ) from error
    except BaseException:
        _clear(making)
        raise
    return seal


def _block_of(gate: Blocks, tensor: Tensor) -> str:
    try:
        return gate.block_names[gate.block_of(tensor)]
    except LicetError:
        return UNGATED


def _check(checkpoint: Checkpoint) -> None:
    placed = [name for names in checkpoint.blocks.values() for name in names]
    if sorted(placed) != sorted(checkpoint.tensors):
        odd = min(
            set(placed) ^ set(checkpoint.tensors), default=min((n for n in placed if placed.count(n) > 1), default="")
        )
        raise SealWriteError(f"{odd} is in no block, in two, or not there.", remedy="Put each tensor into one block.")


def _write_companions(folder: Path, companions: Sequence[Companion]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for companion in companions:
        companion.save(folder)
        for file in sorted(folder.iterdir()):
            if not FILE_NAME.fullmatch(file.name) or not file.is_file() or file.is_symlink():
                raise SealWriteError(f"{file.name} cannot lie beside a seal.", remedy="Write plain files, no folders.")
            roles.setdefault(file.name, companion.role)
    if SEAL_FILE in roles:
        raise SealWriteError(
            f"Only the seal itself may be called {SEAL_FILE}.", remedy="Name the other file otherwise."
        )
    return roles


def _write_weights(folder: Path, checkpoint: Checkpoint, shard_bytes_max: int) -> dict[str, Header]:
    """The files of weights, and what stands in the header of each."""
    shards = list(_shards(checkpoint.tensors, shard_bytes_max))
    stem, found = checkpoint.stem, {}
    for i, names in enumerate(shards):
        name = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file({n: _stored(checkpoint.tensors[n]) for n in names}, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)
        found[name] = read_header(folder / name)
    if len(shards) > 1:
        where = {tensor.name: name for name, header in found.items() for tensor in header.tensors}
        total = sum(t.end - t.start for header in found.values() for t in header.tensors)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_whole(folder / f"{stem}.safetensors.index.json", strict_json.spell(index))
    return found


def _shards(tensors: Mapping[str, Tensor], bytes_max: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + tensor.nbytes > bytes_max:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.nbytes
    yield names


def _stored(tensor: Tensor) -> Tensor:
    """On the CPU, in row order, with a memory of its own."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def _sealed_blocks(folder: Path, checkpoint: Checkpoint, weights: Mapping[str, Header]) -> tuple[SealedBlock, ...]:
    sealed = {
        tensor.name: SealedTensor(
            tensor.name, tensor.dtype, tensor.shape, digest_of(folder / name, tensor.start, tensor.end)
        )
        for name, header in weights.items()
        for tensor in header.tensors
    }
    return tuple(sorted_block(block, [sealed[name] for name in names]) for block, names in checkpoint.blocks.items())


def _sealed_files(folder: Path, roles: Mapping[str, Role], weights: Mapping[str, Header]) -> Iterator[SealedFile]:
    for file in sorted(folder.iterdir()):
        size = file.stat().st_size
        if file.name in weights:
            yield SealedFile(file.name, Role.WEIGHTS, size, weights[file.name].digest)
        else:
            yield SealedFile(file.name, roles.get(file.name, Role.OTHER), size, digest_of(file))


def _adapter_of(model: nn.Module) -> str | None:
    """The name of the adapter that is trained on a frozen model; None if the model itself is."""
    active = getattr(model, "active_adapter", None) if hasattr(model, "peft_config") else None
    return active if isinstance(active, str) else None


def _gathered(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _companions(model: nn.Module, tokenizer: Any) -> tuple[Companion, ...]:
    found = []
    config: Any = copy.deepcopy(getattr(model, "config", None))
    adapter = _adapter_of(model)
    if adapter is not None:
        found.append(Companion(Role.CONFIG, model.peft_config[adapter].save_pretrained))  # type: ignore[index, union-attr]
    elif hasattr(config, "save_pretrained"):
        config.architectures = [type(model).__name__]  # which class to load it with
        found.append(Companion(Role.CONFIG, config.save_pretrained))
    generation = getattr(model, "generation_config", None)
    if generation is not None and adapter is None:
        found.append(Companion(Role.OTHER, generation.save_pretrained))
    if tokenizer is not None:
        found.append(Companion(Role.TOKENIZER, tokenizer.save_pretrained))
    return tuple(found)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what DDP and compilation put around it."""
    for wrapper in ("module", "_orig_mod"):
        inner = getattr(model, wrapper, None)
        if isinstance(inner, nn.Module) and len(list(model.children())) == 1:
            return _unwrapped(inner)
    return model


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _clear(making: Path) -> None:
    if making.is_symlink():
        making.unlink()
    shutil.rmtree(making, ignore_errors=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
