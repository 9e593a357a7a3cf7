"""
How GPT-3 answers: by comparing given answers in three ways, per token, in all, and divided by what
the answer is worth anyway; or freely, by beam search.

Beam width 4 and length penalty 0.6 are GPT-3's, the penalty is that of Wu et al.
(arXiv:1609.08144, eq. 14).

Paper: GPT-3 (arXiv:2005.14165) §2.4, §3.9.
"""
import random

import numpy as np
import torch
import torch.nn.functional as F

import gpt
from data import UserError, World
from gpt import GPT, KVCache
from papers.gpt3_tasks import PAPER, PRACTISED, few_shot_prompt, synthetic_task
from papers.tasks import distinct, gpt1_task


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


# ------------------------------------------------------------------------------
# Beam search


def normalize(hypothesis, alpha: float) -> tuple[float, list[int]]:
    """(log P, ids) -> (log P / length penalty, ids): without it short
    continuations always win."""
    log_prob, ids = hypothesis
    penalty = ((5 + len(ids)) / 6) ** alpha
    return log_prob / penalty, ids


@torch.no_grad()
def beam_search(model: GPT, idx, max_new_tokens: int, beams: int = 4, alpha: float = 0.6,
                stop_token: int | None = None) -> list[int]:
    """Continue one prompt of ids (P,) and return the ids of the best
    continuation, stop token included.

    Each step extends every open hypothesis by every token and keeps the `beams`
    most likely results. One that ends with the stop token is finished and set
    aside. Finished hypotheses of different lengths are compared by log P / ((5
    + length) / 6)^alpha. Raises UserError if the context is too small.
    """
    max_length = len(idx) + max_new_tokens
    if max_length > model.config.block_size:
        raise UserError(f"{len(idx)} + {max_new_tokens} tokens do not fit into a context of "
                        f"{model.config.block_size}")

    model.eval()
    cache = KVCache(model, 1, max_length)
    tokens = idx[None]  # (1, P), later (open, 1)
    open_beams = [(0.0, [])]  # (log P, ids so far)
    finished = []  # (normalized log P, ids)

    for _ in range(max_new_tokens):
        hidden = model.hidden(tokens, cache)[:, -1]  # (open, C)
        log_probs = F.linear(hidden, model.wte.weight).log_softmax(-1)  # (open, V)
        vocab_size = log_probs.size(1)
        so_far = torch.tensor([[log_prob] for log_prob, _ in open_beams], device=idx.device)
        totals = (so_far + log_probs).flatten()  # (open * V,)

        # 2 * beams candidates: each open beam can lose at most one of them to
        # the stop token
        best, places = totals.topk(min(2 * beams, len(totals)))
        parents = []
        grown = []
        for rank, (log_prob, place) in enumerate(zip(best.tolist(), places.tolist())):
            parent, token = divmod(place, vocab_size)
            hypothesis = (log_prob, open_beams[parent][1] + [token])
            if token == stop_token:
                if rank < beams:
                    finished.append(normalize(hypothesis, alpha))
            elif len(grown) < beams:
                parents.append(parent)
                grown.append(hypothesis)
        open_beams = grown
        if not open_beams:
            break

        # Stop when no open beam can beat the best finished one: log P only
        # falls, and no penalty exceeds that of the full length.
        if finished:
            longest_penalty = ((5 + max_new_tokens) / 6) ** alpha
            if max(finished)[0] >= open_beams[0][0] / longest_penalty:
                break

        cache.select(torch.tensor(parents, device=idx.device))
        tokens = torch.tensor([ids[-1:] for _, ids in open_beams], device=idx.device)

    unfinished = [normalize(hypothesis, alpha) for hypothesis in open_beams]
    return max(finished + unfinished)[1]


def exact_match(model: GPT, tokenizer, world: World, count: int) -> list[dict]:
    """Exact match on up to `count` different held-out cases of each synthetic task after K
    examples.

    An answer ends with the line.
    """
    newline, = tokenizer.encode("\n")
    rows = []
    for task in PRACTISED:
        rng = random.Random(task)

        # of a scrambled word the answer is what counts, not how it was scrambled
        cases = distinct(lambda: synthetic_task(world, rng, "test", task), count,
                         lambda case: case[1] if case[0].endswith("=") else case[0])
        row = {"task": task, "cases": len(cases)}
        for K in (0, 1, 6):
            rng = random.Random(f"{task} {K}")
            right = 0
            for context, answer in cases:
                examples = [synthetic_task(world, rng, "train", task) for _ in range(K)]
                prompt = few_shot_prompt(examples, context).lstrip()
                ids = [tokenizer.eot, *tokenizer.encode(prompt)]
                idx = torch.tensor(ids, device=model.device)  # (P,)
                found = beam_search(model, idx, 12, stop_token=newline)
                right += tokenizer.decode(found).strip() == answer.strip()
            row[f"K = {K}"] = right / len(cases)
        row.update(zip(("175B zero-shot", "one-shot", "few-shot"), PAPER.get(task, ())))
        rows.append(row)
    return rows
