"""
GPT-4's pictures, put to the test: a picture is a row of tokens, too.

The report says that GPT-4 reads text and pictures in any order (§4.1), and not how. The design is
ours, after iGPT (Chen et al. 2020): a cell of a picture is a token. The model is the core's GPT
with a larger vocabulary; loss is on answers only.

The claims, with pictures whose things combine shape, color, place and number of things as in no
training picture. Where no other is named, the bar is ours, 90 % exactly right:
    captions    of two to five things, listed in reading order
    by place    "Which shape is north?": a word is a position of the picture
    by content  "Which color is square?", "Where is red?": a word must be matched with the cells
    numbers     "How many are red?": all cells count
    new         answers are right as often as about pictures with training's combinations (a third
                of them read in training), up to 2 % (our margin)
    two         "In which picture are more red?", "... in the first picture?"; right in both orders
    few-shot    only examples, pictures with answers, show what is asked: four are better than none
Three controls: other pictures, a model that is trained without any, exchanged answers.

Built in: training documents have the forms of the test's prompts, and any three of the four values
occur together in training pictures; only the combination of all four is new. Chosen after looking
at seed 0: wordings, shares of documents, small pictures (with 36 cells questions by content were
not learned), one picture before several (else captions had .80), and two rows for two pictures.

    python -m papers.gpt4_pictures      a table, samples and a figure (about 52 minutes)

Paper: GPT-4 technical report (arXiv:2303.08774).
"""
import dataclasses
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import gpt
from data import Tokenizer, command_line, option
from gpt import GPT, GPTConfig, print_table
from papers.claims import (Claim, RunOptions, folder_of, mean_and_error, proportion_error,
                           save_claims)
from papers.figures import logged, plot
from papers.gpt4_pictures_several import (PAIR_KINDS, SHOT_KINDS, any_cases, any_document,
                                          exchanged, in_words, shuffled, unanswered,
                                          with_other_pictures, without_pictures)
from papers.gpt4_pictures_tasks import (GROUPS, KINDS, QUESTIONS, Document, batch_of, encode,
                                        learn_tokenizer, random_document, vocabulary)

SHAPE = GPTConfig(block_size=80, n_layer=3, n_head=4, n_embd=64)
LONGEST = 24  # tokens of an answer, enough for a caption of five things
BAR, MARGIN = .9, .02
ALL_KINDS = (*KINDS, *PAIR_KINDS, *SHOT_KINDS)


@dataclass
class Options(RunOptions):
    name: str = option("gpt4_pictures", "results go to runs/NAME")
    steps: int = option(2400, "optimizer steps", at_least=1)
    batch: int = option(64, "documents of an optimizer step", at_least=1)
    seeds: int = option(5, "models, each with other combinations held out", at_least=1)
    cases: int = option(100, "distinct cases of every kind, at the most", at_least=4)


def train(path: Path, seed: int, options: Options, blind: bool) -> tuple[GPT, Tokenizer]:
    """Train a model, or load it. A blind one reads the same documents without their pictures; the
    log of the other has accuracies along training."""
    print(f"== {path}", flush=True)
    if path.exists():
        return gpt.load_model(path)
    tokenizer = learn_tokenizer(any_document, seed)
    torch.manual_seed(seed)
    shape = dataclasses.replace(SHAPE, vocab_size=vocabulary(tokenizer))
    model = GPT(shape).to(gpt.pick_device())
    print(f"a model of {model.num_params():,} parameters")
    defaults = gpt.TrainConfig()
    optimizers = gpt.make_optimizers(model, defaults.lr, defaults.muon_lr)
    rng = random.Random(f"documents {seed}")
    tests = {}
    if not blind:
        tests = {kind: any_cases(kind, options.cases, "test", seed) for kind in ALL_KINDS}
    log = gpt.RunLog(path.with_suffix(".jsonl"))
    steps = options.steps
    for step in range(steps):
        model.train()
        form = random_document if step < steps / 2 else any_document  # one picture first
        documents = [form(rng, seed) for _ in range(options.batch)]
        if blind:
            documents = without_pictures(documents)
        x, y = batch_of(tokenizer, documents, model.device)
        _, loss = model(x, y)
        loss.backward()
        gpt.update(model, optimizers, gpt.schedule(step, steps, defaults.warmup))
        values = {"loss": loss.item()}
        if (step + 1) % max(1, steps // 8) == 0:
            for kind, cases in tests.items():
                values[kind] = is_right(model, tokenizer, cases).mean()
        log(step + 1, steps, **values)
    gpt.save_checkpoint(path, model, tokenizer)
    return model.eval(), tokenizer


def write(model: GPT, tokenizer: Tokenizer, cases: list[Document]) -> list[str]:
    """What the model writes behind each question, up to the end of the line, at temperature 0."""
    prompts = [encode(tokenizer, unanswered(case))[0] for case in cases]
    stops = tuple(tokenizer.encode("\n"))
    written = gpt.complete(model, tokenizer, prompts, stops, LONGEST, temperature=0)
    return [text for text, _ in written]


def is_right(model: GPT, tokenizer: Tokenizer, cases: list[Document]) -> np.ndarray:
    """Whether each case is answered exactly."""
    return np.equal(write(model, tokenizer, cases), [case[-1][1] for case in cases])


def test(options: Options, folder: Path, seed: int) -> list[dict]:
    """A row of accuracies for each kind of question."""
    model, tokenizer = train(folder / f"seed{seed}.pt", seed, options, blind=False)
    blind, _ = train(folder / f"seed{seed}-blind.pt", seed, options, blind=True)
    rows = []
    for kind in ALL_KINDS:
        cases = any_cases(kind, options.cases, "test", seed)
        known = any_cases(kind, options.cases, "train", seed)
        answers = [case[-1][1] for case in cases]
        held_out = is_right(model, tokenizer, cases)
        row = {
            "kind": kind,
            "cases": len(cases),
            "training pictures": is_right(model, tokenizer, known).mean(),
            "held out": held_out.mean(),
            "other picture": is_right(model, tokenizer, with_other_pictures(cases)).mean(),
            "no picture": is_right(blind, tokenizer, without_pictures(cases)).mean(),
            "most frequent": answers.count(statistics.mode(answers)) / len(answers),
        }
        if kind in PAIR_KINDS:
            other_order = [exchanged(case, kind) for case in cases]
            row["both orders"] = (held_out & is_right(model, tokenizer, other_order)).mean()
        if kind in SHOT_KINDS:
            others = [shuffled(case) for case in cases]
            row["shuffled"] = is_right(model, tokenizer, others).mean()
        rows.append(row)
        if seed == 0:
            [text] = write(model, tokenizer, cases[:1])
            print(f"\n{in_words(unanswered(cases[0]))}\n-> {text} (right: {answers[0]})")
    return rows


def average(rows: list[dict], kinds: tuple, column: str) -> float:
    """The mean of a column over the rows of these kinds."""
    return float(np.mean([row[column] for row in rows if row["kind"] in kinds]))


def draw_figure(folder: Path, rows: list[dict]):
    """Accuracy by group of kinds, along training, and by number of examples. rows: of all seeds."""
    groups = GROUPS | {"two pictures": PAIR_KINDS}
    bars, shots = {}, []
    for column in ("held out", "other picture", "no picture"):
        bars[column] = {name: average(rows, kinds, column) for name, kinds in groups.items()}
    for column in ("held out", "shuffled", "other picture", "no picture"):
        values = [average(rows, (kind,), column) for kind in SHOT_KINDS]
        shots.append((column, list(SHOT_KINDS.values()), values, "o-"))
    looks = logged(folder / "seed0.jsonl", "caption")
    lines = []
    for name, kinds in (groups | {"4 examples": ("4 examples",)}).items():
        values = [np.mean([row[kind] for kind in kinds]) for row in looks]
        lines.append((name, [row["step"] for row in looks], values))
    plot(folder / "gpt4_pictures.png", [
        {"title": "exactly right, mean of the seeds", "bars": bars},
        {"title": "held out, seed 0", "xlabel": "optimizer step", "lines": lines},
        {"title": "a task that only examples tell", "xlabel": "examples", "lines": shots}])


def claims(tables: list[list[dict]]) -> list[Claim]:
    """One difference per seed; each seed holds out other combinations."""

    def claim(says, kinds, bar=0., column="held out", baseline=None):
        """The mean of `column` over `kinds`, minus the bar and, if there is a baseline (kinds,
        column), minus the mean of that."""
        shares, differences, cases = [], [], 0
        for rows in tables:
            share = average(rows, kinds, column)
            shares.append(share)
            if baseline:
                share -= average(rows, *baseline)
            differences.append(share - bar)
            cases += sum(row["cases"] for row in rows if row["kind"] in kinds)
        ours, error = mean_and_error(differences)
        # seeds that are equally right do not make the error 0
        error = max(error, proportion_error(float(np.mean(shares)), cases))
        return Claim("GPT-4", "§4.1", says, "our test", ours, error, len(tables), cases)

    return [
        claim("captions of pictures with held-out combinations of shape, color, place and number, "
              f"exactly right, minus {BAR} (our bar; built in: the forms of the prompts)",
              GROUPS["caption"], BAR),
        claim("answers about such pictures, exactly right, where the question names a place, "
              f"minus {BAR}", GROUPS["by place"], BAR),
        claim(f"the same where a color or shape names the thing, not a place, minus {BAR}",
              GROUPS["by content"], BAR),
        claim(f"the same for how many things have a color or shape, minus {BAR}",
              GROUPS["number"], BAR),
        claim("answers about such pictures are as often right as about training pictures, up to "
              f"our margin of {MARGIN}, mean of eight kinds of questions", tuple(QUESTIONS),
              -MARGIN, baseline=(tuple(QUESTIONS), "training pictures")),
        claim("in which of two such pictures a thing is, or are more of a color or shape, right in "
              f"both orders of the pictures, minus {BAR} (built in: the forms of the prompts)",
              PAIR_KINDS[1:], BAR, "both orders"),
        claim("the same for look-ups in the first or the second of two pictures, as the question "
              f"says, minus {BAR}", PAIR_KINDS[:1], BAR, "both orders"),
        claim("few-shot: no word says what is asked; exactly right after four examples, minus "
              "after none (built in: training documents have up to four examples of these tasks)",
              ("4 examples",), baseline=(("0 examples",), "held out")),
        claim("the same after four examples, minus with one another's answers (whoever reads only "
              "the answers can reach .80)", ("4 examples",),
              baseline=(("4 examples",), "shuffled"))]


def gpt4_pictures(options: Options = Options()):
    """Captions of pictures and questions about them. [GPT-4 §4.1]"""
    if options.fast:
        options = dataclasses.replace(options, steps=2, batch=4, seeds=1, cases=4)
    folder = folder_of(options, "steps", "batch")
    tables = [test(options, folder, seed) for seed in range(options.seeds)]
    all_rows = sum(tables, [])
    table = []
    for first in tables[0]:
        row = {"kind": first["kind"], "cases": first["cases"]}
        for column in list(first)[2:]:
            row[column] = average(all_rows, (row["kind"],), column)
        table.append(row)
    print(f"\n== exactly right, mean of {options.seeds} seeds")
    print_table(table, folder / "table.json")
    draw_figure(folder, all_rows)
    save_claims(folder, claims(tables))


if __name__ == "__main__":
    command_line({"gpt4_pictures": gpt4_pictures}, default="gpt4_pictures")
