"""Stories: answers against those of a reader that only searches the text, and combinations unique to a part."""

import itertools
import re
from collections import Counter

import pytest

from seqjax.data.parallel import load_parallel
from seqjax.data.readers.stories import KINDS, PEOPLE, PLACES, THINGS, Story, make_stories, simple_answers

PARTS = ("train", "validation", "test")
PERSON, PLACE, THING = ("|".join(words) for words in (PEOPLE, PLACES, THINGS))
SENTENCES = {
    "move": rf"({PERSON}) (?:entered|reached) the ({PLACE})",
    "take": rf"({PERSON}) (?:took|got) the ({THING})",
    "drop": rf"({PERSON}) (?:dropped|lost) the ({THING})",
    "give": rf"({PERSON}) (?:gave|handed) ({PERSON}) the ({THING})",
    "nothing": rf"({PERSON}) likes the ({PLACE})|({PERSON}) saw the ({THING})|It rained",
}
QUESTIONS = {
    "where is who": rf"Where is ({PERSON})\?",
    "where was who": rf"Where was ({PERSON}) before\?",
    "who has": rf"Who has the ({THING})\?",
    "who had": rf"Who had the ({THING}) before\?",
    "how many": rf"How many are in the ({PLACE})\?",
}


def read(text):
    """The events of a story, each (kind, words), and the question, likewise."""
    asked, *told = re.split(r"(?<=[.?]) ", text)
    events = []
    for sentence in told:
        (event,) = [(kind, found.groups()) for kind, form in SENTENCES.items() if (found := re.fullmatch(rf"(?:{form})\.", sentence))]
        events.append(event)
    (question,) = [(kind, found.groups()) for kind, form in QUESTIONS.items() if (found := re.fullmatch(form, asked))]
    return events, question


def places_of(who, events):
    """Where someone went, the last place first."""
    return [words[1] for kind, words in reversed(events) if kind == "move" and words[0] == who]


def holders_of(thing, events):
    """Who had a thing, the present one first: None for nobody."""
    taken = {"take": lambda words: words[0], "give": lambda words: words[1], "drop": lambda words: None}
    return [taken[kind](words) for kind, words in reversed(events) if kind in taken and words[-1] == thing]


def answer(events, question):
    """The answer, by searching backward for the latest mention: no state is kept."""
    kind, words = question
    if kind == "where is who":
        return places_of(words[0], events)[0]
    if kind == "where was who":
        now, before, *_ = places_of(words[0], events)
        return f"{before}, now {now}"
    if kind == "who has":
        return holders_of(words[0], events)[0] or "nobody"
    if kind == "who had":
        now, *before = holders_of(words[0], events)
        return f"{next(who for who in before if who not in (now, None))}, now {now or 'nobody'}"
    there = [who for who in sorted(PEOPLE) if places_of(who, events)[:1] == [words[0]]]
    return ("none", "one: {}", "two: {} and {}", "three: {} and {} and {}", "four: {} and {} and {} and {}")[len(there)].format(*there)


def together(text):
    """Every person with every place and thing, wherever they stand in the text."""
    people, others = (re.findall(rf"\b({words})\b", text) for words in (PERSON, f"{PLACE}|{THING}"))
    return set(itertools.product(people, others))


def turns_on(events, question):
    """The pairs of a person and a place or thing that the answer depends on."""
    kind, words = question
    if kind == "where is who":
        return {(words[0], places_of(words[0], events)[0])}
    if kind == "where was who":
        return {(words[0], places_of(words[0], events)[1])}
    if kind == "who has":
        return {(next(filter(None, holders_of(words[0], events))), words[0])}
    if kind == "who had":
        return {(answer(events, question).split(",")[0], words[0])}
    return {(who, words[0]) for who in PEOPLE if words[0] in places_of(who, events)}


@pytest.fixture(scope="module")
def parts():
    return {part: make_stories(part, number, seed=3) for part, number in zip(PARTS, (6000, 900, 900))}


@pytest.mark.parametrize("part", PARTS)
def test_every_answer_is_what_the_text_says(parts, part):
    for story in parts[part]:
        events, question = read(story.text)
        assert answer(events, question) == story.answer, story
        assert question[0] == story.kind and len(events) == story.sentences


@pytest.mark.parametrize("part", PARTS)
def test_what_is_told_can_happen(parts, part):
    """Nobody goes to where they are, takes what someone has, or gives away or loses what they do not have."""
    for story in parts[part]:
        events, _ = read(story.text)
        for place, (kind, words) in enumerate(events):
            before = events[:place]
            if kind == "move":
                assert places_of(words[0], before)[:1] != [words[1]], story
            if kind in ("take", "give", "drop"):
                holder = next(iter(holders_of(words[-1], before)), None)
                assert holder == (None if kind == "take" else words[0]), story
            assert kind != "give" or words[0] != words[1], story


def test_no_combination_of_validation_and_test_is_in_another_part(parts):
    seen = {part: set().union(*(together(story.text) for story in parts[part])) for part in PARTS}
    for part, others in (("validation", ("train", "test")), ("test", ("train", "validation"))):
        new = seen[part] - set().union(*(seen[other] for other in others))
        assert len(new) == len(PEOPLE) * 2  # a place and a thing for each person
        for story in parts[part]:
            assert turns_on(*read(story.text)) & new, story
    every = set(itertools.product(PEOPLE, PLACES + THINGS))
    assert len(seen["train"]) == len(every) - 4 * len(PEOPLE)  # all the others are trained on


def test_stories_are_distinct_and_every_word_is_trained_on(parts):
    texts = [story.text for part in PARTS for story in parts[part]]
    assert len(set(texts)) == len(texts)
    words = {part: {word for story in parts[part] for word in re.findall(r"\w+", story.text + story.answer)} for part in PARTS}
    assert words["validation"] | words["test"] <= words["train"]


@pytest.mark.parametrize("part", PARTS)
def test_all_kinds_and_lengths_occur(parts, part):
    number = len(parts[part])
    kinds, lengths = (Counter(getattr(story, name) for story in parts[part]) for name in ("kind", "sentences"))
    assert set(kinds) == set(KINDS) and min(kinds.values()) > number / len(KINDS) * 0.7
    assert set(lengths) == set(range(1, 21)) and min(lengths.values()) > number / 20 / 5
    answers = Counter(re.match(r"\w+", story.answer)[0] for story in parts[part])
    assert {"hall", "Ben", "nobody", "none", "one", "two", "three"} <= set(answers)
    assert max(Counter(story.answer for story in parts[part]).values()) < number / 6
    idle = sum(kind == "nothing" for story in parts[part] for kind, _ in read(story.text)[0])
    assert idle > number  # sentences that change nothing


def test_the_same_each_time_and_others_by_seed(parts):
    assert make_stories("test", 300, seed=3) == parts["test"][:300]
    other = make_stories("test", 300, seed=4)
    assert not {story.text for story in other} & {story.text for story in parts["test"]}
    pairs = [set().union(*(turns_on(*read(story.text)) for story in some)) for some in (other, parts["test"][:300])]
    assert pairs[0] != pairs[1]  # other combinations are held out


def test_one_story_by_hand():
    text = "{} Ida took the key. Ida gave Ben the key. Ida entered the hall. Ben reached the hall. Ben lost the key."
    asked = {"Who has the key?": "nobody", "Who had the key before?": "Ben, now nobody"}
    asked |= {"How many are in the hall?": "two: Ben and Ida", "Where is Ida?": "hall"}
    for question, wanted in asked.items():
        assert answer(*read(text.format(question))) == wanted


def test_the_simplest_answers(parts):
    """The most frequent answer to each kind of question in training, and the last place or person that is named."""
    fields = {"source": "text", "target": "answer", "kind": "kind"}
    train, part = (
        {name: [getattr(story, field) for story in parts[which]] for name, field in fields.items()} for which in ("train", "test")
    )
    frequent, last = simple_answers(train, part).values()
    by_kind = {kind: Counter(story.answer for story in parts["train"] if story.kind == kind) for kind in KINDS}
    for story, usual, named in zip(parts["test"], frequent, last):
        assert by_kind[story.kind][usual] == max(by_kind[story.kind].values())
        told = story.text.split("? ", 1)[1]
        if story.kind == "where is who":
            assert named == re.findall(PLACE, told)[-1]
        elif story.kind == "who has":
            assert named == re.findall(PERSON, told)[-1]
        else:
            assert named == usual
    shares = [sum(a == story.answer for a, story in zip(answers, parts["test"])) / 900 for answers in (frequent, last)]
    assert all(share < 0.45 for share in shares)


def test_the_set_that_experiments_load(monkeypatch):
    monkeypatch.setattr("seqjax.data.parallel.STORY_SIZES", {"train": 400, "validation": 60, "test": 80})
    found = load_parallel("embedded", name="stories", seed=3)
    assert {part: len(pairs) for part, pairs in found.parts.items()} == {"train": 400, "validation": 60, "test": 80}
    story, part = make_stories("test", 80, 3)[7], found.parts["test"]
    assert (part["source"][7], part["target"][7], part["kind"][7]) == story[:3] and part.places.at(7) == "test story 8"
    first, last = map(int, part["sentences"][7].split("-"))
    assert first <= story.sentences <= last == first + 4
    assert any("no story of another part" in note for note in found.notes) and not found.made_from
    assert load_parallel("embedded", name="stories", seed=3).fingerprint == found.fingerprint


def test_numbers_of_stories():
    assert make_stories("train", 0) == () and isinstance(make_stories("train", 1)[0], Story)
