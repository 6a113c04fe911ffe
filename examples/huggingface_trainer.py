"""Hugging Face's `Trainer` under the gate: `python examples/huggingface_trainer.py [FOLDER]`.

A run takes the place of model and training data; arguments, schedule and callbacks stay as they are. `max_grad_norm` is
off, because each block is clipped by itself.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import small_home
import tiny_model
from transformers import TrainingArguments

from licet.train.own.huggingface import GovernedTrainer
from licet.train.own.run import GovernedRun


def main(folder: Path) -> None:
    home, rows = small_home.make(folder)
    model, tokenizer = tiny_model.make()
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=8,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        max_grad_norm=0,
        logging_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    begun = GovernedRun.begin(
        home,
        model,
        tokenizer,
        rows,
        name="trainer",
        model_name="tiny",
        from_scratch=True,
        context=tiny_model.CONTEXT,
    )
    with begun as run:
        trainer = GovernedTrainer(run, arguments, clip_norm=1.0)
        trainer.train()
        print(trainer.sealed)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="licet-")))
