"""
Multiple-choice questions, and how well a model's confidence in its answers agrees with how often
they are right, for papers/gpt4_alignment.py.

A question asks for what a guest has told some exchanges before; four answers are compared by their
likelihood. The guests tell held-out values, which no training text has them tell: of facts in the
text these models are so sure (.98 and more) that calibration could not be measured. Mostly the
right choice is the only one of the four whose word stands in the conversation.

Paper: GPT-4 (arXiv:2303.08774), section 5 and Figure 8.
"""
import random

import numpy as np
import torch

import data
import gpt
from data import World
from gpt import GPT
from papers.instructgpt_run import Run
from papers.tasks import KNOWN_ANSWERS, dialogue_of, distinct, recall_case

BINS = 10        # of the reliability diagram
QUESTIONS = 400

Question = tuple[list[dict], list[str]]  # a conversation, and four answers, the right one first


def recall_questions(world: World, count: int) -> list[Question]:
    """Distinct held-out conversations that end with a question, and four answers about its topic,
    of which one is right."""
    rng = random.Random(f"calibration {world.seed}")

    def make_question():
        answer = None
        while answer not in KNOWN_ANSWERS:  # to a made-up word there are no other choices
            between = data.random_kinds(rng, rng.choice((1, 2, 3)))
            messages, answer = recall_case(world, rng, between)
        others = [other for other in KNOWN_ANSWERS[answer] if other != answer]
        return messages, [answer, *rng.sample(others, 3)]

    return distinct(make_question, count, lambda case: str(case[0]))


def fits(run: Run, question: Question) -> bool:
    """Whether a conversation with any of the choices fits into the context, in both forms: a cut
    one would not be the same for all choices and models."""
    messages, choices = question
    lengths = []
    for choice in choices:
        whole = data.answered(messages, choice)
        lengths.append(len(data.render_conversation(run.tokenizer, whole)[0]))
        lengths.append(1 + len(run.tokenizer.encode(dialogue_of(whole))))  # after <|endoftext|>
    return max(lengths) <= run.base.config.block_size


def dialogue_confidence(run: Run, questions: list[Question]) -> np.ndarray:
    """The pretrained model's probability of each choice among the four, in the form of the
    dialogues that it has read: (questions, 4)."""
    pairs = []
    for messages, choices in questions:
        pairs += [(f"{dialogue_of(messages)}Host:", f" {choice}\n") for choice in choices]
    logprobs = gpt.completion_logprobs(run.base, run.tokenizer, pairs)
    totals = torch.tensor([total for total, _ in logprobs]).view(-1, 4)
    return totals.softmax(dim=1).numpy()


def chat_confidence(run: Run, model: GPT, questions: list[Question]) -> np.ndarray:
    """The same for a fine-tuned model, in the chat format. The log-probabilities include the
    assistant's earlier turns, which are the same for all four choices and so do not matter."""
    rows = []
    for messages, choices in questions:
        conversations = [data.answered(messages, choice) for choice in choices]
        logprobs = run.answer_logprobs(model, conversations)  # (4,)
        rows.append(logprobs.softmax(dim=0).tolist())
    return np.array(rows)


def reliability(probabilities: np.ndarray) -> list[tuple[int, float, float]]:
    """The bins of Fig. 8 that are not empty: (number of choices in it, their mean confidence, the
    share of them that is right). All four choices of a question count; the first is right."""
    is_right = np.zeros_like(probabilities)
    is_right[:, 0] = 1
    bin_of = np.minimum((probabilities * BINS).astype(int), BINS - 1)  # (questions, 4)
    bins = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        bins.append((inside.sum(), probabilities[inside].mean(), is_right[inside].mean()))
    return bins


def calibration_error(probabilities: np.ndarray) -> float:
    """Expected calibration error: the mean gap between confidence and share right, each bin
    weighted by its number of choices."""
    gaps = [count * abs(mean - share) for count, mean, share in reliability(probabilities)]
    return sum(gaps) / probabilities.size


def more_error(after: np.ndarray, before: np.ndarray, answers: list[str]) -> tuple[float, float]:
    """The calibration error after minus before, and the standard error of this difference, by
    bootstrap over the right answers: few values are held out, so many questions share one."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(np.array(answers) == answer) for answer in sorted(set(answers))]
    differences = []
    for _ in range(1000):
        drawn = rng.integers(0, len(groups), len(groups))
        rows = np.concatenate([groups[number] for number in drawn])
        differences.append(calibration_error(after[rows]) - calibration_error(before[rows]))
    return calibration_error(after) - calibration_error(before), float(np.std(differences))


def calibration(run: Run) -> tuple[list[dict], dict[str, np.ndarray], list[str]]:
    """Rows for each model, {model: its confidence, (questions, 4)}, and the right answers."""
    questions = [question for question in recall_questions(run.task.world, QUESTIONS)
                 if fits(run, question)]
    probabilities = {"GPT": dialogue_confidence(run, questions)}
    for name, model in run.chats.items():
        probabilities[name] = chat_confidence(run, model, questions)
    rows = []
    for name, values in probabilities.items():
        is_right = values.argmax(axis=1) == 0  # (questions,)
        rows.append({"model": name, "questions": len(values), "accuracy": float(is_right.mean()),
                     "confidence": float(values.max(axis=1).mean()),
                     "ECE": calibration_error(values)})
    return rows, probabilities, [choices[0] for _, choices in questions]
