"""
Prompts with several pictures among the text, for papers/gpt4_pictures.py.

Two pictures, and questions that name one of them or need both:

    The first picture: ... The second picture: ...
    Which color is square in the first picture? red
    In which picture is red square? second
    In which picture are more red? first

Few-shot: up to four examples, each a picture and an answer, then a picture alone. No word says
what is asked. It is one of seven tasks: the shape, the color or the place of the picture's first
or last thing, in reading order, or the number of its things. The answers alone show which of these
attributes is asked for. Whether the first or the last thing is meant shows only if answers are
compared with their pictures (but for places: answers in the north mean the first thing).

All pictures of a test prompt, examples too, have held-out combinations only. The design is ours.
"""
import random

import gpt
from papers.gpt4_pictures_tasks import (COLORS, NUMBERS, PLACES, SHAPES, VALUES, Document, Scene,
                                        about, cases_of, parts_of, questions_about,
                                        random_document, random_scene)
from papers.tasks import distinct

# ------------------------------------------------------------------------------
# Two pictures

PAIR_KINDS = ("in one of two", "which of two", "more of two")
ORDINALS = ("first", "second")


def questions_about_two(kind: str, pair: tuple[Scene, Scene]) -> dict[str, str]:
    """All questions of one of PAIR_KINDS with their answers, each of which would be another one if
    the pictures changed places."""
    turns = {}
    if kind == "in one of two":
        known = []  # of each picture {question: answer}
        for scene in pair:
            answers = {}
            for thing in scene:
                answers.update(questions_about(scene, thing).values())
            known.append(answers)
        for question in known[0].keys() & known[1].keys():
            if known[0][question] != known[1][question]:
                for ordinal, answers in zip(ORDINALS, known):
                    named = question.replace("?", f" in the {ordinal} picture?")
                    turns[named] = answers[question]
    elif kind == "which of two":
        for ordinal, scene, other in zip(ORDINALS, pair, pair[::-1]):
            seen = {(thing.color, thing.shape) for thing in other}
            for thing in scene:
                if (thing.color, thing.shape) not in seen:
                    turns[f"In which picture is {thing.color} {thing.shape}?"] = ordinal
    else:
        words = []  # of each picture: its things' colors and shapes
        for scene in pair:
            words.append([thing.color for thing in scene] + [thing.shape for thing in scene])
        for value in COLORS + SHAPES:
            first, second = words[0].count(value), words[1].count(value)
            if first != second:
                more = "first" if first > second else "second"
                turns[f"In which picture are more {value}?"] = more
    return dict(sorted(turns.items()))  # sets have no order of their own


def about_two(pair: tuple[Scene, Scene], turns: list[tuple[str, str]]) -> Document:
    """A document that shows two pictures before the first of several questions."""
    [(question, answer), *others] = turns
    shown = "The first picture:", pair[0], "\nThe second picture:", pair[1]
    return about(shown, [(f"\n{question}", answer), *others])


def random_two(rng: random.Random, split: str, seed: int, kind: str, most: int) -> Document:
    """Two pictures and up to `most` questions of a kind."""
    questions = {}
    while not questions:
        pair = random_scene(rng, split, seed), random_scene(rng, split, seed)
        questions = questions_about_two(kind, pair)
    turns = list(questions.items())
    return about_two(pair, rng.sample(turns, min(most, len(turns))))


def exchanged(case: Document, kind: str) -> Document:
    """The same question about the same two pictures in the other order: it has another answer."""
    [((_, first, _, second, question), _)] = case
    asked = question.strip()
    answer = questions_about_two(kind, (second, first))[asked]
    return about_two((second, first), [(asked, answer)])


# ------------------------------------------------------------------------------
# Few-shot

SHOT_KINDS = {"0 examples": 0, "1 example": 1, "2 examples": 2, "4 examples": 4}
# What is asked of which thing. The number of things is there twice, to be asked as often.
TASKS = [(asked, which) for asked in VALUES for which in ("first", "last")]


def answer_of(scene: Scene, asked: str, which: str) -> str:
    """The answer of one of TASKS."""
    if asked == "number":
        return NUMBERS[len(scene)]
    thing = scene[0] if which == "first" else scene[-1]
    return getattr(thing, asked)


def random_examples(rng: random.Random, split: str, seed: int, is_case: bool) -> Document:
    """Five pictures with their answers of one task. In a case, the first and the last thing of the
    fifth picture differ in what is asked, so that the task must be known."""
    while True:
        asked, which = rng.choice(TASKS)
        scenes = [random_scene(rng, split, seed) for _ in range(5)]
        first, last = (answer_of(scenes[-1], asked, end) for end in ("first", "last"))
        if not is_case or asked == "number" or first != last:
            return tuple(((scene,), answer_of(scene, asked, which)) for scene in scenes)


def shuffled(case: Document) -> Document:
    """Each example with the answer of the example before it: a control. A single one keeps its
    own."""
    *examples, last = case
    questions = [question for question, _ in examples]
    answers = [answer for _, answer in examples]
    return *zip(questions, answers[-1:] + answers[:-1]), last


# ------------------------------------------------------------------------------
# All documents and cases


def any_document(rng: random.Random, seed: int) -> Document:
    """A training document: questions about one picture or two, or examples."""
    [form] = rng.choices(("one", "two", "examples"), (1, 2, 1))
    if form == "one":
        return random_document(rng, seed)
    if form == "two":
        return random_two(rng, "train", seed, rng.choice(PAIR_KINDS), most=4)
    return random_examples(rng, "train", seed, is_case=False)


def any_cases(kind: str, count: int, split: str, seed: int) -> list[Document]:
    """Up to `count` distinct cases of a kind. Cases with fewer examples are those with four without
    the first ones."""
    if kind not in PAIR_KINDS and kind not in SHOT_KINDS:
        return cases_of(kind, count, split, seed)
    name = kind if kind in PAIR_KINDS else "examples"
    rng = random.Random(f"{name} {split} {seed}")

    def make_case():
        if kind in PAIR_KINDS:
            return random_two(rng, split, seed, kind, most=1)
        return random_examples(rng, split, seed, is_case=True)[-1 - SHOT_KINDS[kind]:]
    return distinct(make_case, count, lambda case: case[-1])


def unanswered(case: Document) -> Document:
    """The prompt of a case: all but the last answer."""
    *turns, (question, _) = case
    return *turns, (question, "")


def in_words(document: Document) -> str:
    """A document's texts, and its pictures in words."""
    lines = []
    for part, _ in parts_of(document):
        if isinstance(part, str):
            lines.append(part.strip())
            continue
        cells = dict.fromkeys(PLACES, ".")
        for thing in part:
            cells[thing.place] = f"{thing.color} {thing.shape}"
        for row in gpt.chunks([cell.ljust(14) for cell in cells.values()], 3):
            lines.append("".join(row))
    return "\n".join(lines)


def without_pictures(documents: list[Document]) -> list[Document]:
    """The texts of documents, as one question and answer after another."""
    blind = []
    for document in documents:
        turns = []
        for question, answer in document:
            texts = [part for part in question if isinstance(part, str)]
            turns.append((tuple(texts), answer))
        blind.append(tuple(turns))
    return blind


def with_other_pictures(documents: list[Document]) -> list[Document]:
    """Documents of one kind, each with the picture, or pictures, of the one before it in its last
    question: a control. Examples keep theirs."""
    changed = []
    for document, other in zip(documents, documents[-1:] + documents[:-1]):
        *examples, (question, answer) = document
        other_question, _ = other[-1]
        parts = []
        for own, others in zip(question, other_question):
            parts.append(own if isinstance(own, str) else others)
        changed.append((*examples, (tuple(parts), answer)))
    return changed
