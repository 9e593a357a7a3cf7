"""
GPT-1, put to the test: pretrain a language model, then fine-tune it by changing only its input.

The claims:
    pretraining     fine-tuning a pretrained model is better than training from scratch (Table 5)
    auxiliary loss  predicting the task's own text as well helps, on large tasks (§5)
    transformer     it transfers better than an LSTM (Table 5); our LSTM has as many parameters and
                    is untuned
    layers          transferring the layers helps, not only the embeddings (Figure 2, left)
    zero-shot       the tasks are learned in pretraining already (Figure 2, right)
The world's text has all words and forms of the four tasks: that pretraining helps is built in.

    python -m papers.gpt1
    python -m papers.gpt1 sample --prompt TEXT    OpenAI's released GPT-1 continues a text

Paper: GPT-1 (Radford et al. 2018).
"""
import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import data
import gpt
from data import World, command_line, option
from gpt import GPT
from papers.claims import Claim, RunOptions, folder_of, mean_gain, save_claims
from papers.figures import column, logged, plot
from papers.gpt1_analysis import CHANCE, LSTM, transfer, zero_shot, zero_shot_cases
from papers.gpt1_finetuning import (LM_COEF, NEW_TOKENS, Classifier, Task, accuracy, fine_tune,
                                    world_tasks)
from papers.gpt1_tokenizer import sample
from papers.models import SIZES
from papers.tasks import wide_web

SHAPE = dataclasses.replace(SIZES["760k"], post_norm=True)

# What is compared: the pretrained model, how many of its layers are transferred (None: the whole
# model, -1: nothing), the weight of the auxiliary loss, and the paper's mean (Table 5).
RUNS = {
    "pretrained": ("gpt", None, LM_COEF, 0.747),
    "no auxiliary LM": ("gpt", None, 0.0, 0.750),
    "LSTM": ("lstm", None, LM_COEF, 0.691),
    "from scratch": ("gpt", -1, LM_COEF, 0.599),
    "embeddings only": ("gpt", 0, LM_COEF, None),
    "1 of 3 layers": ("gpt", 1, LM_COEF, None),
    "2 of 3 layers": ("gpt", 2, LM_COEF, None),
}
# Figure 2 left: what is transferred, and the run that does so.
LAYERS = {"nothing": "from scratch", "embeddings": "embeddings only", "+ 1": "1 of 3 layers",
          "+ 2": "2 of 3 layers", "+ 3": "pretrained"}


@dataclass
class Options(RunOptions):
    name: str = option("gpt1", "results go to runs/NAME")
    steps: int = option(1500, "optimizer steps of pretraining", at_least=1)
    cases: int = option(600, "cases of each task to train on, and up to as many to test on",
                        at_least=1)
    seed: int = option(0, "of the world, the weights and the batches")


def pretrain(options: Options, folder: Path):
    """GPT-1's transformer and an LSTM, trained on the same text: {name: model}, tokenizer."""
    world = World(options.seed)
    count = 500 if options.fast else data.WORLD_DOCUMENTS
    text = data.tokenize_text(lambda: wide_web(world, count), SHAPE.vocab_size, folder)
    tokenizer = text[0]
    shape = dataclasses.replace(SHAPE, vocab_size=tokenizer.vocab_size)
    config = gpt.TrainConfig(steps=options.steps, seed=options.seed)
    cases = zero_shot_cases(world)
    models = {}
    for name, kind in (("gpt", GPT), ("lstm", LSTM)):
        torch.manual_seed(options.seed)
        model = kind(shape).to(gpt.pick_device())
        print(f"== pretraining: {name}, {model.num_params():,} parameters", flush=True)
        run_log = gpt.RunLog(folder / f"{name}.jsonl")

        def log(step: int, steps: int, **values: float):
            if "val_loss" in values:
                values.update(zero_shot(model, tokenizer, cases))
            run_log(step, steps, **values)

        gpt.train(model, *text, config, folder / f"{name}.pt", log)
        models[name] = model
    return models, tokenizer


def fine_tuned_accuracy(model, tokenizer, task: Task, layers: int | None, lm_coef: float,
                        seed: int) -> float:
    """Fine-tune what is transferred of a model: the accuracy on the task's held-out cases."""
    torch.manual_seed(seed)
    tokens = tokenizer.vocab_size + NEW_TOKENS
    classifier = Classifier(transfer(model, layers), tokens, task.classes)
    fine_tune(classifier, task, tokenizer, lm_coef, seed)
    return accuracy(classifier, task, tokenizer)


def compare(models: dict, tokenizer, tasks: dict[str, Task], seed: int,
            path: Path) -> dict[str, dict[str, float]]:
    """{run: {task: accuracy}}. What `path` has already is not computed again."""
    known = json.loads(path.read_text()) if path.exists() else {}
    accuracies = {name: {} for name in RUNS}
    for name, (trained, layers, lm_coef, paper) in RUNS.items():
        for task_name, task in tasks.items():
            # for the layers, the paper has entailment and multiple choice only
            if not paper and task_name in ("classification", "similarity"):
                continue
            key = f"{name}: {task_name}"
            if key not in known:
                known[key] = fine_tuned_accuracy(models[trained], tokenizer, task, layers, lm_coef,
                                                 seed)
                data.write_json(path, known)
            accuracies[name][task_name] = known[key]
            print(f"{name:16s} {task_name:16s} {known[key]:.3f}", flush=True)
    return accuracies


def table_row(name: str, accuracies: dict[str, float], paper: float | None) -> dict:
    """Each task; the mean of all beside the paper's, if there is one."""
    row = {"model": name, **accuracies}
    if paper:
        row.update({"mean": float(np.mean(list(accuracies.values()))), "Table 5": paper})
    return row


def difference(accuracies: dict, tasks: dict[str, Task], one: str, other: str) -> tuple:
    """Of two runs the difference of the mean over tasks, its standard error over cases (too small:
    these share fourteen people), the seeds (one), the cases. Balanced accuracy is at most as
    uncertain as if each class had as many cases as the rarest one, so as many are counted."""
    names = [name for name in accuracies[one] if name in accuracies[other]]
    counts = []
    for name in names:
        classes = Counter(case.label for case in tasks[name].test)
        counts.append(len(classes) * min(classes.values()))
    shares = [[accuracies[run][name] for name in names] for run in (other, one)]
    return *mean_gain(*shares, counts), 1, sum(counts)


def claims(options: Options, folder: Path, accuracies: dict,
           tasks: dict[str, Task]) -> list[Claim]:
    """Of one seed: errors are over cases. papers.claims takes them over seeds."""
    rows = logged(folder / "gpt.jsonl", "schemas")
    cases = zero_shot_cases(World(options.seed))
    counts = [len(cases[task]) for task in CHANCE]
    first, last = ([row[task] for task in CHANCE] for row in (rows[0], rows[-1]))
    return [
        Claim("GPT-1", "Table 5", "pretrained is better than from scratch, balanced accuracy, mean "
              "over four tasks (built in: the text has the tasks' words)", "0.148 (average score)",
              *difference(accuracies, tasks, "pretrained", "from scratch")),
        Claim("GPT-1", "§5", f"the auxiliary objective helps, the same mean ({options.cases} "
              "training cases each)", "-0.003 (average score); large sets gain",
              *difference(accuracies, tasks, "pretrained", "no auxiliary LM")),
        Claim("GPT-1", "Table 5", "the transformer transfers better than an LSTM, the same mean"
              " (the LSTM is untuned: AdamW alone, at the rate chosen for a transformer with Muon)",
              "0.056 (average score)", *difference(accuracies, tasks, "pretrained", "LSTM")),
        Claim("GPT-1", "Fig. 2 left", "all layers are better than the embeddings only, balanced "
              "accuracy (two tasks)", "up to 0.09 (MultiNLI)",
              *difference(accuracies, tasks, "pretrained", "embeddings only")),
        Claim("GPT-1", "Fig. 2 right", "zero-shot accuracy rises along pretraining, last evaluation"
              f" minus first, at step {rows[0]['step']} (the text has these forms, and "
              "acceptability's true sentences)", "rises all along",
              *mean_gain(first, last, counts), 1, sum(counts))]


def draw(folder: Path, accuracies: dict):
    """Table 5 as bars, Figure 2 left and Figure 2 right."""
    layers = []
    for task in accuracies["embeddings only"]:
        ys = [accuracies[name][task] for name in LAYERS.values()]
        layers.append((task, list(LAYERS), ys, "o-"))

    zero_shots = []
    for stage, style in (("gpt", "-"), ("lstm", "--")):
        rows = logged(folder / f"{stage}.jsonl", "schemas")
        steps = column(rows, "step")
        for index, (task, chance) in enumerate(CHANCE.items()):
            label = task if stage == "gpt" else None
            zero_shots.append((label, steps, column(rows, task), f"C{index}.{style}"))
            zero_shots.append((None, steps, [chance for _ in steps], f"C{index}:"))

    whole = {name: accuracies[name] for name, (*_, paper) in RUNS.items() if paper}
    plot(folder / "gpt1.png", [
        {"title": "accuracy after fine-tuning", "bars": whole},
        {"title": "what is transferred (Fig. 2 left)", "lines": layers, "xlabel": "layers"},
        {"title": "zero-shot (Fig. 2 right)\n— transformer  -- LSTM  ··· chance",
         "lines": zero_shots, "xlabel": "pretraining steps"},
    ])


def gpt1(options: Options = Options()):
    """Pretrain, then fine-tune with and without what the paper takes away. [GPT-1 §4, §5]"""
    if options.fast:
        options = dataclasses.replace(options, steps=2, cases=4)
    tasks = world_tasks(World(options.seed), options.cases)
    folder = folder_of(options, "steps", "cases", "seed", "fast")
    models, tokenizer = pretrain(options, folder)

    print("\n== fine-tuning")
    accuracies = compare(models, tokenizer, tasks, options.seed, folder / "accuracies.json")

    print("\nbalanced accuracy on held-out cases; cases:",
          ", ".join(f"{name} {len(task.test)}" for name, task in tasks.items()))
    rows = [table_row(name, accuracies[name], paper) for name, (*_, paper) in RUNS.items()]
    gpt.print_table(rows, folder / "table.json")
    draw(folder, accuracies)
    save_claims(folder, claims(options, folder, accuracies, tasks))


if __name__ == "__main__":
    command_line({"gpt1": gpt1, "sample": sample}, default="gpt1")
