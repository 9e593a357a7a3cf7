"""
GPT-4's pictures, put to the test: a picture is tokens, too.

The report says that GPT-4 reads text and pictures in any order (§4.1), and not how. The design is
ours, after iGPT (Chen et al. 2020): a cell of a picture is a token. The model is the core's GPT
with a larger vocabulary; loss is on answers only.

The claims, with pictures whose things combine shape, color, place and number of things as in no
training picture, each against a bar of ours, 90 % exactly right:
    captions    of two to five things, listed in reading order
    by place    "Which shape is north?": a word is a position of the picture
    by content  "Which color is square?", "Where is red?": a word must be matched with the cells
    numbers     "How many are red?": all cells count
    new         questions about such pictures are answered as well as about training pictures, up
                to 2 % (our margin)
The table has two controls: the same weights with another scene's picture, and a model that is
trained and tested without pictures.

Built in: training documents have the forms of the test's prompts, and any three of the four values
occur together in training pictures; only the combination of all four is new. Chosen after looking,
on seed 0: the wordings, the shares of documents, and small pictures (of 36 cells, look-ups by
content were not learned in 2400 steps). Not tested: several pictures or examples in a prompt.

    python -m papers.gpt4_pictures      a table, samples and a figure (about 11 minutes)

Results go to runs/gpt4_pictures; see also papers/gpt4_pictures_tasks.py.
Paper: GPT-4 technical report (arXiv:2303.08774).
"""
import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gpt  # before torch: it sets how torch's threads wait
import torch
from data import Tokenizer, command_line, option
from gpt import GPT, GPTConfig, print_table
from papers.claims import Claim, folder_of, over_seeds, proportion_error, save_claims
from papers.figures import plot
from papers.gpt4_pictures_tasks import (GROUPS, KINDS, PLACES, QUESTIONS, Document, batch_of,
                                        cases_of, encode, learn_tokenizer, random_document,
                                        vocabulary, with_another_picture, without_pictures)

SHAPE = GPTConfig(block_size=80, n_layer=3, n_head=4, n_embd=64)
LONGEST = 24  # tokens of an answer; the longest is a caption of five things
BAR, MARGIN = .9, .02


@dataclass
class Options:
    name: str = option("gpt4_pictures", "results go to runs/NAME")
    steps: int = option(2000, "optimizer steps; without pictures an eighth", at_least=1)
    batch: int = option(64, "documents of an optimizer step", at_least=1)
    seeds: int = option(3, "models, each with other combinations held out", at_least=1)
    cases: int = option(100, "distinct cases of every kind, at the most", at_least=4)
    fast: bool = option(False, "a smoke run of seconds")
    fresh: bool = option(False, "train everything anew")


# ------------------------------------------------------------------------------
# Training


def train(path: Path, seed: int, options: Options, blind: bool) -> tuple[GPT, Tokenizer]:
    """Train a model, or load it. A blind one reads the same documents without their pictures. The
    log has accuracies along training."""
    print(f"== {path}", flush=True)
    if path.exists():
        return gpt.load_model(path)
    tokenizer = learn_tokenizer(seed)
    torch.manual_seed(seed)
    shape = dataclasses.replace(SHAPE, vocab_size=vocabulary(tokenizer))
    model = GPT(shape).to(gpt.pick_device())
    print(f"a model of {model.num_params():,} parameters")
    defaults = gpt.TrainConfig()
    optimizers = gpt.make_optimizers(model, defaults.lr, defaults.muon_lr)
    rng = random.Random(f"documents {seed}")
    tests = {}
    if not blind:
        tests = {name_of(kind): cases_of(kind, options.cases, "test", seed) for kind in KINDS}
    log = gpt.RunLog(path.with_suffix(".jsonl"))
    steps = max(1, options.steps // 8) if blind else options.steps
    for step in range(steps):
        model.train()
        documents = [random_document(rng, seed) for _ in range(options.batch)]
        if blind:
            documents = without_pictures(documents)
        x, y = batch_of(tokenizer, documents, model.device)
        _, loss = model(x, y)
        loss.backward()
        gpt.update(model, optimizers, gpt.schedule(step, steps, defaults.warmup))
        values = {"loss": loss.item()}
        if (step + 1) % max(1, steps // 8) == 0:
            for name, cases in tests.items():
                values[name] = accuracy(model, tokenizer, cases)
        log(step + 1, steps, **values)
    gpt.save_checkpoint(path, model, tokenizer)
    return model.eval(), tokenizer


# ------------------------------------------------------------------------------
# Testing: the model writes, and only the whole right answer counts


def write(model: GPT, tokenizer: Tokenizer, cases: list[Document]) -> list[str]:
    """What the model writes behind each question, up to the end of the line, at temperature 0."""
    newline = tokenizer.encode("\n")[0]
    prompts = []
    for case in cases:
        [(question, _)] = case.turns
        prompt, _ = encode(tokenizer, Document(case.scene, ((question, ""),)))
        prompts.append(prompt)
    idx, lengths = gpt.to_tensors(prompts, tokenizer.pad, model.device)  # (B, P), (B,)
    new = gpt.generate(model, idx, LONGEST, lengths, (newline,), temperature=0)  # (B, R)
    written = []
    for row in new.tolist():
        # an untrained model can also write cells of pictures
        text = tokenizer.decode(token for token in row if token < tokenizer.vocab_size)
        written.append(text.partition("\n")[0].strip())
    return written


def accuracy(model: GPT, tokenizer: Tokenizer, cases: list[Document]) -> float:
    """The share of cases that are answered exactly."""
    answers = [case.turns[0][1] for case in cases]
    return float(np.mean(np.equal(write(model, tokenizer, cases), answers)))


def name_of(kind: tuple[str, str] | str) -> str:
    """ "place by color", "caption" """
    return kind if kind == "caption" else " by ".join(kind)


def test(options: Options, folder: Path, seed: int) -> list[dict]:
    """A row of accuracies for each kind of question."""
    model, tokenizer = train(folder / f"seed{seed}.pt", seed, options, blind=False)
    blind, _ = train(folder / f"seed{seed}-blind.pt", seed, options, blind=True)
    rows = []
    for kind in KINDS:
        cases = cases_of(kind, options.cases, "test", seed)
        answers = [case.turns[0][1] for case in cases]
        rows.append({
            "kind": name_of(kind),
            "cases": len(cases),
            "training pictures": accuracy(
                model, tokenizer, cases_of(kind, options.cases, "train", seed)),
            "held out": accuracy(model, tokenizer, cases),
            "other picture": accuracy(model, tokenizer, with_another_picture(cases)),
            "no picture": accuracy(blind, tokenizer, without_pictures(cases)),
            "most frequent": max(map(answers.count, answers)) / len(answers)})
        if seed == 0:
            show(model, tokenizer, cases[0])
    return rows


def show(model: GPT, tokenizer: Tokenizer, case: Document):
    """A picture of the test in words, the question and what the model writes."""
    cells = dict.fromkeys(PLACES, ".")
    for thing in case.scene:
        cells[thing.place] = f"{thing.color} {thing.shape}"
    cells = [cell.ljust(14) for cell in cells.values()]
    [(question, answer)] = case.turns
    [text] = write(model, tokenizer, [case])
    print()
    for row in gpt.chunks(cells, 3):
        print("".join(row))
    print(f"{question} {text} (right: {answer})")


# ------------------------------------------------------------------------------
# The table, the figure and the claims


def average(rows: list[dict], kinds: tuple, column: str) -> float:
    """The mean of a column over the rows of these kinds."""
    names = [name_of(kind) for kind in kinds]
    return float(np.mean([row[column] for row in rows if row["kind"] in names]))


def draw_figure(folder: Path, table: list[dict]):
    """Accuracy by group of kinds, and along training."""
    bars = {}
    for column in ("held out", "other picture", "no picture"):
        bars[column] = {name: average(table, kinds, column) for name, kinds in GROUPS.items()}
    log = [json.loads(line) for line in open(folder / "seed0.jsonl")]
    looks = [row for row in log if "caption" in row]
    steps = [row["step"] for row in looks]
    lines = []
    for name, kinds in GROUPS.items():
        values = [np.mean([row[name_of(kind)] for kind in kinds]) for row in looks]
        lines.append((name, steps, values))
    plot(folder / "gpt4_pictures.png", [
        {"title": "exactly right, mean of the seeds", "bars": bars},
        {"title": "held out, seed 0", "xlabel": "optimizer step", "lines": lines}])


def claims(tables: list[list[dict]]) -> list[Claim]:
    """One difference per seed; each seed holds out other combinations."""

    def claim(says, kinds, less, margin=0.):
        shares, differences, cases = [], [], 0
        for rows in tables:
            minus = average(rows, kinds, less) if isinstance(less, str) else less
            shares.append(average(rows, kinds, "held out"))
            differences.append(shares[-1] - minus + margin)
            cases += round(average(rows, kinds, "cases") * len(kinds))
        ours, error = over_seeds(differences)
        # seeds that are equally right do not make the error 0
        error = max(error, proportion_error(float(np.mean(shares)), cases))
        return Claim("GPT-4", "§4.1", says, "no number", ours, error, len(tables), cases)

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
              "training pictures", MARGIN)]


def gpt4_pictures(options: Options = Options()):
    """Captions of pictures and questions about them. [GPT-4 §4.1]"""
    if options.fast:
        options = dataclasses.replace(options, steps=2, batch=4, seeds=1, cases=4)
    folder = folder_of(options, {"steps": options.steps, "batch": options.batch})
    tables = [test(options, folder, seed) for seed in range(options.seeds)]
    all_rows = sum(tables, [])
    table = []
    for kind in KINDS:
        table.append({"kind": name_of(kind), "cases": tables[0][KINDS.index(kind)]["cases"]})
        for column in list(all_rows[0])[2:]:
            table[-1][column] = average(all_rows, (kind,), column)
    print(f"\n== exactly right, mean of {options.seeds} seeds")
    print_table(table, folder / "table.json")
    draw_figure(folder, table)
    save_claims(folder, claims(tables))


if __name__ == "__main__":
    command_line({"gpt4_pictures": gpt4_pictures}, default="gpt4_pictures")
