"""
InstructGPT's data, put to the test: whose comparisons, in which batches, how often.

Four tables of `python -m papers.instructgpt`:
    agreement       two labelers agree on 72.6 % of the pairs (§3.4), a reward model
                    and a labeler on 72.4 % (§4.1)
    labeler_folds   a reward model predicts training labelers better than others
                    (§4.1, E.2)
    batching        all pairs of a prompt are one element; shuffled, they overfit in
                    a single pass (§3.5)
    epochs_of_sft   SFT overfits after one epoch, and yet more epochs raise the score
                    (§3.5)

Paper: InstructGPT (arXiv:2203.02155).
"""
import copy
import math
import random

import numpy as np
import torch

import data
import rlhf
from data import LABEL_NOISE, RUBRIC, Comparison, Tokenizer
from papers.instructgpt_run import Run, load_reward_model
from rlhf import RewardConfig, RewardModel, SFTConfig

LABELERS, FOLDS = 10, 5
EPOCHS = (1, 2, 4, 8, 16)


# ----------------------------------------------------------------------------------
# Labelers and reward models


def ranked_by_rubric(world, answered: list) -> list[Comparison]:
    """Comparisons of (instruction, answers) without noise: the ranks of the gold score."""
    comparisons = []
    for instruction, answers in answered:
        golds = [data.gold(world, instruction, *answer) for answer in answers]
        texts = [text for text, _ in answers]
        comparison = data.compare(instruction.messages, texts, golds)
        if len(set(comparison.ranks)) > 1:
            comparisons.append(comparison)
    return comparisons


def share_alike(run: Run, answered: list) -> float:
    """How often two labelers order a pair of different answers alike."""
    one = random.Random(f"rank {run.options.seed} 1")
    two = random.Random(f"rank {run.options.seed} 2")
    alike = []
    for instruction, answers in answered:
        a = data.label(run.task.world, instruction, answers, one).ranks
        b = data.label(run.task.world, instruction, answers, two).ranks
        for i in range(len(answers)):
            for j in range(i):
                alike.append((a[i] < a[j]) == (b[i] < b[j]))
    return float(np.mean(alike))


def agreement(run: Run) -> list[dict]:
    """On held-out prompts: two labelers, and the reward model of each round with one of
    them and with the rubric itself."""
    sft = run.speaker(run.sft)
    both = [sft, run.speaker(run.chats["PPO round one"])]
    rows = []
    for number, speakers in ((1, [sft]), (2, both)):
        prompts = run.options.test_prompts // 3
        answered = run.task.answers(speakers, prompts, "test", rlhf.HELD_OUT)
        model = load_reward_model(run.folder / f"reward{number}.pt")
        noisy = run.task.rank(answered, rlhf.HELD_OUT)
        exact = ranked_by_rubric(run.task.world, answered)
        rows.append({"round": str(number), "two labelers": share_alike(run, answered),
                     "model, labeler": rlhf.pair_accuracy(model, run.tokenizer, noisy),
                     "model, rubric": rlhf.pair_accuracy(model, run.tokenizer, exact)})
    return rows


# ----------------------------------------------------------------------------------
# Labelers with weights of their own


def rubric_of(labeler: int, spread: float = 0.5) -> dict[str, float]:
    """One labeler's weights of the parts of a verdict: RUBRIC's, each times
    exp(N(0, spread))."""
    rng = random.Random(f"labeler {labeler}")
    rubric = {}
    for part, weight in RUBRIC.items():
        rubric[part] = weight * math.exp(rng.gauss(0, spread))
    return rubric


def compared_by(world, answered: list, labelers: list[int]) -> list[Comparison]:
    """Comparisons of (instruction, answers): each prompt is ranked by one of the
    labelers, in turn.

    The utility of an answer is the labeler's score of it plus Gumbel noise, as in
    data.label. Comparisons in which all answers are equal are left out.
    """
    rng = random.Random(str(labelers))
    comparisons = []
    for place, (instruction, answers) in enumerate(answered):
        rubric = rubric_of(labelers[place % len(labelers)])
        utilities = []
        for answer in answers:
            verdict = data.judge(world, instruction, *answer)
            score = sum(rubric[part] * value for part, value in verdict.items())
            gumbel = -math.log(-math.log(rng.random() or .5))
            utilities.append(score + LABEL_NOISE * gumbel)
        texts = [text for text, _ in answers]
        comparison = data.compare(instruction.messages, texts, utilities)
        if len(set(comparison.ranks)) > 1:
            comparisons.append(comparison)
    return comparisons


def labeler_folds(run: Run) -> list[dict]:
    """Ten labelers in five groups: train on four groups, test on labels of these and of
    the fifth."""
    task = run.task
    prompts = run.options.comparison_prompts
    answered = task.answers([run.speaker(run.sft)], min(800, prompts), "train", 30)
    held_out = task.answers([run.speaker(run.sft)], min(200, prompts), "test", 30)

    rows = []
    for fold in range(FOLDS):
        others = [labeler for labeler in range(LABELERS) if labeler % FOLDS == fold]
        training = [labeler for labeler in range(LABELERS) if labeler % FOLDS != fold]
        torch.manual_seed(fold)
        model = RewardModel(run.sft)
        comparisons = compared_by(task.world, answered, training)
        rlhf.train_reward_model(model, run.tokenizer, comparisons, task.demonstrations,
                                RewardConfig(seed=fold), no_log)
        row = {"fold": str(fold)}
        for name, labelers in (("training labelers", training), ("others", others)):
            comparisons = compared_by(task.world, held_out, labelers)
            row[name] = rlhf.pair_accuracy(model, run.tokenizer, comparisons)
        rows.append(row)

    mean, standard_error = {"fold": "mean"}, {"fold": "standard error"}
    for name in ("training labelers", "others"):
        accuracies = [row[name] for row in rows]
        mean[name] = float(np.nanmean(accuracies))
        standard_error[name] = float(np.nanstd(accuracies, ddof=1) / math.sqrt(FOLDS))
    return [*rows, mean, standard_error]


def no_log(step: int, steps: int, **values):
    """A log of training runs of which only the result counts."""


# ----------------------------------------------------------------------------------
# One element per prompt


@torch.no_grad()
def comparison_loss(model: RewardModel, tokenizer: Tokenizer, comparisons: list) -> float:
    """The ranking loss, a mean over prompts."""
    losses = []
    sizes = []
    for start in range(0, len(comparisons), 32):
        batch = comparisons[start:start + 32]
        scores, ranks = rlhf.comparison_scores(model, tokenizer, batch)
        losses.append(rlhf.ranking_loss(scores, ranks).item())
        sizes.append(len(batch))
    return float(np.average(losses, weights=sizes))


def pairs_of(comparisons: list[Comparison]) -> list[Comparison]:
    """Every decided pair as a comparison of its own."""
    pairs = []
    for c in comparisons:
        for i in range(len(c.ranks)):
            for j in range(i):
                if c.ranks[i] != c.ranks[j]:
                    responses = [c.responses[i], c.responses[j]]
                    ranks = [c.ranks[i], c.ranks[j]]
                    pairs.append(Comparison(c.messages, responses, ranks))
    return pairs


def batching(run: Run) -> list[dict]:
    """A prompt with all its pairs as one element, or all pairs shuffled; both with as
    many pairs per step."""
    task = run.task
    prompts = min(400, run.options.comparison_prompts)
    speakers = [run.speaker(run.sft)]
    training = task.rank(task.answers(speakers, prompts, "train", 31), 31)
    held_out = task.rank(task.answers(speakers, prompts // 2, "test", 31), 31)

    rows = []
    for name, comparisons in (("one element per prompt", training),
                              ("shuffled pairs", pairs_of(training))):
        torch.manual_seed(run.options.seed)
        model = RewardModel(run.sft)
        batch_size = round(RewardConfig().batch_size * len(comparisons) / len(training))
        for epoch in (1, 2, 3):             # each with a learning rate schedule of its own
            losses = []
            config = RewardConfig(batch_size=batch_size, seed=epoch)
            rlhf.train_reward_model(model, run.tokenizer, comparisons,
                                    task.demonstrations, config,
                                    lambda step, steps, loss: losses.append(loss))
            rows.append({
                "batches of": name, "epoch": epoch,
                "training loss": float(np.mean(losses[-20:])),
                "validation loss": comparison_loss(model, run.tokenizer, held_out),
                "validation accuracy": rlhf.pair_accuracy(model, run.tokenizer, held_out)})
    return rows


# ----------------------------------------------------------------------------------
# Epochs of SFT


def epochs_of_sft(run: Run) -> list[dict]:
    """The validation loss, the reward model's score and gold, by epochs over the
    demonstrations."""
    rng = random.Random(0)
    held_out = []
    for prompt in run.task.test:
        demonstration = data.demonstrate(run.task.world, prompt, rng)
        held_out.append(data.fit(run.tokenizer, demonstration, run.base.config.block_size))

    rows = []
    for epochs in EPOCHS:
        model = copy.deepcopy(run.base)
        config = SFTConfig(epochs=epochs, seed=run.options.seed)
        rlhf.warm_start(model, run.tokenizer)
        rlhf.train_sft(model, run.tokenizer, run.task.demonstrations, config,
                       run.pretraining(config.mix), no_log)
        rollout, _, golds = run.score(model)
        with torch.no_grad():
            loss = rlhf.sft_loss(model, run.tokenizer, held_out).item()
        rows.append({"epochs": epochs, "validation loss": loss,
                     "score": rollout.scores.mean().item(), "gold": float(golds.mean())})
    return rows
