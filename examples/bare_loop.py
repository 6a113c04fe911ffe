"""A training loop of one's own under the gate: `python examples/bare_loop.py [FOLDER]`.

What was there before Licet are the model, the optimizer and the loop. What it adds: a run that says which samples may
teach how deep, the gate around forward and backward, and a record of every step, sealed at the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import small_home
import tiny_model
import torch

from licet.train.own.run import GovernedRun

STEPS, SLOTS = 12, 8


def main(folder: Path) -> None:
    home, rows = small_home.make(folder)
    model, tokenizer = tiny_model.make()
    begun = GovernedRun.begin(
        home,
        model,
        tokenizer,
        rows,
        name="bare",
        model_name="tiny",
        from_scratch=True,
        context=tiny_model.CONTEXT,
    )
    with begun as run:
        optimizer = run.guard(torch.optim.AdamW(model.parameters(), lr=3e-3))
        order = torch.Generator().manual_seed(0)
        for step in range(STEPS):
            batch = run.batch(torch.randperm(run.samples, generator=order)[:SLOTS].tolist())
            with run.gate(batch.weights):
                losses = run.losses(batch)
                losses.sum().backward()
            run.note(batch, losses)
            report = optimizer.step()
            moved = sum(change > 0 for change in report.delta_norms)
            print(f"step {step}: loss {losses.mean().item():.3f}, {moved} of {len(report.blocks)} blocks moved")
        print(run.seal())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="licet-")))
