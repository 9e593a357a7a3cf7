"""
Chain of thought, put to the test: steps written out as text before the answer.

One set of weights is asked for the same problems in several ways: for the answer alone, by
exemplars with a chain of steps, and by "Let's think step by step." without exemplars. The claims:

    chain      beats the direct answer, also on problems of 5, 6 and 8 steps (Wei et al. §3,
               §5); our question: falls less from 1 to 8. The training text has 1 to 4 steps
    trigger    the phrase beats asking for the answer (Kojima et al. §4), for a task with which
               the training text never uses it
    ablations  an equation, as many dots as the chain has tokens (in the paper: as the equation
               has characters), and the same steps after the answer are all worse than the
               chain (Wei et al. §3.3)
    size       a small model gains less (Wei et al. Figure 4); ours has one layer

Built in: the training text shows all these forms, the steps included, each form of a task in
equally many documents (the trigger phrase never after a question about a coin). So this shows that
steps help because each one is computed from the tokens of the last, and not that large models
learn by themselves to write steps. The problems asked here are not in the text, but those of a
single step are the beginnings of longer ones in it.

Chosen after looking at results: the length of training (after 1600 steps two of the three large
models had not learned the steps, and no verdict was possible), the row on 5, 6 and 8 steps (after
seed 0), and coins as the task of the trigger's row (after three seeds: for the other two tasks
the text has the phrase). At 8 steps answers with a chain are near chance, too. They have further
to fall than direct answers, which are less accurate from the start.

    python -m papers.cot        two tables and a figure (about 19 minutes)

Results go to runs/cot. Papers: Wei et al. 2022 (arXiv:2201.11903); Kojima et al. 2022
(arXiv:2205.11916).
"""
import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import World, command_line, option
from gpt import GPT, GPTConfig, TrainConfig, print_table
from papers.claims import (Claim, RunOptions, folder_of, mean_and_error, proportion_error,
                           save_claims)
from papers.cot_tasks import (LONGER, TASKS, TESTED, Problem, answer_in, ask, document, draw,
                              forms_of)
from papers.figures import plot
from papers.models import pretrained
from papers.tasks import distinct

# The vocabulary of 600 is larger than the text needs: every word becomes one token.
SIZES = {
    "small": GPTConfig(600, 160, n_layer=1, n_head=2, n_embd=32),
    "large": GPTConfig(600, 160, n_layer=2, n_head=4, n_embd=64),
}
WAYS = ("direct", "chain", "equation", "dots", "after", "zero-shot direct", "zero-shot trigger")
ABLATIONS = ("equation", "dots", "after")


@dataclass
class Options(RunOptions):
    name: str = option("cot", "results go to runs/NAME")
    steps: int = option(2400, "optimizer steps of each model", at_least=1)
    seeds: int = option(5, "models of each size", at_least=1)
    cases: int = option(40, "held-out problems of each task and number of steps", at_least=1)
    documents: int = option(30_000, "documents that each model reads", at_least=10)


def test_problems(world: World, task: str, steps: int, count: int) -> list[Problem]:
    """Up to `count` distinct held-out problems."""
    rng = random.Random(f"{task} {steps} {world.seed}")
    return distinct(lambda: draw(world, rng, "test", task, steps), count,
                    lambda problem: problem.asked)


def count_problems(options: Options) -> list[dict]:
    """How many distinct problems all seeds have together; of one step there are fewest."""
    rows = []
    for task in TASKS:
        row = {"task": task}
        for steps in TESTED:
            asked = set()
            for seed in range(options.seeds):
                for problem in test_problems(World(seed), task, steps, options.cases):
                    asked.add(problem.asked)
            row[f"k = {steps}"] = len(asked)
        rows.append(row)
    return rows


def score(model: GPT, tokenizer, world: World, ways: tuple, count: int) -> dict:
    """Accuracies: {(task, way, steps): share of right answers}."""
    scores = {}
    for task in TASKS:
        for steps in TESTED:
            problems = test_problems(world, task, steps, count)
            for way in ways:
                if way in ABLATIONS and way not in forms_of(task):
                    continue  # only the dial has equations
                texts = ask(model, tokenizer, world, task, way, problems)
                answers = [answer_in(text) for text in texts]
                right = np.equal(answers, [problem.answer for problem in problems])
                scores[task, way, steps] = float(right.mean())
    return scores


def show(model: GPT, tokenizer, world: World):
    """One problem and all answers to it."""
    problems = test_problems(world, "dial", 4, 1)
    print(f"\nQ: {problems[0].question}")
    for way in WAYS:
        [text] = ask(model, tokenizer, world, "dial", way, problems)
        print(f"{way:>18}: {text}")


def rows_of(scores: dict[str, list[dict]]) -> list[dict]:
    """A row for each size, task and way: the mean of the seeds for each number of steps k, and the
    largest difference between two seeds at the same k."""
    rows = []
    for size, of_seeds in scores.items():
        for task, way in dict.fromkeys(key[:2] for key in of_seeds[0]):
            row = {"size": size, "task": task, "asked": way}
            ranges = []
            for steps in TESTED:
                accuracies = [of_seed[task, way, steps] for of_seed in of_seeds]
                row[f"k = {steps}"] = float(np.mean(accuracies))
                ranges.append(float(np.ptp(accuracies)))
            row["widest range"] = max(ranges)
            rows.append(row)
    return rows


def draw_figure(folder: Path, rows: list[dict]):
    """Accuracy by the number of steps, a panel for each task."""
    panels = []
    for task in TASKS:
        lines = []
        for row in rows:
            if row["task"] == task:
                label = row["asked"]
                color = f"C{WAYS.index(label)}"
                style = "-o" if label in ("direct", "chain") else "--"
                if row["size"] == "small":
                    label = f"small: {label}"
                    style = ":"
                accuracies = [row[f"k = {steps}"] for steps in TESTED]
                lines.append((label, TESTED, accuracies, color + style))
        panels.append({"title": f"{task}: accuracy, the mean of the seeds",
                       "xlabel": "steps (more than 4 are not in the text)", "lines": lines})
    plot(folder / "cot.png", panels)


def claims(scores: dict[str, list[dict]], problems: list[dict]) -> list[Claim]:
    """Means over the tasks. The error is that over seeds or, if larger, the least that so many
    distinct problems allow."""
    large = scores["large"]

    def gain(of_seed: dict, steps: int, better="chain", worse="direct", tasks=tuple(TASKS)):
        """By how much accuracy is higher if asked in one way than in another, mean of the tasks."""
        high = np.mean([of_seed[task, better, steps] for task in tasks])
        low = np.mean([of_seed[task, worse, steps] for task in tasks])
        return float(high - low)

    def least_loss(of_seed: dict) -> float:
        """The chain against the best ablation, each on the tasks that have its form."""
        losses = []
        for way in ABLATIONS:
            tasks = [task for task in TASKS if way in forms_of(task)]
            losses.append(gain(of_seed, 4, worse=way, tasks=tasks))
        return min(losses)

    def claim(paper: str, where: str, says: str, paper_number: str, differences: list[float],
              steps: tuple[int, ...], tasks=tuple(TASKS)) -> Claim:
        """steps, tasks: the problems that count as cases; of several sets the smallest."""
        cases = 0
        for counted in problems:
            if counted["task"] in tasks:
                cases += sum(counted[f"k = {k}"] for k in steps)
        ours, error = mean_and_error(differences)
        # A difference d of two shares of the same n cases has an error of at least
        # sqrt(d (1 - d) / n).
        error = max(error, proportion_error(abs(ours), cases))
        return Claim(paper, where, says, paper_number, ours, error, len(differences), cases)

    wei = "Wei et al. 2022"
    on_longer = [float(np.mean([gain(seed, steps) for steps in LONGER])) for seed in large]
    falls_less = [gain(seed, 8) - gain(seed, 1) for seed in large]
    by_trigger = [gain(seed, 4, "zero-shot trigger", "zero-shot direct", ("coin",))
                  for seed in large]
    by_size = [gain(of_large, 4) - gain(of_small, 4)
               for of_large, of_small in zip(large, scores["small"])]
    return [
        claim(wei, "§3.2", "exemplars with a chain beat exemplars with the answer alone, accuracy "
              "at 4 steps, mean over three tasks (built in: the text has both forms, steps "
              "included)",
              "0.390 (PaLM 540B, GSM8K)", [gain(seed, 4) for seed in large], (4,)),
        claim(wei, "§5", "the same at 5, 6 and 8 steps (asked after seed 0); the text has at most "
              "4", "longer than the exemplars (chart)", on_longer, LONGER),
        claim(wei, "§5", "from 1 to 8 steps accuracy falls less with a chain than without (at 8 "
              "both are near chance, and direct answers start lower)",
              "not claimed; our question", falls_less, (1,)),
        claim("Kojima et al. 2022", "§4", "\"Let's think step by step.\" beats \"The "
              "answer is\", both without exemplars, accuracy of coins at 4 steps (chosen after "
              "looking: in the text the phrase never stands before a coin; steps follow it in "
              "other tasks)",
              "0.610 (MultiArith)", by_trigger, (4,), ("coin",)),
        claim(wei, "§3.3", "an equation, dots and steps after the answer are all worse than the "
              "chain, accuracy at 4 steps: the chain minus the best of the three",
              "near the baseline (equations help at 1 to 2 steps)",
              [least_loss(seed) for seed in large], (4,), ("dial",)),
        claim(wei, "Fig. 4", "the chain is worth more to the large model than to the small one, "
              "accuracy at 4 steps (the small one has a single layer)",
              "gains from about 100B on", by_size, (4,)),
    ]


def cot(options: Options = Options()):
    """Direct answers, chains of thought, a trigger phrase, ablations. [Wei; Kojima]"""
    if options.fast:
        options = dataclasses.replace(options, steps=2, seeds=1, cases=2, documents=1000)
    folder = folder_of(options)
    scores = {"small": [], "large": []}
    for seed in range(options.seeds):
        # Only these options change the models.
        part = folder_of(options, "steps", "documents", part=f"seed{seed}")
        for size, config in SIZES.items():
            model, tokenizer, *_ = pretrained(
                part / f"{size}.pt", {document: 1.0}, options.documents, config,
                TrainConfig(steps=options.steps, seed=seed))
            ways = ("direct", "chain") if size == "small" else WAYS
            scores[size].append(score(model, tokenizer, World(seed), ways, options.cases))
        if seed == 0:
            show(model, tokenizer, World(seed))

    print("\n== distinct held-out problems, all seeds together")
    problems = count_problems(options)
    print_table(problems, folder / "problems.json")
    rows = rows_of(scores)
    print("\n== accuracy on held-out problems by the number of steps, mean of the seeds")
    print_table(rows, folder / "table.json")
    draw_figure(folder, rows)
    save_claims(folder, claims(scores, problems))


if __name__ == "__main__":
    command_line({"cot": cot}, default="cot")
