"""The Python distributions installed here: what they say of themselves, and under which licence.

A licence is taken over where its meaning is plain. "BSD" or "Apache" without more could be several, so it is none.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from licet.ledger.errors import FormatError
from licet.policies.rights import parse_spdx

LICENCE_CHARS_MAX = 200
DESCRIPTION_BYTES_MAX = 16 << 20

_CLASSIFIERS = {
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Eclipse Public License 1.0 (EPL-1.0)": "EPL-1.0",
    "Eclipse Public License 2.0 (EPL-2.0)": "EPL-2.0",
    "European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Universal Permissive License (UPL)": "UPL-1.0",
    "zlib/libpng License": "Zlib",
}
_SPELLINGS = {
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "isc license": "ISC",
    "mit license": "MIT",
    "modified bsd license": "BSD-3-Clause",
    "mpl 2.0": "MPL-2.0",
    "new bsd": "BSD-3-Clause",
    "new bsd license": "BSD-3-Clause",
    "the mit license": "MIT",
    "the mit license (mit)": "MIT",
}


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution: its normal name, its version, its description, and an SPDX expression if it has a plain one."""

    name: str
    version: str
    description: bytes
    spdx: str | None


def installed_distributions() -> Iterator[Distribution]:
    """Those that have a description, by name; of several copies, the one that Python would import."""
    found: dict[str, Distribution] = {}
    for installed in importlib.metadata.distributions():
        read = _read(installed)
        if read is not None:
            found.setdefault(read.name, read)
    yield from (found[name] for name in sorted(found))


def spdx_of(expression: str | None, licence: str | None, classifiers: Iterable[str]) -> str | None:
    """The licence that a distribution states plainly. Where its statements do not agree, there is none."""
    stated = _spdx(expression)
    if stated is not None:
        return stated
    classified = {text.rpartition("::")[2].strip() for text in classifiers if text.startswith("License ::")}
    classified -= {"OSI Approved", "DFSG approved"}
    stated = _spdx(licence)
    if len(classified) > 1:
        return stated if stated is not None and " OR " in stated else None
    meant = _CLASSIFIERS.get(next(iter(classified), ""))
    if stated is None or meant is None:
        return stated or meant
    return stated if stated == meant else None


def _spdx(stated: str | None) -> str | None:
    """A licence expression, where a text is one or is a well-known way to write one."""
    text = " ".join((stated or "").split())
    if not text or len(text) > LICENCE_CHARS_MAX:
        return None
    try:
        return parse_spdx(_SPELLINGS.get(text.lower(), text))
    except FormatError:
        return None


def _read(installed: importlib.metadata.Distribution) -> Distribution | None:
    """What one distribution says; None if it says nothing that can be read."""
    try:
        said: Any = installed.metadata
        name = re.sub(r"[-_.]+", "-", str(said["Name"] or "")).lower()
        text = said["Description"] or said.get_payload()
        description = str(text or "").encode(errors="surrogateescape")
        spdx = spdx_of(said["License-Expression"], said["License"], said.get_all("Classifier") or ())
        version = str(said["Version"] or "")
    except (OSError, ValueError, TypeError, AttributeError, KeyError):  # a broken installation is none of ours
        return None
    named = re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", name)
    return Distribution(name, version, description, spdx) if named and _is_text(description) else None


def _is_text(description: bytes) -> bool:
    return bool(description.strip()) and len(description) <= DESCRIPTION_BYTES_MAX
