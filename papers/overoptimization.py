"""
Over-optimization: a policy that is optimized too long for a reward model's score gets worse.

Three reward models (proxies) learn from the rubric's own ranking of SFT answers to 100, 400 and
1,600 prompts, without noise. Each is then optimized, by best of n and by PPO without a KL penalty.
The answers get two scores, the reward model's (proxy) and the rubric's (gold). With d = sqrt(KL to
the SFT model) the paper says:
    gold rises, peaks and falls while the proxy goes on rising (our claim: it falls)
    gold follows  R(d) = d (alpha - beta d)  in best of n,  R(d) = d (alpha - beta log d)  in RL
    with more comparisons gold is better and falls less (our claim: its peak is higher)

    python -m papers.overoptimization       after `python rlhf.py`, the base (about 16 minutes)

Results go to runs/overoptimization. Paper: Gao et al. 2022 (arXiv:2210.10760).
"""
import copy
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import rlhf
from data import command_line, option
from gpt import print_table
from papers.claims import Claim, RunOptions, folder_of, mean_and_error, save_claims
from papers.figures import column, logged, plot
from papers.instructgpt_data import ranked
from papers.instructgpt_run import Run, base_of, load_run, trained
from rlhf import PPOConfig, RewardConfig, RewardModel, WorldTask

DIVISORS = (16, 4, 1)  # of the number of prompts
FAST = {"prompts": 32, "iterations": 2, "answers": 4, "test_prompts": 16}


@dataclass
class Options(RunOptions):
    base: str = option("instructgpt", "the run to start from (the default one is made if missing)")
    name: str = option("overoptimization", "results go to runs/NAME")
    prompts: int = option(1600, "behind the largest reward model", at_least=32)
    iterations: int = option(40, "of PPO without a KL penalty", at_least=1)
    lr: float = option(3e-4, "the policy's learning rate in PPO, half of rlhf.py's")
    answers: int = option(64, "per prompt, of which the best of n is taken", at_least=2)
    test_prompts: int = option(200, "held-out prompts", at_least=16)


def train_proxy(run: Run, prompts: int, path: Path) -> RewardModel:
    """A reward model that learns from SFT answers to `prompts` prompts, ranked by the rubric."""
    torch.manual_seed(run.options.seed)
    model = RewardModel(run.sft)
    task, speak = run.task, run.speaker(run.sft)

    def train(log):
        answered = task.answers(speak, prompts, "train", rlhf.RANKED_SEED)
        comparisons = ranked(task.world, answered)
        rlhf.train_reward_model(model, run.tokenizer, comparisons, task.demonstrations,
                                RewardConfig(seed=run.options.seed), log)
        answered = task.answers(speak, len(task.test) // 3, "test", rlhf.HELD_OUT_SEED)
        held_out = ranked(task.world, answered)
        accuracy = rlhf.pair_accuracy(model, run.tokenizer, held_out)
        print(f"{len(comparisons)} decided comparisons, held-out accuracy {accuracy:.3f}")

    return trained(path, model, run.tokenizer, train)


@dataclass
class Scale:
    """The proxy and gold scores of SFT answers. Calling it puts two other scores on the scale on
    which these have mean 0 and standard deviation 1."""
    proxy: np.ndarray  # (prompts, answers)
    gold: np.ndarray   # (prompts, answers)

    def __call__(self, proxy: float, gold: float) -> tuple[float, float]:
        return (float((proxy - self.proxy.mean()) / self.proxy.std()),
                float((gold - self.gold.mean()) / self.gold.std()))


def scale_of_sft(run: Run, reward_model: RewardModel, count: int) -> Scale:
    """The scores of `count` SFT answers to each held-out prompt."""
    proxy, gold = [], []
    for number in range(count):
        rollout, _, golds = run.score(run.sft, reward_model, seed=100 + number)
        proxy.append(rollout.scores.cpu().numpy())
        gold.append(golds)
    return Scale(np.stack(proxy, axis=1), np.stack(gold, axis=1))


def best_of_n(proxy: np.ndarray, values: np.ndarray, n: int) -> float:
    """The expected value of the answer that the proxy likes best among n, from N >= n answers:
    proxy and values are (prompts, N). Unbiased [Nakano et al. 2021, App. I]: in the order of the
    proxy, the i-th of N answers is the best of a random n with probability C(i-1, n-1) / C(N, n).
    """
    N = proxy.shape[1]
    weights = np.array([math.comb(i, n - 1) / math.comb(N, n) for i in range(N)])
    in_order = np.take_along_axis(values, proxy.argsort(axis=1), axis=1)  # (prompts, N)
    return float((in_order @ weights).mean())


def best_of_n_curve(scale: Scale) -> list[tuple[float, float, float]]:
    """Points (d, proxy, gold) for n = 1, 2, 4 ... up to all answers. The KL is taken to be
    log n - (n - 1) / n; where answers repeat, it is lower."""
    points = []
    n = 1
    while n <= scale.proxy.shape[1]:
        d = math.sqrt(math.log(n) - (n - 1) / n)
        proxy = best_of_n(scale.proxy, scale.proxy, n)
        gold = best_of_n(scale.proxy, scale.gold, n)
        points.append((d, *scale(proxy, gold)))
        n *= 2
    return points


def ppo_curve(run: Run, reward_model: RewardModel, scale: Scale, path: Path, config: PPOConfig):
    """PPO against the proxy, scored after each iteration: (points as above, averaged policy)."""
    policy = copy.deepcopy(run.sft)

    def train(log):
        def log_with_gold(iteration, steps, **values):
            rollout, _, golds = run.score(policy, reward_model, seed=7)
            d = math.sqrt(max(0.0, rollout.kl.mean().item()))
            proxy, gold = scale(rollout.scores.mean().item(), golds.mean())
            log(iteration, steps, **values, d=d, proxy=proxy, gold=gold)

        rlhf.train_ppo(policy, reward_model, run.tokenizer, run.task.prompt_source(), config,
                       log_with_gold)

    policy = trained(path, policy, run.tokenizer, train)
    rows = logged(path.with_suffix(".jsonl"), "gold")
    return [(0.0, 0.0, 0.0)] + [(row["d"], row["proxy"], row["gold"]) for row in rows], policy


def fit_gold(d: np.ndarray, gold: np.ndarray, method: str) -> tuple[float, float, float]:
    """Least squares of R(d) = alpha d - beta d f(d), where f(d) is log d for PPO and d for best of
    n: (alpha, beta, root of the mean squared error). nan for fewer than three points."""
    if len(d) < 3:
        return math.nan, math.nan, math.nan
    f = np.log(d) if method == "PPO" else d
    terms = np.stack([d, -d * f], axis=1)  # (points, 2)
    (alpha, beta), *_ = np.linalg.lstsq(terms, gold)
    errors = terms @ (alpha, beta) - gold
    return float(alpha), float(beta), float(np.sqrt((errors ** 2).mean()))


def summary(prompts: int, method: str, points: list) -> dict:
    """A row of the table: the fit, the error that the other method's form of it has, the peak of
    gold, its fall from the middle third of the curve to the last, and the curve's last point."""
    d, proxy, gold = np.array(points).T
    _, middle, late = [part.mean(axis=0) for part in np.array_split(points, 3)]  # d, proxy, gold
    far = d > 0.2  # below, d is mostly noise
    alpha, beta, error = fit_gold(d[far], gold[far], method)
    _, _, other_error = fit_gold(d[far], gold[far], "best of n" if method == "PPO" else "PPO")
    return {"prompts": prompts, "method": method,
            "alpha": alpha, "beta": beta, "fit error": error, "other form's": other_error,
            "gold peaks at": float(d[gold.argmax()]), "gold there": float(gold.max()),
            "fall": float(middle[2] - late[2]), "proxy rises": float(late[1] - middle[1]),
            "last d": float(d[-1]), "last gold": float(gold[-1]), "last proxy": float(proxy[-1])}


def claims(rows: list[dict], prompts: int) -> list[Claim]:
    """In standard deviations of SFT answers. Of one seed the errors are rough: over three reward
    models whose prompts are nested and, of the last claim, as if the two peaks were means of
    independent answers that scatter as SFT's do. papers.claims takes them over seeds."""
    ppo = [row for row in rows if row["method"] == "PPO"]
    best = [row for row in rows if row["method"] == "best of n"]
    falls = []
    for name, curves in (("best of n", best), ("PPO", ppo)):
        fall, error = mean_and_error(column(curves, "fall"))
        if column(curves, "proxy rises").min() <= 0:  # then it is no over-optimization
            fall = math.nan
        says = (f"{name}: gold falls in the end while the proxy rises: gold in the middle third of "
                "the curve minus the last, mean of three numbers of comparisons")
        falls.append(Claim("Gao et al.", "Fig. 1", says, "chart", fall, error, 1, prompts))
    return falls + [
        Claim("Gao et al.", "§3.1", "PPO follows d (alpha - beta log d) better than "
              "d (alpha - beta d): error of the second fit minus that of the first, mean of three",
              "no number",
              *mean_and_error(column(ppo, "other form's") - column(ppo, "fit error")), 1, prompts),
        Claim("Gao et al.", "§3.3", "more comparisons move PPO's peak of gold up (maxima of noisy "
              "points)", "better gold scores, less goodharting (charts)",
              ppo[-1]["gold there"] - ppo[0]["gold there"], math.sqrt(2 / prompts), 1, prompts)]


def panel(method: str, curves: dict, rows: list[dict]) -> dict:
    """Gold (points and fit) and proxy (dashed) against d. [Gao et al. Fig. 1]"""
    lines = []
    rows = [row for row in rows if row["method"] == method]
    for number, row in enumerate(rows):
        d, proxy, gold = np.array(curves[row["prompts"], method]).T
        x = np.linspace(0.2, max(0.3, d.max()), 100)
        form = np.log(x) if method == "PPO" else x
        lines.append((f"gold, {row['prompts']} prompts", d, gold, f"C{number}o"))
        lines.append((None, d, proxy, f"C{number}--"))
        lines.append((None, x, x * (row["alpha"] - row["beta"] * form), f"C{number}-"))
    return {"title": f"{method}: gold (points, fit) and proxy (dashed)",
            "xlabel": "sqrt(KL to the SFT model)", "lines": lines}


def show_hacked(run: Run, reward_model: RewardModel, policy):
    """Print mean scores, and the prompts where PPO gained most in score relative to gold."""
    scores, golds, answers = {}, {}, {}
    for name, model in (("SFT", run.sft), ("PPO", policy)):
        rollout, answers[name], golds[name] = run.score(model, reward_model)
        scores[name] = rollout.scores.cpu().numpy()
        print(f"  {name:4s} score {scores[name].mean():6.2f}   "
              f"gold score {golds[name].mean():6.2f}   KL {rollout.kl.mean():6.2f}")
    print("the answers that gained most in score beyond what they gained in gold score:")
    gain = (scores["PPO"] - scores["SFT"]) - (golds["PPO"] - golds["SFT"])
    for i in np.argsort(-gain)[:4]:
        print(f"  {run.task.test[i].prompt}")
        for name in answers:
            print(f"    {name:4s} score {scores[name][i]:6.2f}   "
                  f"gold score {golds[name][i]:5.1f}   {answers[name][i][0]}")


def overoptimization(options: Options = Options()):
    """Gold against proxy, best of n and PPO, for three sizes of the comparison data."""
    base, shape = base_of(options)
    if options.fast:
        options = dataclasses.replace(options, **FAST)
    folder = folder_of(options, "prompts", "iterations", "lr", "answers", "test_prompts",
                       base=dataclasses.asdict(base))
    run = load_run(base, shape, folder)
    run.task = WorldTask(base.seed, options.test_prompts)
    config = PPOConfig(iterations=options.iterations, max_response=base.max_response,
                       kl_coef=0.0, lr=options.lr, seed=base.seed)

    curves, rows = {}, []
    for divisor in DIVISORS:
        prompts = options.prompts // divisor
        print(f"\n== A reward model of {prompts} prompts, optimized", flush=True)
        reward_model = train_proxy(run, prompts, folder / f"reward{prompts}.pt")
        scale = scale_of_sft(run, reward_model, options.answers)
        curves[prompts, "best of n"] = best_of_n_curve(scale)
        curves[prompts, "PPO"], policy = ppo_curve(run, reward_model, scale,
                                                   folder / f"ppo{prompts}.pt", config)
        for method in ("best of n", "PPO"):
            rows.append(summary(prompts, method, curves[prompts, method]))
        show_hacked(run, reward_model, policy)

    print("\ngold and proxy in standard deviations of the SFT model's answers, d = sqrt(KL)")
    print_table(rows, folder / "table.json")
    plot(folder / "overoptimization.png",
         [panel(method, curves, rows) for method in ("best of n", "PPO")])
    save_claims(folder, claims(rows, len(run.task.test)))


if __name__ == "__main__":
    command_line({"overoptimization": overoptimization}, default="overoptimization")
