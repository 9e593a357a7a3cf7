"""
Figures: `plot`, which all scripts use, and the README's ladder of InstructGPT.

    python -m papers.figures    reads runs/instructgpt, writes ladder.png there
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import atomic_write, command_line, option, reading


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
            axis.set_xticks(places - i * width / 2, list(values), rotation=20, fontsize=8)
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


@dataclass
class Options:
    name: str = option("instructgpt", "the finished run in runs/NAME")


def draw_ladder(options: Options = Options()):
    """The ladder, and score, KL and pretraining loss along PPO, as ladder.png."""
    folder = Path("runs") / options.name
    with reading(folder / "table.json", "the table of a finished run"):
        rows = json.loads((folder / "table.json").read_text())
        measure = "win" if "win" in rows[0] else "score"
        bars = {row["model"]: row[measure] for row in rows}
    title = "win rate against SFT" if measure == "win" else "score by the reward model"
    panels = [{"title": title, "bars": {None: bars}}]
    for key, title in (("score", "score by the reward model"),
                       ("kl", "KL to SFT, nats per answer"),
                       ("pretrain_loss", "held-out pretraining loss")):
        lines = []
        for stage, label in (("ppo", "PPO"), ("ppo_ptx", "PPO-ptx")):
            rows = logged(folder / f"{stage}.jsonl", key)
            lines.append((label, column(rows, "step"), column(rows, key)))
        panels.append({"title": title, "xlabel": "PPO iteration", "lines": lines})
    plot(folder / "ladder.png", panels)


if __name__ == "__main__":
    command_line({"ladder": draw_ladder}, default="ladder")
