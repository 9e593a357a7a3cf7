"""
Three ways to compare answers by their probability: per token, in all, and divided by what the
answer is worth anyway.

Paper: GPT-3 (arXiv:2005.14165) §2.4.
"""
import random

import numpy as np

import gpt
from data import World
from gpt import GPT
from papers.gpt3_tasks import few_shot_prompt
from papers.tasks import gpt1_task


def best_answers(model: GPT, tokenizer, cases) -> dict[str, np.ndarray]:
    """For each way to compare the four answers of a case: the indices of the
    best, (cases,)."""
    pairs = [pair for case in cases for pair in case]
    after_question = gpt.completion_logprobs(model, tokenizer, pairs)
    without_question = [("A:", answer) for _, answer in pairs]
    alone = gpt.completion_logprobs(model, tokenizer, without_question)
    log_probs = np.array([total for total, _ in after_question])  # (cases * 4,)
    tokens = np.array([count for _, count in after_question])
    log_probs_alone = np.array([total for total, _ in alone])
    scores = {
        "per token": log_probs / tokens,
        "in all": log_probs,
        'over P(answer | "A:")': log_probs - log_probs_alone,
    }
    return {way: values.reshape(-1, 4).argmax(axis=1) for way, values in scores.items()}


def comparing(model: GPT, tokenizer, count: int):
    """Questions about held-out facts with four answers, after K solved ones: accuracy by the way
    to compare, and for each fact at K = 1 what dividing by P(answer | "A:") is
    worth (-1 ... 1). [GPT-3 §2.4]"""
    solved = []
    for case in gpt1_task(World(0), "multiple choice", "train", 200, 2):
        _, question, answers = case.texts
        solved.append((f"\nQ: {question}\nA:", f" {answers[case.label]}"))

    questions = gpt1_task(World(0), "multiple choice", "test", count, 2)
    right = [case.label for case in questions]
    rows = []
    for K in (0, 1, 4):
        rng = random.Random(f"{K} solved")
        cases = []
        for case in questions:
            _, question, answers = case.texts
            prompt = few_shot_prompt(rng.sample(solved, K), f"\nQ: {question}\nA:").lstrip()
            cases.append([(prompt, f" {answer}") for answer in answers])
        row = {"K": str(K), "questions": len(questions)}
        is_right = {}  # way -> (questions,)
        for way, chosen in best_answers(model, tokenizer, cases).items():
            is_right[way] = (chosen == right).astype(float)
            row[way] = float(is_right[way].mean())
        if K == 1:
            worth = {}  # fact -> the gain in each of its wordings
            gains = is_right['over P(answer | "A:")'] - is_right["per token"]
            for case, gain in zip(questions, gains):
                person, topic, _ = World(0).meaning[case.texts[2][case.label]]
                worth.setdefault((person, topic), []).append(gain)
        rows.append(row)
    return rows, [float(np.mean(gains)) for gains in worth.values()]
