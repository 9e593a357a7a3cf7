"""
GPT-1's fine-tuning: a task becomes token sequences, and a linear head reads their last states.

The model's architecture does not change from task to task; only the input and the head do.

Paper: GPT-1 (Radford et al. 2018) §3.2, §3.3, Figure 1.
"""
import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

import gpt
from data import World
from papers.tasks import Labeled, gpt1_task

# The paper's values are for 117M parameters. The paper also has dropout .1 here; our small models
# are pretrained without it; it makes them worse.
EPOCHS = 3                  # paper: 3
BATCH_SIZE = 8              # cases; paper: 32
LR = 5e-4                   # linear decay to 0; paper: 6.25e-5, after a warm-up over .2 % of the
                            # steps, here less than one
WEIGHT_DECAY = 0.01         # paper: .01
LM_COEF = 0.5               # lambda, the weight of the auxiliary loss; paper: .5

# --------------------------------------------------------------------------------------------------
# Input transformations [§3.3, Figure 1]

NEW_TOKENS = 3              # start, delimiter, extract; their ids follow the tokenizer's


def sequence(tokenizer, limit: int, *texts: str) -> list[int]:
    """[start] text [delimiter] text ... [extract]

    A sequence longer than `limit` tokens loses the front of its longest text, because questions
    stand at the end of their contexts.
    """
    first = tokenizer.vocab_size
    start, delimiter, extract = range(first, first + NEW_TOKENS)
    parts = [tokenizer.encode(" " + text) for text in texts]
    while sum(len(part) for part in parts) + len(parts) + 1 > limit:
        longest = max(parts, key=len)
        del longest[0]

    ids = [start]
    for part in parts:
        ids += part
        ids.append(delimiter)
    ids[-1] = extract
    return ids


def with_each_answer(context: str, question: str, answers: list[str]) -> list[tuple]:
    return [(f"{context} {question}", answer) for answer in answers]


# Which texts become one sequence in each task, and its classes (None: one score per sequence).
FORMATS = {
    "classification": (lambda text: [(text,)], 2),
    "entailment": (lambda premise, hypothesis: [(premise, hypothesis)], 2),
    "similarity": (lambda a, b: [(a, b), (b, a)], 2),  # neither text comes first
    "multiple choice": (with_each_answer, None),
}


@dataclass
class Task:
    """A task's format and its cases."""
    arrange: Callable
    classes: int | None
    train: list[Labeled]
    test: list[Labeled]


def world_tasks(world: World, count: int) -> dict[str, Task]:
    """The four tasks of the world, each with `count` cases to train on, and to test on up to
    `count` that ask different things."""
    tasks = {}
    for name, (arrange, classes) in FORMATS.items():
        train = gpt1_task(world, name, "train", count, 0)
        test = gpt1_task(world, name, "test", count, 0)
        tasks[name] = Task(arrange, classes, train, test)
    return tasks


# --------------------------------------------------------------------------------------------------
# The classifier and its loss [§3.2]


def to_batch(task: Task, tokenizer, cases: list[Labeled], model: nn.Module):
    """ids (B, S, T) of S sequences per case, padded on the right, lengths (B, S), labels (B,)."""
    rows = []
    for case in cases:
        for texts in task.arrange(*case.texts):
            rows.append(sequence(tokenizer, model.config.block_size, *texts))
    ids, lengths = gpt.to_tensors(rows, tokenizer.pad, model.device)        # (B*S, T), (B*S,)
    labels = torch.tensor([case.label for case in cases], device=model.device)
    B = len(cases)
    return ids.view(B, -1, ids.size(1)), lengths.view(B, -1), labels


def grow_vocabulary(model: nn.Module, tokens: int):
    """Enlarge the embedding to `tokens` rows; the new ones are random, the old ones kept."""
    old = model.wte.weight.data
    model.config = dataclasses.replace(model.config, vocab_size=tokens)
    model.wte = nn.Embedding(tokens, old.size(1), device=old.device)
    nn.init.normal_(model.wte.weight, std=0.02)
    model.wte.weight.data[:len(old)] = old


class Classifier(nn.Module):
    """A language model with new tokens, and a linear head on its state at the extract token."""

    def __init__(self, model: nn.Module, tokens: int, classes: int | None):
        """The model gets `tokens` tokens in all. Without classes, each sequence gets one score."""
        super().__init__()
        grow_vocabulary(model, tokens)
        self.model = model
        self.classes = classes
        self.head = nn.Linear(model.config.n_embd, classes or 1, device=model.device)      # W_y
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids, lengths):
        """ids (B, S, T), lengths (B, S) -> logits (B, classes) or (B, S), and the auxiliary L1.

        L1 is the mean over sequences of the mean cross-entropy of their tokens. Padding needs no
        mask in attention: it stands behind the text, which cannot see it.
        """
        B, S, T = ids.shape
        ids, lengths = ids.flatten(0, 1), lengths.flatten()                 # (B*S, T), (B*S,)
        hidden = self.model.hidden(ids)                                     # (B*S, T, C)
        rows = torch.arange(B * S, device=ids.device)
        extracts = hidden[rows, lengths - 1].view(B, S, -1)                 # (B, S, C)
        if self.classes:
            logits = self.head(extracts.sum(dim=1))                         # (B, classes)
        else:
            logits = self.head(extracts).squeeze(-1)                        # (B, S)

        inside = torch.arange(1, T, device=ids.device) < lengths[:, None]   # (B*S, T-1)
        next_logits = F.linear(hidden[:, :-1][inside], self.model.wte.weight)
        losses = F.cross_entropy(next_logits, ids[:, 1:][inside], reduction="none")
        # each sequence has the same weight, however long it is
        weights = (1 / (lengths - 1)).repeat_interleave(lengths - 1)
        return logits, (losses * weights).sum() / (B * S)


def fine_tune(classifier: Classifier, task: Task, tokenizer, lm_coef: float, seed: int):
    """Minimize L2 + lambda L1, where L2 is the cross-entropy of the classes. [eq. 5, where L1 and
    L2 are log-likelihoods, summed, to be maximized]"""
    rng = random.Random(seed)
    optimizers = gpt.make_optimizers(
        classifier, LR, betas=(0.9, 0.999), weight_decay=WEIGHT_DECAY)
    cases = list(task.train)
    steps = EPOCHS * math.ceil(len(cases) / BATCH_SIZE)
    step = 0
    classifier.train()
    for _ in range(EPOCHS):
        rng.shuffle(cases)
        for batch in gpt.chunks(cases, BATCH_SIZE):
            ids, lengths, labels = to_batch(task, tokenizer, batch, classifier.model)
            logits, lm_loss = classifier(ids, lengths)
            loss = F.cross_entropy(logits, labels) + lm_coef * lm_loss
            loss.backward()
            gpt.update(classifier, optimizers, 1 - step / steps)
            step += 1


@torch.no_grad()
def accuracy(classifier: Classifier, task: Task, tokenizer) -> float:
    """How often the most likely class is right, averaged over the classes: the test has other
    shares of them than the training, and a constant answer must not score above chance."""
    hits = {}  # class -> whether each of its cases is right
    classifier.eval()
    for batch in gpt.chunks(task.test, 128):
        ids, lengths, labels = to_batch(task, tokenizer, batch, classifier.model)
        logits, _ = classifier(ids, lengths)
        for label, choice in zip(labels.tolist(), logits.argmax(dim=1).tolist()):
            hits.setdefault(label, []).append(choice == label)
    return float(np.mean([np.mean(of_class) for of_class in hits.values()]))
