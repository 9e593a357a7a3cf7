"""
GPT-2's tasks as text, and the scores of free answers: F1, ROUGE and BLEU.

A language model does these tasks by continuing a text or by comparing continuations. No case that
asks for an answer is in the wide web. The gaps and the questions are about facts that its stories
tell; no text asks for those of the questions.

Papers: GPT-2 (Radford et al. 2019) §3; ROUGE (Lin 2004); BLEU (Papineni et al. 2002).
"""
import math
import random
import re
from collections import Counter
from functools import partial

from data import ECHOED, GUESTS, TOPICS, World
from papers.tasks import (KNOWN_ANSWERS, dialogue_of, distinct, fitting, phrase, phrasebook,
                          recall_case)


def gpt2_task(world: World, task: str, count: int) -> list[tuple]:
    """Up to `count` cases of a task that ask different things."""
    rng = random.Random(f"{task} {world.seed}")
    drawn = distinct(lambda: CASES[task](world, rng), count, lambda pair: pair[0])
    return [case for _, case in drawn]


def translation(world: World, rng: random.Random, order: int):
    """Three lines `one language = the other`, and the left half of a fourth: (text, right half)."""
    source, target = phrase(world, rng, "test")[::order]
    examples = phrasebook(world, rng, order, lines=3)
    return source, (f"{examples}\n{source} =", f" {target}")


def reading(world: World, rng: random.Random):
    """A conversation, and at its end a question about what was said: (text, answer). There are
    many texts but, without made-up words, about twenty answers."""
    answer = None
    while answer not in KNOWN_ANSWERS:  # no model here copies made-up words
        messages, answer = recall_case(world, rng, ["talk"])
    text = dialogue_of(messages)
    return text, (f"{text}Host:", f" {answer}")


def last_word(world: World, rng: random.Random):
    """A text that ends as an earlier line of it ended: (text, last word)."""
    said = rng.sample(ECHOED, 4)
    person, other = rng.sample(GUESTS, 2)
    text = f"{person} says: {' '.join(said)}.\n{other} says: {' '.join(said[:-1])}"
    return text, (text, f" {said[-1]}")


def gap(world: World, rng: random.Random, topics: tuple[str, ...]):
    """A story with a gap: (text before it, ten choices, text after it, index of the right choice).
    Some of these stories stand in the text that the models read; see `unseen`."""
    person = rng.choice(world.people)
    topic = rng.choice(topics)
    others = rng.sample([name for name in TOPICS if name != topic], 2)
    values, statements, _ = TOPICS[topic]
    statement = rng.choice(statements).format(person=person, value="|")
    before, after = statement.split("|")

    right = world.facts[person, topic]
    wrong = rng.sample([value for value in values if value != right], 9)
    choices = rng.sample([right, *wrong], 10)
    told = " ".join(world.state(rng, person, other) for other in others)
    case = f"{told} {before.rstrip()}", choices, after, choices.index(right)
    return (person, topic), case


def unseen(gaps: list[tuple], text: str) -> list[tuple]:
    """The stories with a gap that do not stand in the text word for word."""
    kept = []
    for before, choices, after, right in gaps:
        if f"{before} {choices[right]}{after}" not in text:
            kept.append((before, choices, after, right))
    return kept


def schema(world: World, rng: random.Random):
    """A Winograd schema, a gap with two choices."""
    before, nouns, after, right = fitting(world, rng, "test")
    return before + after, (before, nouns, after, right)


def summary(world: World, rng: random.Random):
    """A story, and the sign that a summary follows: (text, summary)."""
    story, right = world.trip(rng, "test")
    return right, (f"{story}\nTL;DR:", right)


def ask(world: World, rng: random.Random, split: str):
    """A question, whom it is about and what."""
    person = rng.choice(world.people_of(split))
    topic = rng.choice(world.topics_of(person, split))
    return f"Q: {world.ask(rng, person, topic)}\nA:", person, topic


def seeded_question(world: World, rng: random.Random):
    """Two questions with answers, and a third one: (text, (person, topic) of the third)."""
    examples = [ask(world, rng, "train"), ask(world, rng, "train")]
    text = ""
    for question, person, topic in examples:
        text += f"{question} {world.state(rng, person, topic)}\n"
    question, person, topic = ask(world, rng, "test")
    return (person, topic), (text + question, (person, topic))


# Each function draws one case of a task and returns what is asked and the case.
CASES = {
    "to foreign": partial(translation, order=1),
    "to English": partial(translation, order=-1),
    "reading": reading,
    "last word": last_word,
    "common nouns": partial(gap, topics=("job", "food", "pet", "color")),
    "cities": partial(gap, topics=("home",)),
    "schemas": schema,
    "summaries": summary,
    "questions": seeded_question,
}

# --------------------------------------------------------------------------------------------------
# Scores of free answers


def split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def ngrams(text: str, n: int) -> Counter:
    words = split_words(text)
    return Counter(zip(*(words[start:] for start in range(n))))


def ngram_f1(answer: str, reference: str, n: int = 1) -> float:
    """F1 of the n-grams of words: ROUGE-N. With n = 1 also CoQA's score, but for its articles."""
    a, b = ngrams(answer, n), ngrams(reference, n)
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def rouge(answer: str, reference: str) -> float:
    """The mean of the F1 of ROUGE-1, ROUGE-2 and ROUGE-L (longest common subsequence)."""
    a, b = split_words(answer), split_words(reference)
    row = [0] * (len(b) + 1)        # row[j]: longest common subsequence with b's first j words
    for word in a:
        new = [0]
        for j, other in enumerate(b):
            new.append(row[j] + 1 if word == other else max(new[j], row[j + 1]))
        row = new
    rouge_l = 2 * row[-1] / max(1, len(a) + len(b))
    return (ngram_f1(answer, reference, 1) + ngram_f1(answer, reference, 2) + rouge_l) / 3


def bleu(answers: list[str], references: list[str], longest: int = 2) -> float:
    """Corpus BLEU: the geometric mean of the precisions of n-grams up to `longest`, times a penalty
    for answers that are too short. `longest` is usually 4; our phrases have two words."""
    precisions = []
    for n in range(1, longest + 1):
        common, total = 0, 0
        for answer, reference in zip(answers, references):
            common += (ngrams(answer, n) & ngrams(reference, n)).total()
            total += ngrams(answer, n).total()
        precisions.append(common / max(1, total))
    written = sum(len(split_words(answer)) for answer in answers)
    expected = sum(len(split_words(reference)) for reference in references)
    brevity = min(1.0, math.exp(1 - expected / max(1, written)))
    return brevity * math.prod(precisions) ** (1 / longest)
