"""The heatmap of recorded exposure, source × block: as an SVG picture, and as a table for a terminal.

A colour is the source's share of what a block was given, so that each column can be read by itself: norms of different
blocks are of different sizes. What it shows is recorded exposure, which is not causal influence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from xml.sax.saxutils import escape, quoteattr

from licet.ledger.errors import NotFoundError
from licet.ledger.exposure import Exposure
from licet.ledger.norms import magnitude

ROWS_MAX = 200
NAME_CHARS_MAX = 32
_CELL_W, _CELL_H, _NAMES_W, _HEAD_H, _FOOT_H, _EDGE = 74, 22, 230, 74, 34, 12
_SHADES = "░▒▓█"
_DEPTH_MIN = 0.05
"""What little there is can still be told from nothing."""

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1c2733; }
.title { font-size: 15px; font-weight: 600; }
.note { fill: #5a6b7b; }
.cell { fill: #0b6e4f; }
.frame { fill: none; stroke: #d5dde4; }
.light { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #10161c; } text { fill: #dbe4ec; } .note { fill: #8fa1b3; }
  .cell { fill: #3fc796; } .frame { stroke: #2c3843; } .light { fill: #06120d; }
}
"""


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Exact sums of recorded exposure [source][block]."""

    sources: tuple[str, ...]
    blocks: tuple[str, ...]
    totals: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, exposure: Exposure, *, sources: Sequence[str] | None = None, run: int | None = None) -> Self:
        """A run, with what it grew from: these sources in this order, or all of them, the strongest first."""
        blocks = tuple(dict.fromkeys(block for part in exposure.lineage(run) for block in part.blocks))
        ranked = [{row.source: row.total for row in exposure.reverse([b], top=None, run=run)} for b in blocks]
        if sources is None:
            sums = {row.source: row.total for row in exposure.reverse(blocks, top=None, run=run)}
            sources = sorted(sums, key=lambda source: (-sums[source], source))
        if not sources:
            raise NotFoundError("No gradient of any source is recorded in this log.", remedy="Train first.")
        return cls(tuple(sources), blocks, tuple(tuple(of.get(s, 0) for of in ranked) for s in sources))

    def shares(self) -> list[list[float]]:
        """Of each block's exposure, the part that each source has."""
        sums = [sum(column) for column in zip(*self.totals, strict=True)]
        return [
            [total / whole if whole else 0.0 for total, whole in zip(row, sums, strict=True)] for row in self.totals
        ]

    # -- a table

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Headings and rows: percentages of each block, with a shade; a dot where nothing at all was recorded."""
        strongest = self._strongest()
        rows = [
            (_short(source), *(_cell(share, total, strongest) for share, total in zip(shares, totals, strict=True)))
            for source, shares, totals in zip(self.sources, self.shares(), self.totals, strict=True)
        ]
        return ("source, % of", *map(_short, self.blocks)), rows

    # -- a picture

    def svg(self, title: str = "Recorded exposure: each source's share of each block") -> str:
        """A picture that needs nothing else. Of very many sources it shows the first and says how many it left out."""
        shown = min(len(self.sources), ROWS_MAX)
        left_out = f" {len(self.sources) - shown} more sources are not shown." if shown < len(self.sources) else ""
        width = _NAMES_W + _CELL_W * len(self.blocks) + _EDGE
        height = _HEAD_H + _CELL_H * shown + _FOOT_H
        note = f"Darker is more; an empty frame is nothing at all. Exposure is not causal influence.{left_out}"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label={quoteattr(_plain(title))}>',
            f"<style>{_STYLE}</style>",
            f'<rect class="ground" width="{width}" height="{height}" fill="#ffffff"/>',
            f'<text class="title" x="{_EDGE}" y="26">{escape(_plain(title))}</text>',
            *(_heading(column, block) for column, block in enumerate(self.blocks)),
            *(line for row in range(shown) for line in self._row(row)),
            f'<text class="note" x="{_EDGE}" y="{height - _EDGE}">{escape(note)}</text>',
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _row(self, row: int) -> list[str]:
        y, source = _HEAD_H + _CELL_H * row, self.sources[row]
        strongest, shares = self._strongest(), self.shares()[row]
        lines = [
            f'<text x="{_NAMES_W - 8}" y="{y + 15}" text-anchor="end">{escape(_short(source))}'
            f"<title>{escape(_plain(source))}</title></text>"
        ]
        for column, (share, total) in enumerate(zip(shares, self.totals[row], strict=True)):
            x, depth = _NAMES_W + _CELL_W * column, _depth(share, strongest)
            told = f"{source} in {self.blocks[column]}: {magnitude(total):.4g}, {share:.2%} of the block"
            lines.append(f"<g><title>{escape(_plain(told))}</title>")
            if total:
                lines.append(
                    f'<rect class="cell" x="{x}" y="{y}" width="{_CELL_W - 2}" height="{_CELL_H - 2}" '
                    f'fill-opacity="{max(depth, _DEPTH_MIN):.3f}"/>'
                )
                shade = ' class="light"' if depth > 0.55 else ""
                lines.append(
                    f'<text{shade} x="{x + _CELL_W / 2 - 1}" y="{y + 15}" text-anchor="middle">{100 * share:.1f}</text>'
                )
            lines.append(f'<rect class="frame" x="{x}" y="{y}" width="{_CELL_W - 2}" height="{_CELL_H - 2}"/></g>')
        return lines

    def _strongest(self) -> float:
        return max((share for row in self.shares() for share in row), default=0.0)


def _heading(column: int, block: str) -> str:
    x = _NAMES_W + _CELL_W * column + _CELL_W / 2 - 1
    return f'<text x="{x}" y="{_HEAD_H - 10}" text-anchor="middle">{escape(_short(block, 11))}</text>'


def _depth(share: float, strongest: float) -> float:
    """How dark a cell is, 0 to 1, against the darkest."""
    return share / strongest if strongest else 0.0


def _cell(share: float, total: int, strongest: float) -> str:
    if not total:
        return "·"
    shade = _SHADES[min(int(_depth(share, strongest) * len(_SHADES)), len(_SHADES) - 1)]
    return f"{shade} {100 * share:.1f}"


def _short(name: str, chars_max: int = NAME_CHARS_MAX) -> str:
    plain = _plain(name)
    return plain if len(plain) <= chars_max else plain[: chars_max - 1] + "…"


def _plain(text: str) -> str:
    """A text on one line that no terminal takes for a command, and that a picture can hold."""
    return "".join(c if c.isprintable() else "?" for c in text)
