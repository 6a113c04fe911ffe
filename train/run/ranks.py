"""Several processes that train one model: who has which slots, and how everybody comes to know all norms.

Slots are divided in order, so that rows put together by rank stand in the order of their slots, however many ranks
there are. All ranks come to the same decisions, because they decide from the same numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch import distributed as dist

from licet.ledger.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others; alone if there are none."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls) -> Ranks:
        """Find the others as `torchrun` says, or be alone."""
        cuda = torch.cuda.is_available()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if "RANK" not in os.environ:
            return cls(device=device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def leads(self) -> bool:
        """Whether this is the one who writes."""
        return self.rank == 0

    def leave(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def check(self, slots: int) -> None:
        if slots % self.world:
            raise ConfigError(
                f"{slots} slots cannot be divided among {self.world} ranks.",
                remedy="Let the number of ranks divide [schedule] batch / accumulate.",
            )

    def share(self, slots: int) -> slice:
        """This rank's part of the slots of a microbatch."""
        each = slots // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def together(self, mine: Tensor) -> Tensor:
        """The rows of all ranks, in the order of ranks."""
        if self.world == 1:
            return mine
        mine = mine.to(self.device).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(parts, mine)
        return torch.cat(parts).cpu()

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def agree(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if self.world == 1:
            return flag
        said = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)


def spread(model: nn.Module, ranks: Ranks, *, sharded: bool) -> nn.Module:
    """The model as the ranks train it together: whole on each (DDP), or each with a part of it (FSDP2)."""
    model = model.to(ranks.device)
    if ranks.world == 1:
        return model
    if not sharded:
        from torch.nn.parallel import DistributedDataParallel  # noqa: PLC0415

        return DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    from licet.train.blocks import examine  # noqa: PLC0415

    parts = dict(model.named_modules())
    for layer in examine(model).layers:
        fully_shard(parts[layer])
    return fully_shard(model)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank may have a part. All ranks must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(value: Tensor, placed: Tensor) -> Tensor:
    """A whole tensor, divided as another is."""
    if not hasattr(placed, "device_mesh") or value.shape != placed.shape:
        return value.to(placed.device) if value.shape == placed.shape else value
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

    return distribute_tensor(value.to(placed.device), placed.device_mesh, placed.placements)
