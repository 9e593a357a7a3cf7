"""
How GPT-3 answers: by comparing given answers by their probability, in three ways (per token, as a
whole, and divided by the probability that the answer has without the question); or freely, by
beam search.

Beam width 4 and alpha 0.6 are GPT-3's; the length penalty is that of Wu et al. (arXiv:1609.08144,
eq. 14).

Paper: GPT-3 (arXiv:2005.14165) §2.4, §3.9.
"""
import random

import numpy as np
import torch
import torch.nn.functional as F

import gpt
from data import World
from gpt import GPT, KVCache
from papers.gpt3_tasks import PAPER, PRACTISED, SCRAMBLED, few_shot_prompt, synthetic_task
from papers.tasks import Labeled, distinct, gpt1_task


def best_answers(model: GPT, tokenizer, cases) -> dict[str, np.ndarray]:
    """For each way to compare the four answers of a case: the indices of the best, (cases,)."""
    pairs = [pair for case in cases for pair in case]
    without_question = [("A:", answer) for _, answer in pairs]
    # (cases * 4,) each
    log_probs, tokens = np.array(gpt.completion_logprobs(model, tokenizer, pairs)).T
    log_probs_alone, _ = np.array(gpt.completion_logprobs(model, tokenizer, without_question)).T
    scores = {
        "per token": log_probs / tokens,
        "in all": log_probs,
        'over P(answer | "A:")': log_probs - log_probs_alone,
    }
    return {way: values.reshape(-1, 4).argmax(axis=1) for way, values in scores.items()}


def right_answers(model: GPT, tokenizer, questions: list[Labeled], solved: list[tuple[str, str]],
                  K: int) -> dict[str, np.ndarray]:
    """For each way to compare, after K solved questions: whether each answer is right (1 or 0),
    (questions,)."""
    rng = random.Random(f"{K} solved")
    cases = []
    for case in questions:
        _, question, answers = case.texts
        prompt = few_shot_prompt(rng.sample(solved, K), f"\nQ: {question}\nA:")
        cases.append([(prompt, f" {answer}") for answer in answers])
    labels = [case.label for case in questions]
    return {way: (chosen == labels).astype(float)
            for way, chosen in best_answers(model, tokenizer, cases).items()}


def comparing(model: GPT, tokenizer, world: World, count: int) -> tuple[list[dict], list[float]]:
    """Questions about held-out facts with four answers: rows with the accuracy after K solved ones
    by the way to compare, and for each fact at K = 1 what dividing by P(answer | "A:") is worth
    (-1 ... 1). [GPT-3 §2.4]"""
    solved = []
    for case in gpt1_task(world, "multiple choice", "train", 200, 2):
        _, question, answers = case.texts
        solved.append((f"\nQ: {question}\nA:", f" {answers[case.label]}"))

    questions = gpt1_task(world, "multiple choice", "test", count, 2)
    rows = []
    for K in (0, 1, 4):
        is_right = right_answers(model, tokenizer, questions, solved, K)
        rows.append({"K": K, "questions": len(questions),
                     **{way: float(values.mean()) for way, values in is_right.items()}})

    is_right = right_answers(model, tokenizer, questions, solved, 1)
    worth = {}  # fact -> the gain in each of its wordings
    for case, gain in zip(questions, is_right['over P(answer | "A:")'] - is_right["per token"]):
        _, _, answers = case.texts
        person, topic, _ = world.meaning[answers[case.label]]
        worth.setdefault((person, topic), []).append(gain)
    return rows, [float(np.mean(gains)) for gains in worth.values()]


# ------------------------------------------------------------------------------
# Beam search


ALPHA = 0.6  # how much a beam search favors long answers


def length_penalty(length: int) -> float:
    """What log P of a continuation is divided by: without it short ones always win."""
    return ((5 + length) / 6) ** ALPHA


@torch.no_grad()
def beam_search(model: GPT, idx, max_new_tokens: int, beams: int = 4,
                stop_token: int | None = None) -> list[int]:
    """Continue one prompt of ids (P,) and return the ids of the best continuation, stop token
    included.

    Each step extends every open hypothesis by every token and keeps the `beams` most likely
    results. One that ends with the stop token is finished and set aside. In the end hypotheses of
    different lengths are compared by log P / length_penalty. All of them must fit into the context.
    """
    model.eval()
    cache = KVCache(model, 1, len(idx) + max_new_tokens)
    tokens = idx[None]  # (1, P), later (open, 1)
    open_beams = [(0.0, [])]  # (log P, ids so far)
    finished = []  # (log P / length penalty, ids)

    for _ in range(max_new_tokens):
        hidden = model.hidden(tokens, cache)[:, -1]  # (open, C)
        log_probs = F.linear(hidden, model.wte.weight).log_softmax(-1)  # (open, V)
        vocab_size = log_probs.size(1)
        so_far = torch.tensor([[log_prob] for log_prob, _ in open_beams], device=idx.device)
        totals = (so_far + log_probs).flatten()  # (open * V,)

        # 2 * beams candidates: each open beam can lose at most one of them to the stop token
        best, places = totals.topk(min(2 * beams, len(totals)))
        parents = []
        grown = []
        for rank, (log_prob, place) in enumerate(zip(best.tolist(), places.tolist())):
            parent, token = divmod(place, vocab_size)
            ids = open_beams[parent][1] + [token]
            if token == stop_token:
                if rank < beams:
                    finished.append((log_prob / length_penalty(len(ids)), ids))
            elif len(grown) < beams:
                parents.append(parent)
                grown.append((log_prob, ids))
        open_beams = grown
        if not open_beams:
            break

        # Stop when no open beam can beat the best finished one: log P only falls, and no penalty
        # exceeds that of the full length.
        if finished and max(finished)[0] >= open_beams[0][0] / length_penalty(max_new_tokens):
            break

        cache.select(torch.tensor(parents, device=idx.device))
        tokens = torch.tensor([ids[-1:] for _, ids in open_beams], device=idx.device)

    for log_prob, ids in open_beams:
        finished.append((log_prob / length_penalty(len(ids)), ids))
    return max(finished)[1]


def exact_match(model: GPT, tokenizer, world: World, count: int) -> list[dict]:
    """Exact match on up to `count` different held-out cases of each synthetic task after K
    examples. An answer ends with the line."""
    [newline] = tokenizer.encode("\n")
    rows = []
    for task in PRACTISED:
        rng = random.Random(task)
        # (context, answer): a word that is scrambled in two ways is one case
        asked = 1 if task in SCRAMBLED else 0
        cases = distinct(lambda: synthetic_task(world, rng, "test", task), count,
                         lambda case: case[asked])
        row = {"task": task, "cases": len(cases)}
        for K in (0, 1, 6):
            rng = random.Random(f"{task} {K}")
            right = 0
            for context, answer in cases:
                examples = [synthetic_task(world, rng, "train", task) for _ in range(K)]
                prompt = few_shot_prompt(examples, context)
                ids = [tokenizer.eot, *tokenizer.encode(prompt)]
                idx = torch.tensor(ids, device=model.device)  # (P,)
                found = beam_search(model, idx, 12, stop_token=newline)
                right += tokenizer.decode(found).strip() == answer.strip()
            row[f"K = {K}"] = right / len(cases)
        row.update(zip(("175B zero-shot", "one-shot", "few-shot"), PAPER.get(task, ())))
        rows.append(row)
    return rows
