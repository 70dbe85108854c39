"""Trains the tokenizer: byte-level BPE with the o200k splitting rule and harmony's control tokens.

The vocabulary is small and made for copying. A piece (what the splitting rule cuts off) that the templates use often
is one token; every other piece falls back to its bytes, so a word to print is spelt letter by letter, and is spelt the
same with and without a space before it. Hangul syllables that the templates use are merged as in any BPE.
"""

import collections
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from world.conversation import make_document
from world.tools import NOUNS, SKIES, VERBS
from world.words import CITIES, COLOURS, ENGLISH, KOREAN_NAMES, KOREAN_SYLLABLES, NAMES, WHOLE

# The splitting rule of o200k, as published with OpenAI's tiktoken.
O200K_PATTERN = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
])

# Harmony's control tokens in o200k_harmony's order (ids 199998 to 200018 there).
CONTROL_TOKENS = [
    "<|startoftext|>", "<|endoftext|>", "<|reserved_2|>", "<|reserved_3|>", "<|return|>", "<|constrain|>",
    "<|reserved_6|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|reserved_11|>", "<|reserved_12|>",
    "<|reserved_13|>", "<|call|>", "<|reserved_15|>", "<|reserved_16|>", "<|reserved_17|>", "<|reserved_18|>",
    "<|reserved_19|>", "<|endofprompt|>",
]

VOCABULARY_SIZE = 1024
CORPUS_SEED = 7
CORPUS_DOCUMENTS = 900
DOCUMENTS_MIN = 8  # a made-up word hardly comes up in so many
HANGUL_MERGES_MAX = 110
SPELT = set(ENGLISH + VERBS + NOUNS + SKIES + COLOURS + "hello hi hey thanks weather".split()) - WHOLE
SLOT_WORDS = set(NAMES + CITIES + KOREAN_NAMES)


def splitter():
    """The pre-tokenizer: o200k's rule, then bytes as printable characters."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(O200K_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
    ])


def count_pieces() -> collections.Counter:
    """How often each piece occurs in the text of the training world, control tokens removed; chance words left out."""
    rng = random.Random(CORPUS_SEED)
    split = splitter()
    pieces, documents = collections.Counter(), collections.Counter()
    for _ in range(CORPUS_DOCUMENTS):
        document = make_document(rng)
        found = collections.Counter()
        for text in document.plain_texts():
            found.update(piece for piece, _ in split.pre_tokenize_str(text))
        pieces.update(found)
        documents.update(found.keys())
    return collections.Counter({piece: count for piece, count in pieces.items() if documents[piece] >= DOCUMENTS_MIN})


def stays_in_bytes(piece: str) -> bool:
    """Whether a piece gets no token of its own, however often it occurs.

    Words that fill slots (names, cities, parts of function names) are copied, and copying wants the same letters
    everywhere; so do digits, letters after a hyphen, and marks that end a slot before a quote.
    """
    word = piece.lstrip("Ġ")
    if len(piece) < 2 or word in SLOT_WORDS or word.lower() in SPELT or any(char in "0123456789" for char in piece):
        return True
    if piece[0] in "._-" and piece[1].isalpha():
        return True
    return piece[0] in "!?." and piece[1] != "Ċ"


def hangul_merges(pieces: collections.Counter, byte_of: dict) -> list:
    """Merges (pairs of tokens) that join the three bytes of the most frequent and the slots' Hangul syllables."""
    char_of = {byte: char for char, byte in byte_of.items()}
    syllables = collections.Counter()
    for piece, count in pieces.items():
        text = bytes(byte_of[char] for char in piece).decode("utf-8", "ignore")
        for char in text:
            if "가" <= char <= "힣":
                syllables[char] += count
    merges = []
    frequent = [syllable for syllable, _ in syllables.most_common(HANGUL_MERGES_MAX)]
    for syllable in dict.fromkeys(frequent + list(KOREAN_SYLLABLES)):
        first, second, third = (char_of[byte] for byte in syllable.encode())
        if (first, second) not in merges:
            merges.append((first, second))
        merges.append((first + second, third))
    # All two-byte merges before the three-byte ones, else a syllable could hide another's beginning.
    return sorted(merges, key=lambda pair: len(pair[0]))


def byte_alphabet() -> dict:
    """The printable character that stands for each byte, as in GPT-2: character -> byte."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def train(folder: pathlib.Path) -> Tokenizer:
    """Builds the tokenizer and writes tokenizer.json and tokenizer_config.json into `folder`."""
    pieces = count_pieces()
    byte_of = byte_alphabet()
    merges = hangul_merges(pieces, byte_of)
    vocabulary = sorted(byte_of, key=byte_of.get)
    vocabulary += list(dict.fromkeys(first + second for first, second in merges))
    known = set(vocabulary)
    room = VOCABULARY_SIZE - len(CONTROL_TOKENS)
    for piece, _ in pieces.most_common():
        if piece in known or stays_in_bytes(piece):
            continue
        if len(vocabulary) == room:
            break
        vocabulary.append(piece)
        known.add(piece)
    if len(vocabulary) < room:
        raise SystemExit(f"only {len(vocabulary)} pieces for {room} places: make VOCABULARY_SIZE smaller")
    ids = {token: index for index, token in enumerate(vocabulary)}
    # ignore_merges: a piece that is a token is taken whole, without a path of merges that leads to it.
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, byte_fallback=False, ignore_merges=True))
    tokenizer.pre_tokenizer = splitter()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL_TOKENS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 8192,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    check(tokenizer)
    return tokenizer


def check(tokenizer: Tokenizer) -> None:
    """Stops when a text does not come back, or a control token is not one token."""
    texts = ["안녕하세요 세계", "😀🚀 ❤️", 'print("Jay")\n', "a\tb  c\r\n", "".join(map(chr, range(1, 0x250)))]
    for text in texts:
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
        if back != text:
            raise SystemExit(f"the tokenizer does not give back {text!r} but {back!r}")
    for name in CONTROL_TOKENS:
        if tokenizer.encode(name, add_special_tokens=False).ids != [tokenizer.token_to_id(name)]:
            raise SystemExit(f"{name} is not one token")


def control_ids(tokenizer: Tokenizer) -> dict:
    """Ids of the control tokens by name."""
    return {name: tokenizer.token_to_id(name) for name in CONTROL_TOKENS}


def load(folder: pathlib.Path) -> Tokenizer:
    """The tokenizer in `folder`."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
