"""
Zero-shot behaviors: what a language model can do before any fine-tuning, by GPT-1's heuristics.

Paper: GPT-1 (Radford et al. 2018) §5, Figure 2 right.
"""
import random

import numpy as np
import torch.nn as nn

from data import TOPICS, World
from gpt import completion_logprobs
from papers.models import choice_accuracy
from papers.tasks import distinct, fitting, gpt1_task

# The tasks and their accuracy by chance.
CHANCE = {"acceptability": 0.5, "sentiment": 0.5, "question answering": 0.25, "schemas": 0.5}


def cases_of(world: World, count: int = 200) -> dict[str, list]:
    """Up to `count` distinct cases of each task in CHANCE."""
    rng = random.Random("zero shot")

    def sentences(is_true: bool) -> list[str]:
        return distinct(lambda: sentence(world, rng, is_true), count // 2, str)

    halves = sentences(is_true=False), sentences(is_true=True)
    return {
        "acceptability": [text for pair in zip(*halves) for text in pair],
        "sentiment": gpt1_task(world, "classification", "test", count, 1),
        "question answering": gpt1_task(world, "multiple choice", "test", count, 1),
        "schemas": distinct(lambda: fitting(world, rng, "test"), count,
                            lambda schema: schema[0] + schema[1]),
    }


def zero_shot_cases(world: World) -> dict[str, int]:
    """How many cases each task has."""
    return {task: len(cases) for task, cases in cases_of(world).items()}


def zero_shot(model: nn.Module, tokenizer, world: World) -> dict[str, float]:
    """The accuracy on each task in CHANCE."""
    cases = cases_of(world)
    return {
        "acceptability": acceptability(model, tokenizer, cases["acceptability"]),
        "sentiment": sentiment(model, tokenizer, cases["sentiment"]),
        "question answering": question_answering(model, tokenizer, cases["question answering"]),
        "schemas": resolution(model, tokenizer, cases["schemas"]),
    }


def sentence(world: World, rng: random.Random, is_true: bool) -> str:
    """A true sentence, or nonsense such as "Mia lives in soup." """
    person = rng.choice(world.people)
    topic, other = rng.sample(list(TOPICS), 2)
    value = None if is_true else rng.choice(TOPICS[other].values)
    return world.state(rng, person, topic, value)


def acceptability(model, tokenizer, sentences: list[str]) -> float:
    """CoLA's task: which sentences have a mean log-probability per token above the median? The
    second, fourth ... are true."""
    pairs = [("", text) for text in sentences]
    totals, tokens = np.array(completion_logprobs(model, tokenizer, pairs)).T  # (cases,) each
    scores = totals / tokens
    acceptable = np.arange(len(sentences)) % 2 == 1
    return float(np.mean((scores > np.median(scores)) == acceptable))


def sentiment(model, tokenizer, reviews) -> float:
    """SST-2's task: which of two words comes next."""
    cases = []
    for case in reviews:
        prompt = f"Q: Was it good? {case.texts[0]}\nA: The review is"
        cases.append(([(prompt, " sad."), (prompt, " happy.")], case.label))
    return choice_accuracy(model, tokenizer, cases)


def question_answering(model, tokenizer, questions) -> float:
    """RACE's task: the answer with the highest mean log-probability per token."""
    cases = []
    for case in questions:
        context, question, answers = case.texts
        prompt = f"Q: {context} {question}\nA:"
        cases.append(([(prompt, f" {answer}") for answer in answers], case.label))
    return choice_accuracy(model, tokenizer, cases)


def resolution(model, tokenizer, schemas) -> float:
    """DPRD's task: each referent is put in the pronoun's place, and what follows is compared."""
    cases = []
    for before, behind, referents, answer in schemas:
        cases.append(([(f"{before} {referent}", behind) for referent in referents], answer))
    return choice_accuracy(model, tokenizer, cases)
