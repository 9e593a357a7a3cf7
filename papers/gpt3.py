"""
GPT-3, put to the test: a model that learns from the examples in its prompt.

The claims:
    in context  larger models make more of the same K examples (Figure 1.2). The text was
                built to contain documents that hold one rule each, so that rules are
                learned at all is no finding; of a held-out rule only the combination of
                signs is new. Examples with random labels are a control.
    comparing   dividing by P(answer | "A:") can compare answers better (§2.4)
    synthetic   examples help with arithmetic and scrambled words (§3.9), answered by
                beam search; the text is made of these tasks, so that examples can add little
    bands       dense and locally banded layers in turn (§2.1) lose little (our margin;
                the paper does not compare)

    python -m papers.gpt3           four tables and a figure (about 5 minutes)
    python -m papers.gpt3 sizes     the papers' models: parameters, memory, compute
    python -m papers.gpt3 speed     training steps of GPT-2's smallest on this machine

Results go to runs/gpt3. Paper: GPT-3 (arXiv:2005.14165); see also gpt3_data.py.
"""
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import data
from data import World, command_line, option
from gpt import GPTConfig, TrainConfig, print_table
from papers.claims import Claim, RunOptions, folder_of, mean_and_error, mean_gain, save_claims
from papers.figures import plot
from papers.gpt3_answers import comparing, exact_match
from papers.gpt3_costs import sizes, speed
from papers.gpt3_tasks import PROMPTS, RULE_WEB, SCRAMBLED, TASK_WEB, rule_cases
from papers.models import SIZES, choice_accuracy, pretrained

BYTES = 256 + len(data.SPECIAL_TOKENS)  # a tokenizer without merges
SHOTS = (0, 1, 2, 4, 8, 16, 32)  # K: examples in the prompt


@dataclass
class Options(RunOptions):
    name: str = option("gpt3", "results go to runs/NAME")
    steps: int = option(600, "optimizer steps of each model of rules", at_least=1)
    cases: int = option(200, "held-out cases for each K", at_least=2)
    task_steps: int = option(1000, "optimizer steps of the model of synthetic tasks", at_least=1)
    documents: int = option(data.WORLD_DOCUMENTS, "documents that each model reads", at_least=10)
    seed: int = option(0, "of the world, the weights and the batches")


def rule_model(options: Options, folder: Path, size: str, window: int | None = None):
    """A model of one size, trained on documents of rules; see `pretrained`."""
    shape = dataclasses.replace(SIZES[size], block_size=192, window=window)
    name = f"{size}-banded.pt" if window else f"{size}.pt"
    config = TrainConfig(steps=options.steps, seed=options.seed)
    return pretrained(folder / "rules" / name, RULE_WEB, options.documents, shape, config)


def in_context(options: Options, folder: Path):
    """Accuracy by the number of examples: a row for each size and kind of prompt."""
    world = World(options.seed)
    rows = []
    for size in ("24k", "45k", "180k"):
        model, tokenizer, *_ = rule_model(options, folder, size)
        for kind in PROMPTS:
            row = {"size": size, "prompt": kind}
            for K in SHOTS:
                cases = rule_cases(world, K, options.cases, kind)
                row[f"K = {K}"] = choice_accuracy(model, tokenizer, cases)
            rows.append(row)
    return rows


def synthetic(options: Options, folder: Path) -> list[dict]:
    """The paper's synthetic tasks. The model reads bytes: merges would hide letters."""
    shape = GPTConfig(BYTES, 256, n_layer=3, n_head=3, n_embd=96)
    config = TrainConfig(steps=options.task_steps, seed=options.seed)
    model, tokenizer, *_ = pretrained(folder / "tasks" / "tasks.pt", TASK_WEB,
                                      options.documents, shape, config)
    # half as many cases: a beam search takes one at a time
    return exact_match(model, tokenizer, World(options.seed), options.cases // 2)


def bands(options: Options, folder: Path) -> list[dict]:
    """Dense layers against dense and banded ones in turn, trained alike. What a band saves at
    longer contexts is in the table of papers/flash_attention.py."""
    cases = rule_cases(World(options.seed), 32, options.cases, "examples")
    rows = []
    for layers, window in (("dense", None), ("alternating", 24)):
        model, tokenizer, *_, result = rule_model(options, folder, "180k", window=window)
        accuracy = choice_accuracy(model, tokenizer, cases)
        rows.append({"layers": layers, **result, "K = 32": accuracy})
    return rows


def draw(folder: Path, shots: list[dict], tasks: list[dict]):
    """Figure 1.2, and the synthetic tasks."""
    colors = {"24k": "C0", "45k": "C1", "180k": "C2"}
    styles = {"examples": "-", "with description": "--", "random labels": ":"}
    lines = []
    for row in shots:
        label = row["size"] if row["prompt"] == "examples" else None
        style = colors[row["size"]] + styles[row["prompt"]]
        lines.append((label, SHOTS, [row[f"K = {K}"] for K in SHOTS], style))
    bars = {}
    for K in (0, 1, 6):
        bars[f"K = {K}"] = {row["task"]: row[f"K = {K}"] for row in tasks}
    accuracy = {
        "title": "accuracy on held-out rules (Fig. 1.2)\n"
                 "— examples  -- with description  ··· random labels",
        "xlabel": "examples in the prompt, K",
        "lines": lines,
    }
    exact = {"title": "synthetic tasks, exact match", "bars": bars}
    plot(folder / "gpt3.png", [accuracy, exact])


def claims(shots: list[dict], worth: list, tasks: list[dict], layers: list[dict],
           cases: int) -> list[Claim]:
    """Of one seed: errors are over cases, as if each column had its own (200 of them have about 130
    rules, without examples about 60 prompts). papers.claims takes them over seeds."""
    small, large = (row for row in shots if row["prompt"] == "examples" and row["size"] != "45k")
    of_small, of_large = (mean_gain([row["K = 0"]], [row["K = 32"]], [cases])
                          for row in (small, large))
    rows = [Claim("GPT-3", "Fig. 1.2", "180k gains more from 32 examples than 24k, accuracy (built "
                  "in: the text has documents of one rule each; 24k stays at chance)",
                  "steeper with size (chart)",
                  of_large[0] - of_small[0], math.hypot(of_large[1], of_small[1]), 1, cases),
            Claim("GPT-3", "§2.4", "dividing by P(answer after \"A:\" alone) compares better than "
                  "per token, accuracy at K = 1", "on ARC, OpenBookQA and RACE",
                  *mean_and_error(worth), 1, len(worth))]
    scrambled = [row for row in tasks if row["task"] in SCRAMBLED]
    arithmetic = [row for row in tasks if row["task"] not in SCRAMBLED]
    for name, paper, chosen in (("arithmetic", "0.231 (2D+), 0.115 (1DC)", arithmetic),
                                ("scrambled words", "0.342 (CL) ... 0.0035 (RW), at K = 100",
                                 scrambled)):
        counts = [row["cases"] for row in chosen]
        without, after = ([row[K] for row in chosen] for K in ("K = 0", "K = 6"))
        rows.append(Claim("GPT-3", "§3.9", f"6 examples help with {name}, exact match, mean over "
                          "tasks (hardly a test: the text is made of these tasks)", paper,
                          *mean_gain(without, after, counts), 1, sum(counts)))
    dense, banded = (row["K = 32"] for row in layers)
    gain, error = mean_gain([dense], [banded], [cases])
    rows.append(Claim("GPT-3", "§2.1", "alternating bands lose less than .05 accuracy at K = 32 "
                      "(our margin): .05 minus the loss", "no claim",
                      gain + 0.05, error, 1, cases))
    return rows


def gpt3(options: Options = Options()):
    """Learning from examples in the prompt, synthetic tasks, banded layers. [GPT-3]"""
    if options.fast:
        options = dataclasses.replace(options, steps=2, cases=4, task_steps=2, documents=1000)
    # the number of cases is not among the settings: it does not change what is trained
    folder = folder_of(options, "steps", "task_steps", "documents", "seed")

    shots = in_context(options, folder)
    print("\n== accuracy on held-out rules (chance .25) by examples")
    print_table(shots, folder / "table.json")

    print("\n== questions with four answers (chance .25) by the way to compare answers")
    model, tokenizer, *_ = rule_model(options, folder, "180k")
    compared, worth = comparing(model, tokenizer, World(options.seed), options.cases)
    print_table(compared, folder / "comparing.json")

    tasks = synthetic(options, folder)
    print("\n== synthetic tasks, held out; the last three columns are the paper's 175B")
    print_table(tasks, folder / "tasks.json")

    print("\n== dense or alternating with banded layers, equal training")
    layers = bands(options, folder)
    print_table(layers, folder / "bands.json")
    draw(folder, shots, tasks)
    save_claims(folder, claims(shots, worth, tasks, layers, options.cases))


if __name__ == "__main__":
    command_line({"gpt3": gpt3, "sizes": sizes, "speed": speed}, default="gpt3")
