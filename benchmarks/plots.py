"""Pictures of how figures grow, drawn from the rows that a benchmark printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

QUESTIONS = ("reverse, 8 blocks, top 20", "forward, one source", "prove one entry")


def plot_growth(rows: list[dict[str, Any]], path: Path) -> None:
    """Rate and latencies against the number of events, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "licet"  # the same rows give the same file
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6))
    growth = [row for row in rows if row["what"] == "append growth"]
    left.plot(*_points(growth, "events_per_s"), marker="o", color="tab:blue")
    left.set(
        xscale="log", title="append, one durable commit of 256 at a time", xlabel="events", ylabel="events a second"
    )
    left.set_ylim(bottom=0)
    for question, style in zip(QUESTIONS, ("o-", "s-", "^-"), strict=True):
        asked = [row for row in rows if row["what"] == question]
        line = right.plot(*_points(asked, "p50_ms"), style, label=f"{question}, median")
        right.plot(*_points(asked, "p99_ms"), style[0] + ":", color=line[0].get_color(), label="99th percentile")
    right.set(xscale="log", yscale="log", title="questions to the writer", xlabel="events", ylabel="milliseconds")
    right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (left, right):
        axes.grid(visible=True, which="both", alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _points(rows: list[dict[str, Any]], what: str) -> tuple[list[float], list[float]]:
    return [row["events"] for row in rows], [row[what] for row in rows]
