"""A small policy that tests change piece by piece."""

from __future__ import annotations

import copy
import json
from typing import Any

from licet.policies.bands import Architecture
from licet.policies.policy import Policy

ALL: dict[str, float] = {"*": 1.0}

SMALL: dict[str, Any] = {
    "licet": 1,
    "name": "small",
    "version": "1",
    "scopes": ["pretraining", "fine-tuning"],
    "band": [
        {"name": "surface", "share": [0.85, 1.0]},
        {"name": "behavioral", "share": [0.2, 0.85]},
        {"name": "foundational", "share": [0.0, 0.2]},
    ],
    "reserved": [{"name": "alignment", "share": [0.4, 0.6]}],
    "falloff": {"shape": "linear", "width": 0.1},
    "entropy": [
        {"name": "low", "below": 2.0, "ceiling": {"surface": 1.0, "behavioral": 0.5, "foundational": 0.0}},
        {"name": "middle", "below": 5.0, "ceiling": ALL},
        {"name": "high", "ceiling": {"surface": 0.5, "behavioral": 1.0, "foundational": 1.0}},
    ],
    "slope": {"ceilings": [ALL, {"surface": 1.0, "behavioral": 0.5, "foundational": 0.0}, {"surface": 0.5, "*": 0.0}]},
    "authority": {
        "community": {"ceiling": ALL, "skills": ["coding"]},
        "safety": {"ceiling": ALL, "rights": ["align", "revoke"], "skills": ["*"]},
    },
    "licence": {
        "open-licence": {"ceiling": ALL, "require": ["spdx"]},
        "public-domain": {"ceiling": ALL},
        "time-limited": {"ceiling": ALL, "require": ["valid-until"]},
        "synthetic": {"ceiling": {"surface": 1.0, "*": 0.5}},
        "exclusion": {"ceiling": ALL},
    },
    "spdx": {"permissive": ["MIT", "Apache-2.0"], "copyleft": ["GPL-*", "AGPL-*"]},
    "rule": [
        {
            "id": "copyleft",
            "when": {"spdx": ["copyleft"]},
            "ceiling": {"surface": 1.0, "*": 0.0},
            "because": "Copyleft text is not taught deep.",
        },
        {"id": "unknown", "when": {"spdx": ["unknown"]}, "reject": True, "because": "Nobody here read this licence."},
    ],
    "skill": {"coding": {"bands": ["behavioral"], "ceiling": ALL}, "medicine": {"bands": ["behavioral"]}},
}

SIX = Architecture.uniform(6, embedding=100, layer=50, head=100)


def document(**changes: Any) -> dict[str, Any]:
    """The small policy with some of its fields replaced."""
    return {**copy.deepcopy(SMALL), **changes}


def policy(**changes: Any) -> Policy:
    return Policy.parse(as_toml(document(**changes)))


def as_toml(values: dict[str, Any]) -> str:
    """A document as TOML, one line for each field of the top."""
    return "\n".join(f"{name} = {_value(value)}" for name, value in values.items()) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_value(part)}" for name, part in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value)
