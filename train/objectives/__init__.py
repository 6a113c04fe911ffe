"""What is learned from a row: the text itself, the assistant's turns, or which of two answers is preferred."""

from __future__ import annotations

from licet.train.objectives.chat import ChatObjective
from licet.train.objectives.objective import Inputs, Objective, ObjectiveError, SampleError
from licet.train.objectives.preference import PreferenceObjective, adapter_reference, frozen_reference
from licet.train.objectives.pretraining import PretrainingObjective

__all__ = [
    "ChatObjective",
    "Inputs",
    "Objective",
    "ObjectiveError",
    "PreferenceObjective",
    "PretrainingObjective",
    "SampleError",
    "adapter_reference",
    "frozen_reference",
]
