"""
GPT-2, put to the test: six sizes trained on the same text do tasks that are put as text.

The claims:
    zero-shot       a language model does tasks without being trained on them, and does them better
                    the larger it is (Figure 1, §3)
    bits per byte   larger models predict text better (Table 3)
    calibration     the answers that it is surest of are right more often (§3.8)
The tasks occur in the world's text by themselves: phrasebooks, digests ("TL;DR:"), questions with
answers. That they can be learned is therefore built in; whether size helps is not.

    python -m papers.gpt2       a table and a figure (about 8 minutes)

Results go to runs/gpt2; see also gpt2_tasks.py. Paper: GPT-2 (Radford et al. 2019).
"""
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
import gpt
from data import ECHOED, Tokenizer, World, command_line, option, split_sentences
from gpt import GPT, completion_logprobs
from papers.claims import (Claim, RunOptions, folder_of, mean_and_error, mean_gain,
                           proportion_error, save_claims)
from papers.figures import plot
from papers.gpt2_tasks import CASES, bleu, gpt2_task, ngram_f1, rouge, unseen
from papers.models import SIZES, continuations, evaluate_pieces, gap_accuracy, pretrained
from papers.tasks import WIDE_WEB, wide_web

# Our tasks, and what the paper prints for 117M and for 1542M parameters on its own.
PAPER = {
    "bits per byte": (1.16, 0.93),                  # enwik8
    "cities, 10 choices": (0.834, 0.8905),          # CBT, named entities
    "common nouns, 10 choices": (0.8765, 0.933),    # CBT, common nouns
    "last word, accuracy": (0.4599, 0.6324),        # LAMBADA, with a filter of stop words
    "last word, perplexity": (35.13, 8.63),
    "schemas, full": (None, None),                  # Winograd: it is not said which scoring the
    "schemas, partial": (None, 0.707),              # printed number has; Fig. 3 draws both
    "reading, F1": (None, 0.55),                    # CoQA
    "summaries, ROUGE": (None, 0.214),              # CNN and Daily Mail
    "to foreign, BLEU-2": (None, 0.05),             # WMT-14 English-French, BLEU-4
    "to English, BLEU-2": (None, 0.115),
    "questions, exact": (None, 0.041),              # Natural Questions
    "questions, surest quarter": (None, 0.631),     # there: the surest hundredth
}
LOWER_IS_BETTER = ("bits per byte", "last word, perplexity")


@dataclass
class Options(RunOptions):
    name: str = option("gpt2", "results go to runs/NAME")
    steps: int = option(1500, "optimizer steps of pretraining, of every size", at_least=1)
    cases: int = option(300, "distinct cases of every task, at the most", at_least=1)
    seed: int = option(0, "of the world, the weights and the batches")


def answers_to(model: GPT, tokenizer: Tokenizer, cases: list[tuple], **sampling):
    """cases: (text, right answer) each. Returns the texts, what the model writes after each, and
    the right answers."""
    texts, right = zip(*cases)
    return texts, continuations(model, tokenizer, texts, **sampling), right


def last_word_scores(model: GPT, tokenizer: Tokenizer, cases: list[tuple]) -> dict[str, float]:
    """LAMBADA's two: is the last word written, and how surprising is it?"""
    _, answers, words = answers_to(model, tokenizer, cases)
    right = 0
    for answer, word in zip(answers, words):
        first_word = answer.split(" ")[0].rstrip(".")
        right += first_word == word.strip()
    nats = [-total for total, _ in completion_logprobs(model, tokenizer, cases)]
    return {"last word, accuracy": right / len(cases),
            "last word, perplexity": math.exp(np.mean(nats))}


def question_scores(model: GPT, tokenizer: Tokenizer, world: World, cases: list[tuple]) -> dict:
    """Exact match, of all answers and of the quarter that the model finds most probable."""
    texts, answers, asked = answers_to(model, tokenizer, cases)
    exact = []
    for answer, (person, topic) in zip(answers, asked):
        exact.append(world.meaning.get(answer) == (person, topic, world.facts[person, topic]))
    pairs = [(text, f" {answer}") for text, answer in zip(texts, answers)]
    nats = [-total for total, _ in completion_logprobs(model, tokenizer, pairs)]
    surest = np.argsort(nats)[:max(1, len(cases) // 4)]
    return {"questions, exact": float(np.mean(exact)),
            "questions, surest quarter": float(np.mean(np.array(exact)[surest]))}


def zero_shot(model: GPT, tokenizer: Tokenizer, world: World, cases: dict) -> dict[str, float]:
    """The score of each task. As in the paper each is put as text, and no weight changes; scores
    are simpler: last word without a filter of stop words, BLEU-2, summaries of at most 24
    tokens."""
    scores = {
        "cities, 10 choices": gap_accuracy(model, tokenizer, cases["cities"]),
        "common nouns, 10 choices": gap_accuracy(model, tokenizer, cases["common nouns"]),
        "schemas, full": gap_accuracy(model, tokenizer, cases["schemas"]),
        "schemas, partial": gap_accuracy(model, tokenizer, cases["schemas"], partial=True),
        **last_word_scores(model, tokenizer, cases["last word"]),
        **question_scores(model, tokenizer, world, cases["questions"]),
    }

    _, answers, right = answers_to(model, tokenizer, cases["reading"])
    scores["reading, F1"] = float(np.mean([ngram_f1(a, b) for a, b in zip(answers, right)]))

    # k = 2, as in the paper
    _, answers, right = answers_to(model, tokenizer, cases["summaries"], temperature=1.0, top_k=2)
    scores["summaries, ROUGE"] = float(np.mean([rouge(a, b) for a, b in zip(answers, right)]))

    for direction in ("to foreign", "to English"):
        _, answers, right = answers_to(model, tokenizer, cases[direction])
        scores[f"{direction}, BLEU-2"] = bleu(answers, right)
    return scores


def baselines(cases: dict[str, list]) -> dict[str, float]:
    """Chance, or the score of an answer that understands nothing."""
    first_sentence = []
    for text, summary in cases["summaries"]:
        first_sentence.append(rouge(split_sentences(text)[0], summary))
    wrong_word = []  # the right form of answer, with a wrong word at its end
    for _, answer in cases["reading"]:
        form, _ = answer.rsplit(" ", 1)
        wrong_word.append(ngram_f1(f"{form} so", answer))
    return {
        "cities, 10 choices": 0.1, "common nouns, 10 choices": 0.1,
        "last word, accuracy": 1 / len(ECHOED), "last word, perplexity": float(len(ECHOED)),
        "schemas, full": 0.5, "schemas, partial": 0.5,
        "reading, F1": float(np.mean(wrong_word)),
        "summaries, ROUGE": float(np.mean(first_sentence)),
        "questions, exact": 1 / 12, "questions, surest quarter": 1 / 12,
    }


def claims(columns: dict, bits: dict[str, np.ndarray], cases: dict[str, int]) -> list[Claim]:
    """The largest size against the smallest, one seed: errors are over cases or pieces of text."""
    small, large = list(columns)[0], list(columns)[-1]
    pieces = bits[small] - bits[large]
    rows = [Claim("GPT-2", "Table 3", f"{large} predicts text better than {small}, bits per byte",
                  "0.23 on enwik8", *mean_and_error(pieces), 1, len(pieces))]
    for task, score, where, paper in (
            ("cities", "cities, 10 choices", "Table 3", "0.057 (CBT-NE)"),
            ("last word", "last word, accuracy", "Table 3", "0.173 (LAMBADA)"),
            ("reading", "reading, F1", "§3.5", "55 F1 at 1542M"),
            ("questions", "questions, exact", "§3.8", "0.041 at 1542M, under 0.01 at 117M")):
        gain, error = mean_gain([columns[small][score]], [columns[large][score]], [cases[task]])
        rows.append(Claim("GPT-2", where, f"{large} does better than {small} zero-shot: {score} "
                          "(built in: the text has the task's form, of cities and questions also "
                          "the facts; the small one has one layer, the large three)", paper, gain,
                          error, 1, cases[task]))
    n = cases["questions"]
    k = max(1, n // 4)
    surest = columns[large]["questions, surest quarter"]
    exact = columns[large]["questions, exact"]
    # the surest are among all, so surest - exact = (1 - k / n) (surest - others)
    others = (n * exact - k * surest) / max(1, n - k)
    error = (1 - k / n) * math.hypot(proportion_error(surest, k),
                                     proportion_error(others, max(1, n - k)))
    rows.append(Claim("GPT-2", "§3.8", "answers that the model is surest of are right more often: "
                      "surest quarter minus all", "0.590 (surest hundredth)",
                      surest - exact, error, 1, n))
    return rows


def draw(path: Path, columns: dict[str, dict[str, float]]):
    """Figure 1: every task against the size of the model."""
    tasks = [task for task in PAPER if task not in LOWER_IS_BETTER]
    panels = []
    comparing = [task for task in tasks if "choices" in task or "schemas" in task]
    writing = [task for task in tasks if task not in comparing]
    for title, shown in (("text", ["bits per byte"]), ("zero-shot: comparing", comparing),
                         ("zero-shot: writing", writing)):
        lines = []
        for task in shown:
            lines.append((task, list(columns), [scores[task] for scores in columns.values()], "o-"))
        panels.append({"title": title, "xlabel": "parameters", "lines": lines})
    plot(path, panels)


def gpt2(options: Options = Options()):
    """Six sizes, the same text: what a language model does without being taught to. [GPT-2 §3]"""
    documents = data.WORLD_DOCUMENTS
    if options.fast:
        options, documents = dataclasses.replace(options, steps=2, cases=3), 500
    # the number of cases is not among the settings: it does not change what is trained
    folder = folder_of(options, "steps", "seed", documents=documents)
    world = World(options.seed)
    config = gpt.TrainConfig(steps=options.steps, seed=options.seed)
    cases = {task: gpt2_task(world, task, options.cases) for task in CASES}
    text = "\n".join(wide_web(world, documents))  # what the models read
    for task in ("cities", "common nouns"):
        cases[task] = unseen(cases[task], text)

    columns, bits = {}, {}
    for size, shape in SIZES.items():
        model, tokenizer, _, val_stream, _ = pretrained(
            folder / f"{size}.pt", WIDE_WEB, documents, shape, config)
        bits[size] = evaluate_pieces(model, tokenizer, val_stream, "bits_per_byte")
        columns[size] = {"bits per byte": float(bits[size].mean()),
                         **zero_shot(model, tokenizer, world, cases)}

    print("\n== zero-shot")
    baseline = baselines(cases)
    rows = []
    for task, (small, large) in PAPER.items():
        row = {"task": task, **{size: scores[task] for size, scores in columns.items()}}
        rows.append({**row, "baseline": baseline.get(task), "117M": small, "1542M": large})
    gpt.print_table(rows, folder / "table.json")
    counts = {task: len(of_task) for task, of_task in cases.items()}
    counts["reading"] = len({answer for _, answer in cases["reading"]})  # of many texts
    print("baseline: chance, or understanding nothing; 117M, 1542M: the paper, on its own tasks\n"
          "distinct cases: " + ", ".join(f"{task} {count}" for task, count in counts.items()))
    draw(folder / "gpt2.png", columns)
    save_claims(folder, claims(columns, bits, counts))


if __name__ == "__main__":
    command_line({"gpt2": gpt2}, default="gpt2")
