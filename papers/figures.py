"""
Figures: `plot`, and what the scripts that draw read from logs and tables.
"""
import json
from pathlib import Path

import numpy as np

from data import atomic_write, reading


def column(rows: list[dict], name: str) -> np.ndarray:
    """The value of this name in every row."""
    return np.array([row[name] for row in rows])


def logged(path: Path, name: str) -> list[dict]:
    """The rows of a run's log that have a value of this name."""
    with reading(path, "a log of a run"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if name in row]


def plot(path: Path, panels: list[dict]):
    """Draw panels side by side into a PNG, or say how to get matplotlib. A panel is a dict of:

    title, xlabel: text. logx: whether the x axis is logarithmic. lines: [(label or None, xs, ys) or
    (label, xs, ys, matplotlib format)]. bars: {label: {name: value}}, grouped by name.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"\nfor the figure {path.name}: pip install matplotlib, then the same command again")
        return
    figure = Figure(figsize=(4.5 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, panel in zip(axes[0], panels):
        for label, xs, ys, *style in panel.get("lines", []):
            axis.plot(xs, ys, *style, label=label)
        bars = panel.get("bars", {})
        for i, (label, values) in enumerate(bars.items()):
            width = 0.8 / len(bars)
            places = np.arange(len(values)) + i * width
            axis.bar(places, list(values.values()), width, label=label)
        if bars:
            middle = np.arange(len(values)) + 0.4 - width / 2
            axis.set_xticks(middle, list(values), rotation=20, fontsize=8)
        if panel.get("logx"):
            axis.set_xscale("log")
            axis.minorticks_off()
        axis.set_title(panel["title"], fontsize=10)
        axis.set_xlabel(panel.get("xlabel", ""))
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    print(f"\nfigure: {path}")
