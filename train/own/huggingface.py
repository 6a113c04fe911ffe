"""A Hugging Face `Trainer` under the gate: a run takes the place of model and data, and the rest is Trainer's.

    run        what may teach: it takes the place of `train_dataset`
    a step     each pass under the gate, with each example's own loss; the optimizer behind the guard records it
    a save     a seal under models/ of the home, in place of Trainer's checkpoint

What would mix examples, scale all blocks by one number, or put other weights into the model is refused before training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.data.data_collator import default_data_collator

from licet.ledger.errors import ConfigError
from licet.train.gradients import norm
from licet.train.own.run import GovernedRun

__all__ = ["GovernedTrainer", "TrainerError"]


class TrainerError(ConfigError):
    """A `Trainer` set up in a way that cannot be governed."""


class GovernedTrainer(Trainer):
    """Trains the model of a run on the run's samples. `clip_norm` bounds each block's own gradient.

    Everything else is Trainer's: arguments, callbacks, schedulers, evaluation. An optimizer of one's own is given as
    usual, `optimizers=(optimizer, None)`, and is put behind the guard.
    """

    def __init__(
        self,
        run: GovernedRun,
        args: TrainingArguments,
        *,
        clip_norm: float | Mapping[str, float] | None = 1.0,
        data_collator: Callable[[Sequence[Any]], Any] | None = None,
        **others: Any,
    ) -> None:
        _check(args, others)
        self.run = run
        self.sealed: Path | None = None
        """The last seal."""
        self._clip_norm = clip_norm
        self._slots = 0
        super().__init__(
            model=run.model,
            args=args,
            train_dataset=_Numbers(run.samples),
            data_collator=_Collator(data_collator or default_data_collator),
            **{"processing_class": run.tokenizer, **others},
        )
        if self.accelerator.num_processes > 1 or args.n_gpu > 1:
            raise TrainerError(
                "GovernedTrainer runs in one process on one device.",
                remedy="On several ranks, `torchrun … licet train`.",
            )
        self._bare_optimizer = self.optimizer

    def train(self, resume_from_checkpoint: Any = None, *others: Any, **more: Any) -> Any:
        """Train, and seal what came of it."""
        if resume_from_checkpoint:
            raise TrainerError(
                "A seal is not resumed by Trainer.", remedy="Begin a new run whose base is the last seal's folder."
            )
        if self.run.steps:
            raise TrainerError("This run was trained already.", remedy="Begin another one from its seal.")
        result = super().train(None, *others, **more)
        self.sealed = self.run.seal()
        return result

    # -- what Trainer asks

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None or self.optimizer is self._bare_optimizer:
            self.optimizer = self.run.guard(super().create_optimizer(model), clip_norm=self._clip_norm)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The passes of a step: how many slots they have together is what each loss is divided by."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._slots = sum(len(batch["samples"]) for batch in batches)
        return batches, items

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One pass under the gate. The loss that is shown is the mean over all slots of the step."""
        model.train()
        batch = self.run.batch(inputs["samples"].tolist(), slots=self._slots)
        with self.run.gate(batch.weights, example_ids=batch.inputs.example_ids_R):
            with self.compute_loss_context_manager():
                losses = self.run.losses(batch, model)
            self.accelerator.backward(losses.sum())
        self.run.note(batch, losses)
        return losses.detach().sum() / self._slots

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Trainer's estimate. Its batches are numbers of samples, so it is told the shape that they have as tokens."""
        width = self.run.context
        shape = torch.empty(len(inputs["samples"]) * self.run.objective.rows_per_example, width, device="meta")
        return super().floating_point_ops({getattr(self.model, "main_input_name", "input_ids"): shape})

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        raise TrainerError("Gradients are clipped block by block.", remedy="Leave max_grad_norm at 0.")

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """Trainer's own way multiplies gradients by one, after which nobody can tell that they are the gate's."""
        return norm([p.grad for p in model.parameters() if p.grad is not None]).item()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.sealed = self.run.seal()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Seal the model in the home; a folder that is named is for others, and what lies there has no seal."""
        self.sealed = self.run.seal()
        if output_dir is not None and not _internal_call:
            raise TrainerError(
                f"A model outside the home would have no seal; it is sealed as {self.sealed}.",
                remedy="Call save_model() without a folder, and copy that one whole.",
            )


class _Numbers(Dataset[int]):
    """The numbers of a run's samples."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


class _Collator:
    """Numbers of samples as they are; whatever else is evaluated on goes to the user's own."""

    def __init__(self, other: Callable[[Sequence[Any]], Any]) -> None:
        self._other = other

    def __call__(self, features: Sequence[Any]) -> Any:
        if features and isinstance(features[0], int):
            return {"samples": torch.tensor(features)}
        return self._other(features)


# -- what is refused

_ONE_NUMBER = "One number for the whole gradient lets an example that was admitted to one block rescale another."
_REFUSED: tuple[tuple[str, Callable[[TrainingArguments], Any], str], ...] = (
    ("max_grad_norm", lambda a: a.max_grad_norm, f"{_ONE_NUMBER} Set it to 0, and give clip_norm=… instead."),
    ("fp16", lambda a: a.fp16, "Its gradient scaler looks at all blocks together. Use bf16."),
    ("deepspeed", lambda a: a.deepspeed, "It keeps gradients where the gate does not see them. Use `licet train`."),
    ("fsdp", lambda a: a.fsdp, "Use `torchrun … licet train` with [model] sharded = true."),
    ("label_smoothing_factor", lambda a: a.label_smoothing_factor, "Losses are the run's objective's. Set it to 0."),
    ("auto_find_batch_size", lambda a: a.auto_find_batch_size, "It would begin again in the midst of a recorded run."),
    ("load_best_model_at_end", lambda a: a.load_best_model_at_end, "It would put other weights under the record."),
    ("push_to_hub", lambda a: a.push_to_hub, "Push the sealed folder, which the ledger knows."),
    ("use_liger_kernel", lambda a: a.use_liger_kernel, "There is no rule for its kernels."),
    (
        "train_sampling_strategy",
        lambda a: (how := getattr(a, "train_sampling_strategy", "random")) not in ("random", "sequential") and how,
        "Lengths of samples are not known to it. Use random or sequential.",
    ),
    (
        "optim",
        lambda a: any(odd in a.optim for odd in ("lomo", "layerwise")) and a.optim,
        "It steps during the backward pass, where no guard can stand. Use another, as adamw_torch.",
    ),
)
_TAKEN = {
    "model": "The model is the run's.",
    "model_init": "The model is the run's, and its base is in the record.",
    "train_dataset": "What is trained on are the run's samples: name the rows in GovernedRun.begin.",
    "compute_loss_func": "The loss is the run's objective's: give one in GovernedRun.begin.",
}


def _check(args: TrainingArguments, others: Mapping[str, Any]) -> None:
    """Raise for what would make the record untrue."""
    for name, why in _TAKEN.items():
        if others.get(name) is not None:
            raise TrainerError(f"{name} cannot be given to GovernedTrainer.", remedy=why)
    for name, value_of, why in _REFUSED:
        value = value_of(args)
        if value:
            raise TrainerError(f"{name}={value} cannot be governed.", remedy=why)
