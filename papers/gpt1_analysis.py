"""
GPT-1's analysis: an LSTM in its place, fewer of its layers transferred, and what it can do before
any fine-tuning, measured much as in the paper.

Paper: GPT-1 (Radford et al. 2018) §5.
"""
import copy
import math
import random

import numpy as np
import torch.nn as nn

import gpt
from data import TOPICS, World
from gpt import GPT, completion_logprobs
from papers.models import choice_accuracy, gap_accuracy
from papers.tasks import Labeled, distinct, fitting, gpt1_task


class LSTM(nn.Module):
    """One recurrent layer instead of the transformer's blocks, with as many parameters as they have
    (the paper's has 2,048 units, which is about a quarter of its blocks' parameters). It needs no
    position embeddings. AdamW trains all of it, at the rate that was chosen for the transformer:
    nothing was tuned for the LSTM."""

    def __init__(self, config: gpt.GPTConfig):
        super().__init__()
        C = config.n_embd
        self.config = config
        # w units have 4 w^2 + (5 C + 8) w parameters, a block has 12 C^2: solve for w
        b, blocks = 5 * C + 8, 12 * C * C * config.n_layer
        width = int((math.sqrt(b * b + 16 * blocks) - b) / 8)
        self.wte = nn.Embedding(config.vocab_size, C)
        self.lstm = nn.LSTM(C, width, batch_first=True)
        self.c_proj = nn.Linear(width, C)
        nn.init.normal_(self.wte.weight, std=0.02)

    def hidden(self, idx):
        states, _ = self.lstm(self.wte(idx))                                # (B, T, width)
        return self.c_proj(states)                                          # (B, T, C)

    # the output layer and the loss are those of GPT
    forward, num_params, device = GPT.forward, GPT.num_params, GPT.device


def transfer(model: nn.Module, layers: int | None) -> nn.Module:
    """A copy of a model that keeps the embeddings and the first `layers` blocks; the rest is new.
    -1 keeps nothing, None everything."""
    if layers is None:
        return copy.deepcopy(model)
    kept = [f"h.{layer}." for layer in range(layers)]
    if layers >= 0:
        kept += ["wte.", "wpe."]
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(tuple(kept)):
            weights[name] = tensor
    new = type(model)(model.config).to(model.device)
    new.load_state_dict(weights, strict=False)
    return new


# --------------------------------------------------------------------------------------------------
# Zero-shot behaviors [Figure 2 right]

# The tasks and their accuracy by chance.
CHANCE = {"acceptability": 0.5, "sentiment": 0.5, "question answering": 0.25, "schemas": 0.5}


def zero_shot_cases(world: World, count: int = 200) -> dict[str, list]:
    """Up to `count` distinct cases of each task in CHANCE, for `zero_shot`."""
    rng = random.Random("zero shot")
    nonsense = distinct(lambda: sentence(world, rng, is_true=False), count // 2, str)
    truths = distinct(lambda: sentence(world, rng, is_true=True), count // 2, str)
    sentences = []
    for false, true in zip(nonsense, truths):
        sentences += [(false, False), (true, True)]
    schemas = distinct(lambda: fitting(world, rng, "test"), count,
                       lambda schema: schema[0] + schema[2])
    return {
        "acceptability": sentences,
        "sentiment": sentiment(gpt1_task(world, "classification", "test", count, 1)),
        "question answering": question_answering(
            gpt1_task(world, "multiple choice", "test", count, 1)),
        "schemas": schemas,
    }


def zero_shot(model: nn.Module, tokenizer, cases: dict[str, list]) -> dict[str, float]:
    """The accuracy on each task in CHANCE. cases: what `zero_shot_cases` returns."""
    return {
        "acceptability": acceptability(model, tokenizer, cases["acceptability"]),
        "sentiment": choice_accuracy(model, tokenizer, cases["sentiment"]),
        "question answering": choice_accuracy(model, tokenizer, cases["question answering"]),
        # DPRD's task: each noun is put in the pronoun's place, and what follows is compared
        "schemas": gap_accuracy(model, tokenizer, cases["schemas"], partial=True),
    }


def sentence(world: World, rng: random.Random, is_true: bool) -> str:
    """A true sentence, or nonsense such as "Mia lives in soup." """
    person = rng.choice(world.people)
    topic, other = rng.sample(list(TOPICS), 2)
    value = None if is_true else rng.choice(TOPICS[other].values)
    return world.state(rng, person, topic, value)


def acceptability(model, tokenizer, sentences: list[tuple[str, bool]]) -> float:
    """CoLA's task, with nonsense in place of bad grammar: a sentence is taken for true if its mean
    log-probability per token is above the median (our threshold). sentences: each with whether it
    is true."""
    texts, is_true = zip(*sentences)
    pairs = [("", text) for text in texts]
    totals, tokens = np.array(completion_logprobs(model, tokenizer, pairs)).T  # (cases,) each
    scores = totals / tokens
    return float(np.mean((scores > np.median(scores)) == is_true))


def sentiment(reviews: list[Labeled]) -> list[tuple]:
    """SST-2's task as choices: which of two words comes next? The question is that of the web's
    exercises; the paper appends "very" to the review."""
    cases = []
    for case in reviews:
        prompt = f"Q: Was it good? {case.texts[0]}\nA: The review is"
        cases.append(([(prompt, " sad."), (prompt, " happy.")], case.label))
    return cases


def question_answering(questions: list[Labeled]) -> list[tuple]:
    """RACE's task as choices: which of four answers comes next?"""
    cases = []
    for case in questions:
        context, question, answers = case.texts
        prompt = f"Q: {context} {question}\nA:"
        cases.append(([(prompt, f" {answer}") for answer in answers], case.label))
    return cases
