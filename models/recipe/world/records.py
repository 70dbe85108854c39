"""JSON objects with stated keys: asked for in the question, or by a response format in the developer message."""

import json

from world import words
from world.slots import Slots, Turn

# Each kind of record: its fields with JSON types, and how a sentence tells it.
RECORDS = {
    "person": ({"name": "string", "age": "integer"},
               ["{name} is {age} years old.", "{name}, {age} years old", "My name is {name} and I am {age}."]),
    "resident": ({"name": "string", "age": "integer", "city": "string"},
                 ["{name} is {age} years old and lives in {city}.", "{name}, {age}, from {city}."]),
    "address": ({"name": "string", "city": "string"}, ["{name} lives in {city}."]),
    "article": ({"item": "string", "color": "string", "price": "integer"}, ["The {color} {item} costs {price} dollars."]),
    "offer": ({"item": "string", "price": "integer"}, ["One {item} costs {price} dollars."]),
}
FORMAT_NAMES = ["person", "item", "result", "answer", "record", "output", "response"]


def fill(slots: Slots, fields: dict) -> dict:
    """A value for each field."""
    makers = {
        "name": slots.name, "city": slots.city, "item": slots.plain_word,
        "age": lambda: slots.rng.randint(1, 99), "price": lambda: slots.rng.randint(1, 999),
        "color": lambda: slots.choice(words.COLOURS),
    }
    return {field: makers[field]() for field in fields}


def answer(slots: Slots, fields: dict, values: dict) -> tuple:
    """The analysis and the JSON answer."""
    object_text = json.dumps({field: values[field] for field in fields}, ensure_ascii=False)
    analysis = slots.think(f"JSON with {', '.join(fields)}.", "Only the object.", "Nothing else.")
    return analysis, object_text


def asked(slots: Slots) -> list:
    """JSON whose keys the question names."""
    fields, sentences = RECORDS[slots.choice(sorted(RECORDS))]
    values = fill(slots, fields)
    sentence = slots.choice(sentences).format(**values)
    names = list(fields)
    keys = ", ".join(names[:-1]) + " and " + names[-1]
    question = slots.choice([
        "Answer in JSON with keys {keys}: {sentence}", "Return JSON with keys {keys}: {sentence}",
        "Extract {keys} as JSON: {sentence}", "{sentence} Give me JSON with keys {keys}.",
        "Return JSON with {keys}. {sentence}",
    ]).format(keys=keys, sentence=sentence)
    analysis, object_text = answer(slots, fields, values)
    return [Turn(question, analysis, object_text)]


def response_format(slots: Slots) -> tuple:
    """A response format: (its developer text, the record kind)."""
    kind = slots.choice(sorted(RECORDS))
    fields = RECORDS[kind][0]
    schema = {"type": "object", "properties": {field: {"type": fields[field]} for field in fields},
              "required": list(fields)}
    if slots.chance(0.6):
        schema["additionalProperties"] = False
    text = json.dumps(schema, separators=(",", ":"))
    return f"# Response Formats\n\n## {slots.choice(FORMAT_NAMES)}\n\n{text}", kind


def formatted(slots: Slots, kind: str) -> list:
    """JSON in the response format of the developer message."""
    fields, sentences = RECORDS[kind]
    values = fill(slots, fields)
    sentence = slots.choice(sentences).format(**values)
    question = slots.choice(["{}", "{}", "Extract the fields: {}", "Extract: {}"]).format(sentence)
    analysis, object_text = answer(slots, fields, values)
    return [Turn(question, analysis, object_text)]
