"""Lays a copying circuit down at initialisation.

To print a word that it never saw, the model must copy letter by letter. Left to itself that skill comes late; here it is
there from the first step and training only has to keep and use it:

* Layer 0: one head per key group looks back exactly 1, 2, 3 or 4 tokens. Constant vectors (biases) under rotary
  embedding make attention depend on the offset alone. Each writes a code of the token it sees into its own part of
  the residual stream.
* Layer 1: matching heads compare the last tokens (now, 1, 2, 3 back) with what each earlier token was preceded by, on
  the slow rotary pairs only, hence at any distance. The longest match wins, so "banana" is not confused by its
  repeats. What follows the match is copied into a part of the stream that only the output head reads.

`lengthen` makes the match of a trained model longer, see there.

Parts of the residual stream (256 wide): 0-63 the token's code, 64-191 the codes of the four tokens before it (32
each, the first half of the code), 192-255 the copied code.
"""

import math

import torch

from model import Model

CODE = slice(0, 64)
SHORT = 32
OUTPUT = slice(192, 256)
OFFSETS = 4
FAST_PAIRS = 4
OFFSET_SHARPNESS = 10.0
MATCH_SHARPNESS = 9.0
MATCH_WEIGHTS = (1.0, 0.6, 0.45, 0.3)
HEAD_GAIN = 0.3
SLOW_LIMIT = 0.4  # a pair is slow when 500 positions turn it by less than this many radians
LONG_WEIGHTS = (0.35, 0.3)  # of the tokens 5 and 6 back
LONG_CODE = 16
LONG_SIZE = 8.0  # what the tokens 5 to 7 back write into the stream, in root mean square


def before(offset: int) -> slice:
    """The part of the stream that holds the token `offset` tokens back; 0 is the token itself."""
    if offset == 0:
        return slice(0, SHORT)
    return slice(64 + (offset - 1) * SHORT, 64 + offset * SHORT)


def related_codes(vocabulary: list, width: int, generator) -> torch.Tensor:
    """Random codes, alike for the forms of one word (with a space before it, with a capital)."""
    codes = torch.randn(len(vocabulary), width, generator=generator)
    stems = {}
    for index, piece in enumerate(vocabulary):
        stem = piece.lstrip("Ġ").lower()
        if len(stem) > 1 and stem.isalpha():
            if stem in stems:
                codes[index] = 0.8 * codes[stems[stem]] + 0.6 * codes[index]
            else:
                stems[stem] = index
    return codes


def slow_rows(model: Model) -> torch.Tensor:
    """The rows of a head whose rotary pairs hardly turn: what is compared there is compared at any distance."""
    half = model.config.head_dim // 2
    slow = [pair for pair in range(half) if float(model.frequencies[pair]) * 500 < SLOW_LIMIT]
    return torch.tensor(slow + [half + pair for pair in slow])


@torch.no_grad()
def lay_circuit(model: Model, vocabulary: list, seed: int = 3) -> None:
    """Writes the circuit into a freshly made model; `vocabulary` lists the tokens by id."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    width, half = config.head_dim, config.head_dim // 2
    shared = config.num_attention_heads // config.num_key_value_heads
    frequencies, rope_scale = model.frequencies, model.rope_scale
    unit = width ** 0.5 / rope_scale ** 2  # a product of this size gives a score of 1

    model.embedding.normal_(0.0, 0.05, generator=generator)
    model.embedding[:, CODE] = related_codes(vocabulary, 64, generator)
    model.head[:, OUTPUT] = model.embedding[:, CODE] * HEAD_GAIN

    first, second = model.layers[0], model.layers[1]
    amplitude = math.sqrt(OFFSET_SHARPNESS * unit)
    for group in range(min(OFFSETS, config.num_key_value_heads)):
        offset = group + 1
        keys, queries = slice(group * width, (group + 1) * width), slice(group * shared * width, None)
        query_start = queries.start
        first.k[keys] *= 0.1
        first.q[query_start:query_start + width] *= 0.1
        for pair in range(FAST_PAIRS):
            angle = -offset * float(frequencies[pair])
            first.k_bias[keys.start + pair] = amplitude
            first.q_bias[query_start + pair] = amplitude * math.cos(angle)
            first.q_bias[query_start + half + pair] = amplitude * math.sin(angle)
        # The embedding fills a quarter of the stream, so the norm doubles it: 0.5 brings the code back to its size.
        first.v[keys.start:keys.start + SHORT] = 0
        first.v[keys.start:keys.start + SHORT, before(0)] = 0.5 * torch.eye(SHORT)
        first.o[:, query_start:query_start + SHORT] = 0
        first.o[before(offset), query_start:query_start + SHORT] = torch.eye(SHORT)

    rows = slow_rows(model)
    scale = math.sqrt(MATCH_SHARPNESS * unit / SHORT)
    for group in range(2):
        query = torch.zeros(width, config.hidden_size)
        key = torch.zeros(width, config.hidden_size)
        for offset, weight in enumerate(MATCH_WEIGHTS):
            mix = torch.randn(len(rows), SHORT, generator=generator) * math.sqrt(weight / len(rows)) * scale
            query[rows, before(offset)] = mix
            key[rows, before(offset + 1)] = mix
        start, query_start = group * width, group * shared * width
        second.q[query_start:query_start + width] = query
        second.k[start:start + width] = key
        second.v[start:start + width] = 0
        second.v[start:start + width, CODE] = torch.eye(width)
        second.o[:, query_start:query_start + width] = 0
        second.o[OUTPUT, query_start:query_start + width] = 0.5 * torch.eye(width)
        second.sinks[group * shared] = MATCH_SHARPNESS * 0.6


def turned_back(rows: torch.Tensor, frequencies: torch.Tensor, positions: int) -> torch.Tensor:
    """Rows of a query's matrix or bias [head_dim, ...], so that the head looks `positions` further back."""
    first, second = rows.chunk(2, 0)
    angle = -positions * frequencies.view(-1, *[1] * (rows.dim() - 1))
    return torch.cat((first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()))


def stream_before(model: Model, layer: int, ids: torch.Tensor) -> torch.Tensor:
    """What enters `layer` for whole rows of tokens: [tokens, hidden]."""
    kept = {}
    attention = model.layers[layer].attention

    def keep(x, parts):
        kept["x"] = x
        return attention(x, parts)

    model.layers[layer].attention = keep
    model.logits(ids)
    del model.layers[layer].attention
    return kept["x"]


@torch.no_grad()
def lengthen(model: Model, ids: torch.Tensor, seed: int = 5) -> None:
    """Lets a trained model match seven tokens instead of four; `ids` [rows, length] are texts of its world.

    Two declarations of functions look alike for longer than four tokens. In layer 0 the second heads of the last three key groups,
    of which training made little use, become the first ones turned back by three more tokens; what they see goes where
    the stream varies least. In layer 1 a head of a group that training left idle becomes the first matching head with
    these tokens added.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)
    width = config.head_dim
    shared = config.num_attention_heads // config.num_key_value_heads
    first, second = model.layers[0], model.layers[1]
    further = range(1, OFFSETS)
    for offset in further:
        taught, start = offset * shared * width, (offset * shared + 1) * width
        first.q[start:start + width] = turned_back(first.q[taught:taught + width], model.frequencies, len(further))
        first.q_bias[start:start + width] = turned_back(first.q_bias[taught:taught + width], model.frequencies, len(further))
        first.o[:, start:start + width] = 0
        first.sinks[offset * shared + 1] = first.sinks[offset * shared]
    before = stream_before(model, 1, ids)
    quiet = torch.linalg.eigh(torch.cov(before.T)).eigenvectors[:, :len(further) * LONG_CODE]
    places = quiet[:, torch.randperm(quiet.shape[1], generator=generator)].split(LONG_CODE, 1)
    for offset, place in zip(further, places):
        start = (offset * shared + 1) * width
        mix = torch.linalg.qr(torch.randn(SHORT, LONG_CODE, generator=generator)).Q.T
        first.o[:, start:start + SHORT] = place @ mix
        written = stream_before(model, 1, ids) - before
        first.o[:, start:start + SHORT] *= LONG_SIZE / (written @ place).std()
        before = stream_before(model, 1, ids)

    rows, unit = slow_rows(model), width ** 0.5 / model.rope_scale ** 2
    group = config.num_key_value_heads // 2
    key, query = slice(group * width, (group + 1) * width), slice(group * shared * width, (group * shared + 1) * width)
    for kind, target in (("k", key), ("v", key), ("q", query)):
        for matrix in (getattr(second, kind), getattr(second, kind + "_bias")):
            matrix[target] = matrix[:width]
    second.o[:, query.start:query.start + shared * width] = 0
    second.o[:, query] = 0.7 * second.o[:, :width]
    second.sinks[group * shared] = second.sinks[0] + MATCH_SHARPNESS * LONG_WEIGHTS[0]
    size = before.square().mean().sqrt()
    codes = [before @ place for place in places]
    for index, weight in enumerate(LONG_WEIGHTS):
        mix = torch.randn(len(rows), LONG_CODE, generator=generator)
        mix *= math.sqrt(weight / len(rows) * MATCH_SHARPNESS * unit / LONG_CODE)
        for matrix, bias, start, part in ((second.q, second.q_bias, query.start, index), (second.k, second.k_bias, key.start, index + 1)):
            reader = mix / codes[part].std(0)
            matrix[start + rows] += size * reader @ places[part].T / second.attention_norm
            bias[start + rows] -= reader @ codes[part].mean(0)


@torch.no_grad()
def copy_loss(model: Model, letters: list, length: int = 12, rows: int = 16) -> float:
    """Mean loss on the second half of random strings of `letters` that come twice, but for the first token."""
    generator = torch.Generator().manual_seed(11)
    choice = torch.randint(len(letters), (rows, length), generator=generator)
    strings = torch.tensor(letters)[choice]
    middle = torch.full((rows, 1), letters[0])
    logits = model.logits(torch.cat((middle, strings, middle, strings), 1))
    predicted = logits[:, length + 2:2 * length + 1].flatten(0, 1)
    return float(torch.nn.functional.cross_entropy(predicted, strings[:, 1:].flatten()))
