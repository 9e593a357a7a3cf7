"""
FLAN (Wei et al. 2021, arXiv:2109.01652), put to the test: a model tuned on instructions follows
them for tasks it was not tuned on.

The claims, with one cluster of tasks left out of the tuning:
    tuned         the tuned model beats its untuned base, both zero-shot
    clusters      the more clusters in the tuning, the better (§4.1)
    size          the larger model gains more, and the small one is hurt (§4.2)
    instructions  tuning on inputs and outputs alone is worse (§4.3; with names of tasks: a table)
    prompt        an instruction to the tuned model beats solved examples in its base's prompt (§3)

Built in: the base has read statements and lists of solved cases of all tasks (see flan_tasks.py),
and no instruction; examples in its prompt have the form of these lists. All tasks ask for one of
three words (chance 1/3) in the same six wordings; the word with the highest log-probability per
token counts as the model's answer.
In all clusters but "kinds" and "size" the right one is the only word of its sort, and the two
others are of one sort, so it can be found without the instruction. "The one that is no animal" is
in another cluster than "animal". (In earlier runs the answer of an example could be one of the
case's three words. Choosing such a word was right in .59 of the cases; few-shot, the base had .78.)

    python -m papers.flan       two tables and a figure (about 25 minutes), in runs/flan
"""
import copy
import dataclasses
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
import gpt
import rlhf
from data import Tokenizer, World, command_line, option
from gpt import GPT, print_table
from papers.claims import Claim, RunOptions, folder_of, mean_and_error, save_claims
from papers.figures import plot
from papers.flan_tasks import (CLUSTERS, FLAN_WEB, SHOTS, accuracy, held_out_cases, make_case,
                               show_answers, with_mask, zero_shot_prompt)
from papers.models import SIZES, pretrained

SHAPES = {
    "small": dataclasses.replace(SIZES["180k"], block_size=96, n_embd=32),
    "large": dataclasses.replace(SIZES["180k"], block_size=96),
}
FEWER = (1, 3)           # clusters in the tuning, instead of all seven others
TUNE_BATCH = 16          # cases
TUNE_LR = 1e-3           # AdamW's peak rate
PRETRAINING_WINDOWS = 4  # of the base's text beside each batch of cases


@dataclass
class Options(RunOptions):
    name: str = option("flan", "results go to runs/NAME")
    steps: int = option(1000, "optimizer steps of each base", at_least=1)
    tune_steps: int = option(75, "optimizer steps of each tuning", at_least=1)
    seeds: int = option(8, "bases of each size", at_least=1)
    cases: int = option(80, "held-out cases of each cluster", at_least=2)
    documents: int = option(20_000, "documents that each base reads", at_least=100)


@dataclass
class Base:
    """A pretrained model and what its tuning needs."""
    world: World
    model: GPT
    tokenizer: Tokenizer
    stream: np.ndarray  # what it was trained on
    path: Path


def tune(options: Options, base: Base, clusters: tuple[str, ...], form: str,
         name: str) -> GPT:
    """Tune a copy of the base on these clusters, or load it. The number of cases is always the
    same, and only answers have loss."""
    path = base.path.with_stem(f"{base.path.stem} {name}")
    if path.exists():
        return gpt.load_model(path)[0]
    model, tokenizer = copy.deepcopy(base.model), base.tokenizer
    rng = random.Random(f"tune {base.world.seed}")
    optimizers = gpt.make_optimizers(model, TUNE_LR)
    windows = data.Batches(base.stream, PRETRAINING_WINDOWS, model.config.block_size, seed=0)
    for step in range(options.tune_steps):
        examples = []
        for _ in range(TUNE_BATCH):
            case = make_case(base.world, rng, "train", rng.choice(clusters))
            prompt = zero_shot_prompt(rng, case, form)
            examples.append(with_mask(tokenizer, prompt, f" {case.answer}\n"))
        loss = rlhf.sft_loss(model, tokenizer, examples)
        loss.backward()
        gpt.pretraining_loss(model, windows).backward()
        gpt.update(model, optimizers, gpt.schedule(step, options.tune_steps, warmup=0))
    print(f"{path}: loss {loss.item():.3f}", flush=True)
    gpt.save_checkpoint(path, model, tokenizer)
    return model.eval()


def leave_one_out(options: Options, base: Base, size: str) -> list[dict]:
    """A row for each cluster: accuracies on it of the base, and of models tuned on all other
    clusters or on those that follow it (after the last comes the first), so that each cluster is
    used equally often."""
    rows = []
    for place, cluster in enumerate(CLUSTERS):
        cases = held_out_cases(base.world, cluster, options.cases)
        others = CLUSTERS[place + 1:] + CLUSTERS[:place]

        def measure(model, form):
            return accuracy(base.world, model, base.tokenizer, cluster, cases, form)

        def tuned_on(clusters, form):
            return tune(options, base, clusters, form, f"{cluster} {form} {len(clusters)}")

        tuned = tuned_on(others, "instructions")
        row = {
            "held out": cluster,
            "cases": len(cases),
            "statement": measure(base.model, "statement"),
            "zero-shot": measure(base.model, "instructions"),
            "few-shot": measure(base.model, "examples"),
            "tuned": measure(tuned, "instructions"),
        }
        if size == "large":
            for count in FEWER:
                fewer = tuned_on(others[:count], "instructions")
                row[f"tuned on {count}"] = measure(fewer, "instructions")
            row["no template"] = measure(tuned_on(others, "no template"), "instructions")
            named = tuned_on(others, "task name")
            row["name"] = measure(named, "instructions")
            row["name, asked by name"] = measure(named, "task name")
            show_answers(base.model, tuned, base.tokenizer, cluster, cases[0])
        rows.append(row)
    return rows


def by_seed(measured: list[list[dict]], name: str) -> np.ndarray:
    """One column of the rows of each seed: (seeds, clusters)."""
    return np.array([[row[name] for row in rows] for rows in measured])


def mean_rows(measured: list[list[dict]]) -> list[dict]:
    """The mean of the seeds for each cluster, and a last row with the mean of the clusters."""
    table = []
    for place, cluster in enumerate((*CLUSTERS, "mean")):
        row = {"held out": cluster, "cases": measured[0][0]["cases"]}  # equal for all
        for name in measured[0][0]:
            if name not in row:
                values = by_seed(measured, name)
                row[name] = float(values.mean() if cluster == "mean" else values[:, place].mean())
        table.append(row)
    return table


def gap(better: np.ndarray, worse: np.ndarray) -> tuple[float, float]:
    """The mean difference of two (seeds, clusters) and its standard error: the squared errors over
    seeds and over clusters are added. What differs by seed and cluster counts twice, so it is a
    little too large. nan if one of them is unknown."""
    differences = better - worse
    mean, of_seeds = mean_and_error(differences.mean(axis=1))
    _, of_clusters = mean_and_error(differences.mean(axis=0))
    return mean, math.hypot(of_seeds, of_clusters)


def draw(folder: Path, rows: list[dict]):
    """The large model's accuracy by number of clusters in the tuning, by cluster left out, and by
    what tuning shows."""
    mean = rows[-1]
    counts = [*FEWER, len(CLUSTERS) - 1]
    tuned = [*(mean[f"tuned on {count}"] for count in FEWER), mean["tuned"]]
    lines = [("tuned, instructed", counts, tuned, "C2o-"),
             ("base, few-shot", counts, [mean["few-shot"]] * len(counts), "C1--"),
             ("base, zero-shot", counts, [mean["zero-shot"]] * len(counts), "C0--")]
    by_cluster = {}
    for name in ("zero-shot", "few-shot", "tuned"):
        by_cluster[name] = {row["held out"]: row[name] for row in rows}
    ablation = {name: mean[name] for name in ("tuned", "name", "no template", "zero-shot")}
    plot(folder / "flan.png", [
        {"title": "cluster left out; chance .33 (§4.1)", "xlabel": "clusters in the tuning",
         "lines": lines},
        {"title": "the cluster that is left out", "bars": by_cluster},
        {"title": "what the tuning shows (§4.3)", "bars": {None: ablation}}])


def claims(measured: dict[str, list[list[dict]]]) -> list[Claim]:
    """The unit of all rows is accuracy."""
    large, small = measured["large"], measured["small"]
    zero, few, tuned = (by_seed(large, name) for name in ("zero-shot", "few-shot", "tuned"))
    gain = tuned - zero  # (seeds, clusters)
    small_gain = by_seed(small, "tuned") - by_seed(small, "zero-shot")
    cases = int(by_seed(large, "cases").sum())

    def claim(where, says, paper_number, better, worse):
        return Claim("FLAN", where, says, paper_number, *gap(better, worse), len(large), cases)

    return [
        claim("§3, §4.2", "tuned beats its untuned base, zero-shot, on a cluster left out, "
              "accuracy (built in: the base has read statements on every task, no instruction)",
              "68B, 137B: gain", tuned, zero),
        claim("§4.1", "tuning on 7 clusters beats tuning on 1 with equally many cases",
              "0.635 against 0.499 (more clusters, more data)", tuned,
              by_seed(large, "tuned on 1")),
        claim("§4.3", "tuning with instructions beats tuning on inputs and outputs alone",
              "0.552 against 0.373", tuned, by_seed(large, "no template")),
        claim("§4.2", "the larger model gains more from tuning than the small one",
              "gain at 68B, loss at 8B", gain, small_gain),
        claim("§4.2", "tuning hurts the small model on a cluster left out: its loss",
              "hurt up to 8B", -small_gain, np.zeros_like(small_gain)),
        claim("§3", f"an instruction to the tuned model beats {SHOTS} examples in its base's "
              "prompt (built in: the base has read lists of such examples)",
              "on six data sets, against GPT-3", tuned, few),
    ]


def flan(options: Options = Options()):
    """Instruction tuning with one cluster left out, two sizes. [FLAN]"""
    if options.fast:
        options = dataclasses.replace(options, steps=2, tune_steps=1, seeds=1, cases=4,
                                      documents=400)
    folder = folder_of(options)
    measured = {size: [] for size in SHAPES}
    for seed in range(options.seeds):
        part = folder_of(options, "steps", "tune_steps", "documents", part=f"seed{seed}")
        for size, shape in SHAPES.items():
            path = part / f"{size}.pt"
            training = gpt.TrainConfig(steps=options.steps, batch_size=16, seed=seed)
            model, tokenizer, stream, *_ = pretrained(path, FLAN_WEB, options.documents, shape,
                                                      training)
            base = Base(World(seed), model, tokenizer, stream, path)
            measured[size].append(leave_one_out(options, base, size))

    print("\n== accuracy on the cluster that is left out (chance .333), large: mean of the seeds")
    rows = mean_rows(measured["large"])
    print_table(rows, folder / "table.json")
    print("\n== the same, small")
    print_table(mean_rows(measured["small"]), folder / "small.json")
    draw(folder, rows)
    save_claims(folder, claims(measured))


if __name__ == "__main__":
    command_line({"flan": flan}, default="flan")
