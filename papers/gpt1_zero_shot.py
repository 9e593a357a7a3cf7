"""
Zero-shot behaviors: what a language model can do before any fine-tuning, by GPT-1's heuristics.

Paper: GPT-1 (Radford et al. 2018) §5, Figure 2 right.
"""
import random

import numpy as np
import torch.nn as nn

from data import TOPICS, World
from gpt import choose, completion_logprobs
from papers.tasks import fitting, gpt1_task

# The tasks and their accuracy by chance.
CHANCE = {"acceptability": 0.5, "sentiment": 0.5, "question answering": 0.25, "schemas": 0.5}


def zero_shot(model: nn.Module, tokenizer, world: World, count: int = 200) -> dict[str, float]:
    """Accuracy on `count` cases of each task in CHANCE."""
    rng = random.Random("zero shot")
    reviews = gpt1_task(world, "classification", "test", count, 1)
    questions = gpt1_task(world, "multiple choice", "test", count, 1)
    schemas = [fitting(world, rng, "test") for _ in range(count)]
    return {
        "acceptability": acceptability(model, tokenizer, world, rng, count),
        "sentiment": sentiment(model, tokenizer, reviews),
        "question answering": question_answering(model, tokenizer, questions),
        "schemas": resolution(model, tokenizer, schemas),
    }


def acceptability(model, tokenizer, world: World, rng: random.Random, count: int) -> float:
    """CoLA's task: which sentences have a mean log-probability per token above the median?

    Every other sentence is nonsense, such as "Mia lives in soup."
    """
    pairs = []
    for index in range(count):
        person = rng.choice(world.people)
        topic, other = rng.sample(list(TOPICS), 2)
        value = None if index % 2 else rng.choice(TOPICS[other][0])
        pairs.append(("", world.state(rng, person, topic, value)))
    totals, tokens = np.array(completion_logprobs(model, tokenizer, pairs)).T      # (count,) each
    scores = totals / tokens
    acceptable = np.arange(count) % 2 == 1
    return float(np.mean((scores > np.median(scores)) == acceptable))


def sentiment(model, tokenizer, reviews) -> float:
    """SST-2's task: which of two words comes next."""
    cases, right = [], []
    for case in reviews:
        prompt = f"Q: Was it good? {case.texts[0]}\nA: The review is"
        cases.append([(prompt, " sad."), (prompt, " happy.")])
        right.append(case.label)
    return accuracy(choose(model, tokenizer, cases), right)


def question_answering(model, tokenizer, questions) -> float:
    """RACE's task: the answer with the highest mean log-probability per token."""
    cases, right = [], []
    for case in questions:
        context, question, answers = case.texts
        prompt = f"Q: {context} {question}\nA:"
        cases.append([(prompt, f" {answer}") for answer in answers])
        right.append(case.label)
    return accuracy(choose(model, tokenizer, cases), right)


def resolution(model, tokenizer, schemas) -> float:
    """DPRD's task: each referent is put in the pronoun's place, and what follows is compared."""
    cases, right = [], []
    for before, behind, referents, answer in schemas:
        cases.append([(f"{before} {referent}", behind) for referent in referents])
        right.append(answer)
    return accuracy(choose(model, tokenizer, cases), right)


def accuracy(chosen: list[int], right: list[int]) -> float:
    return float(np.mean(np.equal(chosen, right)))
