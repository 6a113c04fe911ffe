"""Run by torchrun on two ranks: their gradients and norms together must equal one process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from licet.train import Gate
from licet.train.blocks import describe
from tests.train.gate.models import build
from tests.train.gate.oracle import reference

WEIGHTS = torch.tensor([[1, 0.5, 0, 1], [0, 0, 0, 0], [0.2, -1, 0, 0], [0, 0, 0, 0.5]], dtype=torch.float64)


def check(kind: str, name: str) -> None:
    case, mine = build(name), slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    model = case.model
    alone = Gate(model, describe(model)[1])
    expected, norms = reference(model, case.losses, WEIGHTS, alone)
    alone.remove()
    if kind == "ddp":
        outer = DistributedDataParallel(model)
    else:
        for layer in model.model.layers if hasattr(model, "model") else model.transformer.h:
            fully_shard(layer)
        outer = fully_shard(model)
    gate = Gate(model, describe(model)[1])
    batch = {key: value[mine] for key, value in case.batch.items()}
    for _ in range(2):
        model.zero_grad()
        with gate(WEIGHTS[mine], admitted=(WEIGHTS != 0).any(0)):
            case.loss(outer(**batch), batch).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        gradient = parameter.grad
        if gradient is None:
            assert not expected[parameter_name].any(), parameter_name
            continue
        assert gate.came_through(parameter), parameter_name
        gradient = gradient if kind == "ddp" else gradient.full_tensor()
        # Data parallelism averages over the ranks.
        torch.testing.assert_close(2 * gradient, expected[parameter_name], rtol=1e-10, atol=1e-13)
    kept = WEIGHTS[mine] != 0
    torch.testing.assert_close(gate.norms[kept].double(), norms[mine][kept], rtol=1e-6, atol=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for each in ("ddp", "fsdp"):
        for model_name in ("llama", "llama-tied", "gpt2"):
            check(each, model_name)
    dist.destroy_process_group()
