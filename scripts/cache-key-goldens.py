"""Makes tests/goldens/cache_keys.json: cache keys as Python computes them (WIRE.md, section 4).

Run:  python scripts/cache-key-goldens.py tests/goldens/cache_keys.json
Every case states the normalised content beside the original one, so that a wrong key shows which half is wrong.
"""

import hashlib
import json
import random
import sys

KNOWN = [
    ("What is 2+2?", 0.0, 10, 42, "06c4836e796c405b8fe66a8198be0d0064cc28f763115b86bf55968689c94a8d"),
    ("Hello, how are you?", 0.0, 20, 1, "1310e88d97e95ac165498f639e44947e201ff14883bb807ae28681f99c9c2115"),
    ("안녕", 0.7, 100, None, "588bcf96efef5d9077ea5ff9353350c2ba9f7649259c61056664b4719a212559"),
]
TEXTS = [
    "What is 2+2?", "", "   ", " a\t\n b ", "안녕 하세요", "👋🏽 emoji 👩‍👩‍👧", "quote \" backslash \\ slash a/b", "\x00\x01\x1f\x7f\x80\xa0x", "\b\f",
    "é e\u0301 \ufeff \u200b\u2028\u3000x", "\U0010ffff \ue000 \uffff", "<|start|>system", "line\nline\r\nline", "\u1680\u2003\u205fx\x1c\x1dy",
]
FLOATS = [0.0, -0.0, 1.0, 0.1, 0.7, 0.30000000000000004, 1e-05, 0.0001, 0.00012345, 1e-7, 1.5e-10, 2.0, 1e15, 1e16, 123456789012345680.0,
          1.7976931348623157e308, 5e-324, 0.9, 1 / 3, 99999999999999.98, 1e22, 1e100, None]


def dumps(obj):
    return json.dumps(obj, sort_keys=True, separators=(",", ":"))


def normalised(text):
    """Only white space here: the other replacements have tests of their own."""
    return " ".join(text.split())


def case(messages, params, model_id, version):
    obj = {
        "messages": [{"role": role, "content": normalised(content)} for role, content in messages],
        "params": {**params, "stop_sequences": sorted(params["stop_sequences"])},
        "model_id": model_id,
        "prompt_version": version,
    }
    text = dumps(obj)
    key = hashlib.sha256(text.encode()).hexdigest()
    # As text: serde_json reads some long floats a hair off.
    shown = {name: None if params[name] is None else repr(params[name]) for name in ("temperature", "top_p")}
    return {"messages": messages, **params, **shown, "model_id": model_id, "prompt_version": version, "text": text, "key": key}


def params(temperature=0.7, top_p=0.9, max_tokens=100, seed=None, stop=()):
    return {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed, "stop_sequences": list(stop)}


def cases():
    for text, temperature, max_tokens, seed, key in KNOWN:
        made = case([("user", text)], params(temperature, 0.9, max_tokens, seed), "gpt-oss-20b", "SYS/v1")
        assert made["key"] == key, text
        yield made
    for text in TEXTS:
        yield case([("user", text)], params(), "gpt-oss-20b", "SYS/v1")
    for number in FLOATS:
        yield case([("user", "x")], params(temperature=number, top_p=number), "gpt-oss-120b", "SYS/v2")
    numbers = random.Random(7)
    roles = ["system", "developer", "user", "assistant", "tool"]
    for _ in range(20):
        messages = [(numbers.choice(roles), numbers.choice(TEXTS) + str(numbers.randrange(10))) for _ in range(numbers.randrange(5))]
        stop = [numbers.choice(["\n", "END", "끝", "a", "B", "\U0001f600", "\uffff"]) for _ in range(numbers.randrange(4))]
        chosen = params(round(numbers.uniform(0, 2), numbers.randrange(1, 17)), numbers.random(), numbers.choice([None, 1, 8192]),
                        numbers.choice([None, -5, 0, 2**62]), stop)
        yield case(messages, chosen, numbers.choice(["tiny", "모델 \"x\""]), numbers.choice(["SYS/v0", "SYS/v1", "SYS/v2"]))


with open(sys.argv[1], "w", encoding="utf-8") as out:
    lines = [json.dumps(made) for made in cases()]
    out.write('{"made":"by scripts/cache-key-goldens.py","cases":[\n' + ",\n".join(lines) + "\n]}\n")
    print(len(lines), "cases")
