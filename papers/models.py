"""
What several scripts do with a model: train it, let it choose or write, and score it on a text.
"""
from pathlib import Path

import numpy as np

import data
import gpt
from data import World
from gpt import GPTConfig, TrainConfig, train_gpt

# The sizes that we train, named by their parameters, each about twice the one before.
SIZES = {
    "24k": GPTConfig(1152, 128, n_layer=1, n_head=2, n_embd=16),
    "45k": GPTConfig(1152, 128, n_layer=1, n_head=2, n_embd=28),
    "90k": GPTConfig(1152, 128, n_layer=1, n_head=3, n_embd=48),
    "180k": GPTConfig(1152, 128, n_layer=2, n_head=2, n_embd=64),
    "340k": GPTConfig(1152, 128, n_layer=2, n_head=3, n_embd=96),
    "760k": GPTConfig(1152, 128, n_layer=3, n_head=4, n_embd=128),
}


def pretrained(path: Path, shares: dict, count: int, shape: GPTConfig, config: TrainConfig):
    """Train a GPT, or load it, on `count` documents of World(config.seed) in these shares: (model,
    tokenizer, training stream, validation stream, what gpt.train returns)."""
    def documents():
        return data.web(World(config.seed), count, 0, shares)

    text = data.tokenize_text(documents, shape.vocab_size, path.parent)
    model, result = train_gpt(path, text, shape, config)
    return model, *text, result


def choice_accuracy(model, tokenizer, cases: list[tuple[list, int]],
                    per_token: bool = True) -> float:
    """How often the likeliest choice is right. A case is its choices, (context, completion) each,
    and the index of the right one."""
    chosen = gpt.choose(model, tokenizer, [choices for choices, _ in cases], per_token)
    return float(np.mean(np.equal(chosen, [right for _, right in cases])))


def gap_accuracy(model, tokenizer, cases: list[tuple], partial: bool = False) -> float:
    """How often the right choice makes the text likeliest. A case is the text before a gap, the
    choices for the gap, the text after it, and the index of the right choice.

    Full scoring compares P(choice and text after | text before), partial scoring only
    P(text after | text before and choice). [Trinh and Le 2018]
    """
    scored = []
    for before, choices, after, right in cases:
        if partial:
            pairs = [(f"{before} {choice}", after) for choice in choices]
        else:
            pairs = [(before, f" {choice}{after}") for choice in choices]
        scored.append((pairs, right))
    return choice_accuracy(model, tokenizer, scored, per_token=False)


def continuations(model, tokenizer, texts: list[str], longest: int = 24, stop: str = "\n",
                  temperature: float = 0, **sampling) -> list[str]:
    """What a model writes after each text, until it writes a token of `stop` or the document
    ends."""
    prompts = [[tokenizer.eot, *tokenizer.encode(text)] for text in texts]
    stops = (tokenizer.eot, *tokenizer.encode(stop))
    written = gpt.complete(model, tokenizer, prompts, stops, longest, temperature=temperature,
                           **sampling)
    return [text for text, _ in written]


def evaluate_pieces(model, tokenizer, stream: np.ndarray, measure: str) -> np.ndarray:
    """The "loss" or the "bits_per_byte" (`measure`) of each of ten pieces of a text. The ten
    differences between two models have a standard error."""
    values = []
    for piece in np.array_split(stream, 10):
        values.append(gpt.evaluate(model, tokenizer, piece, max_tokens=4096)[measure])
    return np.array(values)
