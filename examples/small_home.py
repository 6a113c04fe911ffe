"""A home to try things in: two sources, what they attested, and a row that nobody did. Made by the public commands."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from licet.ledger.app import app
from licet.ledger.home import Home

PUMP = (
    "Ada's note {}. To open a pump, open the valve on the left, and wait. To close a pump, close the valve on the "
    "right, and wait. To clean a pump, close the valve on the left, open the valve on the right, and wait until the "
    "water is clear. Then open the valve on the left again."
)
WHEEL = (
    "Bob's note {}. Turn the wheel once, and wait until the needle rests. Turn the wheel twice, and wait until the "
    "needle rests again. When the needle does not rest, turn the wheel back, and wait. Then turn the wheel once more."
)
SOURCES = {
    ("ada", "maintainer", "MIT", "verbatim"): PUMP,
    ("bob", "community", "GPL-3.0-only", "abstraction"): WHEEL,
}
"""By source, authority, licence and recall. Under this policy, what is GPL reaches the surface only, and twice."""
NOBODYS = "A text that was found somewhere. Nobody said that it may be used."


def make(folder: Path, rows: int = 3) -> tuple[Home, Path]:
    """A home, and a file of rows that say by which attestation they may be used."""
    home, written = folder / "home", [{"text": NOBODYS}]
    _licet("init", home)
    _licet("policy", "adopt", "default:open-source-code", "--home", home)
    for (source, authority, licence, recall), text in SOURCES.items():
        texts, file = [text.format(i) for i in range(rows)], folder / f"{source}.jsonl"
        file.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
        _licet("source", "add", source, "--display-name", source.title(), "--authority", authority, "--home", home)
        terms = ("--kind", "open-licence", "--spdx", licence, "--recall", recall)
        said = _licet("attest", file, "--source", source, *terms, "--home", home)
        metadata = {
            "attestation": said["attestation"],
            "slope": 0,
            "scope": ["documentation"],
            "provenance": {"custody": [{"holder": source, "action": "written"}]},
            "fields": {"repository": "https://example.org/notes", "revision": "1"},
        }
        written += [{"text": one, "licet": metadata} for one in texts]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in written))
    return Home(home), data


def _licet(*words: object) -> Any:
    """A command's answer."""
    with redirect_stdout(io.StringIO()) as said:
        app([*(str(word) for word in words), "--json"], standalone_mode=False)
    return json.loads(said.getvalue().splitlines()[-1])
