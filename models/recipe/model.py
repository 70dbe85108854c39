"""GPT-OSS in PyTorch, written for training on few cores: the same numbers as transformers' `GptOssForCausalLM`.

Rows of tokens come in groups. A group may continue the rows of an earlier one (`owner`): the trainer puts system
messages into the first group and conversations that share them into the second, so a prefix is computed once.
"""

import dataclasses
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from mxfp4 import fake_quantise


@dataclasses.dataclass
class Config:
    """Dimensions, named as in config.json."""

    vocab_size: int = 1024
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 64
    intermediate_size: int = 192
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    sliding_window: int = 64
    rms_norm_eps: float = 1e-5
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    original_max_positions: int = 1024
    max_positions: int = 8192
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702


@dataclasses.dataclass
class Group:
    """Rows of tokens: `ids` and `positions` are [rows, length]; position -1 marks padding.

    `owner` [rows] tells which row of the first group each row continues; without it a row starts on its own.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    owner: torch.Tensor | None = None


def yarn_frequencies(config: Config):
    """Rotary frequencies under YaRN and the factor on cos and sin. Source: arXiv:2309.00071, as in transformers."""
    width = config.head_dim
    frequencies = config.rope_theta ** (torch.arange(0, width, 2).float() / width)

    def pair_of(rotations):
        return width * math.log(config.original_max_positions / (rotations * 2 * math.pi)) / (
            2 * math.log(config.rope_theta))

    low = max(pair_of(config.rope_beta_fast), 0)
    high = min(pair_of(config.rope_beta_slow), width - 1)
    ramp = ((torch.arange(width // 2).float() - low) / (high - low)).clamp(0, 1)
    scaled = ramp / (config.rope_factor * frequencies) + (1 - ramp) / frequencies
    return scaled, 0.1 * math.log(config.rope_factor) + 1.0


class RmsNorm(torch.autograd.Function):
    """Root-mean-square norm over the last dimension, computed in float32 and given in `dtype`."""

    @staticmethod
    def forward(context, x, scale, eps, dtype):
        factor = torch.rsqrt(x.square().mean(-1, keepdim=True).add_(eps))
        unit = x * factor
        context.save_for_backward(unit, factor, scale)
        return (unit * scale).to(dtype)

    @staticmethod
    def backward(context, gradient):
        unit, factor, scale = context.saved_tensors
        gradient = gradient.float()
        along = gradient * unit
        scaled = gradient * scale
        mean = (along @ scale).div_(scale.numel())[..., None]
        return scaled.sub_(unit * mean).mul_(factor), along.flatten(0, -2).sum(0), None, None


class Attend(torch.autograd.Function):
    """Softmax attention over [batch, heads, length, width]; the first key stands for the sink.

    `mask` [batch, length, keys] is added to the scores. Few passes over the scores, for on a CPU they cost more time than
    the products.
    """

    @staticmethod
    def forward(context, query, keys, values, mask, sinks):
        rows, heads, length, _ = query.shape
        shared = length // mask.shape[1]
        scores = query @ keys.transpose(-1, -2)
        view = scores.view(rows, heads, shared, mask.shape[1], -1)
        view.add_(mask[:, None, None])
        scores[..., 0] = sinks
        shares = scores.softmax(-1)
        context.save_for_backward(query, keys, values, shares)
        return shares @ values

    @staticmethod
    def backward(context, gradient):
        query, keys, values, shares = context.saved_tensors
        gradient = gradient.contiguous()
        change = torch.ops.aten._softmax_backward_data(gradient @ values.transpose(-1, -2), shares, -1, shares.dtype)
        rows, heads, length, _ = query.shape
        ends = change[..., 0].float()  # [rows, heads, shared * length]: what falls to the sinks
        return (change @ keys, change.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ gradient, None,
                ends.sum(0))


class Spread(torch.autograd.Function):
    """Rows of `x` in the order of their experts, each row `times` over; `back` undoes the order."""

    @staticmethod
    def forward(context, x, order, back, times):
        context.save_for_backward(back)
        context.times = times
        return x.index_select(0, order // times)

    @staticmethod
    def backward(context, gradient):
        gathered = gradient.index_select(0, context.saved_tensors[0])
        return gathered.view(-1, context.times, gradient.shape[-1]).sum(1), None, None, None


class Reorder(torch.autograd.Function):
    """Rows of `x` by the permutation `back`, whose inverse is `order`."""

    @staticmethod
    def forward(context, x, back, order):
        context.save_for_backward(order)
        return x.index_select(0, back)

    @staticmethod
    def backward(context, gradient):
        return gradient.index_select(0, context.saved_tensors[0]), None, None


def rotate(x, cos, sin):
    """Rotary embedding, halves layout."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Layer(nn.Module):
    """Attention with sinks, then a mixture of experts.

    Rows of `gate_up` are gates first, then ups; the export interleaves them.
    """

    def __init__(self, config: Config, sliding: bool):
        super().__init__()
        hidden, width = config.hidden_size, config.head_dim
        query, key = config.num_attention_heads * width, config.num_key_value_heads * width
        experts, inner = config.num_local_experts, config.intermediate_size

        def weight(*shape, std=0.0):
            return nn.Parameter(torch.randn(*shape) * std)

        self.config, self.sliding = config, sliding
        std = hidden ** -0.5
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.expert_norm = nn.Parameter(torch.ones(hidden))
        self.q, self.q_bias = weight(query, hidden, std=std), weight(query)
        self.k, self.k_bias = weight(key, hidden, std=std), weight(key)
        self.v, self.v_bias = weight(key, hidden, std=std), weight(key)
        self.o, self.o_bias = weight(hidden, query, std=0.3 * query ** -0.5), weight(hidden)
        self.sinks = weight(config.num_attention_heads)
        self.router, self.router_bias = weight(experts, hidden, std=0.5 * std), weight(experts)
        self.gate_up, self.gate_up_bias = weight(experts, 2 * inner, hidden, std=std), weight(experts, 2 * inner)
        self.down = weight(experts, hidden, inner, std=0.3 * inner ** -0.5)
        self.down_bias = weight(experts, hidden)

    def attend(self, query, keys, values, mask):
        """Attention of `query` [rows, length, heads, width] over keys [rows, key heads, 1 + keys, width], sink first."""
        config = self.config
        rows, length, _, width = query.shape
        groups = config.num_key_value_heads
        shared = config.num_attention_heads // groups
        query = query.view(rows, length, groups, shared, width).permute(0, 2, 3, 1, 4)
        query = (query * width ** -0.5).to(values.dtype).reshape(rows, groups, shared * length, width)
        sinks = self.sinks.to(values.dtype).view(groups, shared, 1).expand(-1, -1, length).reshape(groups, -1)
        mixed = Attend.apply(query, keys, values, mask, sinks)
        mixed = mixed.view(rows, groups, shared, length, width).permute(0, 3, 1, 2, 4)
        return mixed.reshape(rows * length, -1)

    def attention(self, x, parts):
        """`x` is [tokens, hidden], all groups one after the other; `parts` tells where each lies and what it sees."""
        config, dtype = self.config, parts[0]["seen"].dtype
        normed = RmsNorm.apply(x, self.attention_norm, config.rms_norm_eps, dtype)
        width = config.head_dim
        queries = F.linear(normed, self.q.to(dtype), self.q_bias.to(dtype))
        keys = F.linear(normed, self.k.to(dtype), self.k_bias.to(dtype))
        values = F.linear(normed, self.v.to(dtype), self.v_bias.to(dtype))
        outputs, first = [], None
        start = 0
        for part in parts:
            rows, length = part["shape"]
            span = slice(start, start + rows * length)
            start += rows * length
            cos, sin = part["cos"], part["sin"]
            query = rotate(queries[span].view(rows, length, -1, width), cos, sin)
            key = rotate(keys[span].view(rows, length, -1, width), cos, sin).to(dtype).transpose(1, 2)
            value = values[span].view(rows, length, -1, width).transpose(1, 2)
            first = first or (key, value)
            key, value = self.extended(part, first, key, value)
            mask = part["near"] if self.sliding else part["seen"]
            outputs.append(self.attend(query, key, value, mask))
        return F.linear(torch.cat(outputs), self.o.to(dtype), self.o_bias.to(dtype))

    def extended(self, part, first, key, value):
        """Keys and values [rows, heads, length, width] with the sink's place and what lies before them in front."""
        cache = part["cache"]
        if cache is not None and self in cache:
            before = cache[self]
        else:
            before = [key.new_zeros(*key.shape[:2], 1, key.shape[3])] * 2
            if part["owner"] is not None:
                skipped = part["skip"] if self.sliding else 0
                before = [torch.cat((sink, earlier[:, :, skipped:].index_select(0, part["owner"])), 2)
                          for sink, earlier in zip(before, first)]
        key, value = torch.cat((before[0], key), 2), torch.cat((before[1], value), 2)
        if cache is not None:
            cache[self] = (key, value)
        return key, value

    def experts(self, x, quantise, dtype):
        """Top-k experts per token, computed expert by expert. Also gives the load-balancing loss (Switch)."""
        config = self.config
        chosen_count, expert_count = config.num_experts_per_tok, config.num_local_experts
        normed = RmsNorm.apply(x, self.expert_norm, config.rms_norm_eps, dtype)
        logits = F.linear(normed, self.router.to(dtype), self.router_bias.to(dtype)).float()
        top, chosen = logits.topk(chosen_count, -1)
        shares = top.softmax(-1)
        flat = chosen.flatten()
        order = flat.argsort()
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel())
        counts = torch.bincount(flat, minlength=expert_count)
        balance = expert_count * (counts.float() / flat.numel() * logits.softmax(-1).mean(0)).sum()
        weights = [(fake_quantise(value) if quantise else value).to(dtype).unbind(0) for value in (self.gate_up, self.down)]
        biases = [value.to(dtype).unbind(0) for value in (self.gate_up_bias, self.down_bias)]
        outputs = []
        for expert, rows in enumerate(Spread.apply(normed, order, back, chosen_count).split(counts.tolist())):
            inner = F.linear(rows, weights[0][expert], biases[0][expert])
            gate, up = inner.chunk(2, -1)
            gate, up = gate.clamp(max=config.swiglu_limit), up.clamp(-config.swiglu_limit, config.swiglu_limit)
            inner = (up + 1) * gate * torch.sigmoid(config.swiglu_alpha * gate)
            outputs.append(F.linear(inner, weights[1][expert], biases[1][expert]))
        mixed = Reorder.apply(torch.cat(outputs), back, order).view(-1, chosen_count, config.hidden_size)
        return (shares.to(dtype)[:, None] @ mixed).squeeze(1), balance


class Model(nn.Module):
    """The whole network. `forward` gives hidden states after the last norm; `logits` multiplies them by the head."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size))
        self.head = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size) * 0.01)
        self.final_norm = nn.Parameter(torch.ones(config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, index % 2 == 0) for index in range(config.num_hidden_layers))
        frequencies, self.rope_scale = yarn_frequencies(config)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def describe(self, group: Group, before: torch.Tensor | None, cache=None,
                 dtype: torch.dtype = torch.float32) -> dict:
        """What attention needs to know of a group: angles, and which keys each token sees."""
        angles = group.positions.clamp(min=0)[..., None, None].float() * self.frequencies
        key_positions = group.positions
        if before is not None:
            key_positions = torch.cat((before, group.positions), 1)
        distance = group.positions[:, :, None] - key_positions[:, None, :]
        seen = (distance >= 0) & (key_positions >= 0)[:, None, :]
        near = seen & (distance < self.config.sliding_window)
        skip = max(0, before.shape[1] + 1 - self.config.sliding_window) if group.owner is not None else 0

        def mask(allowed):
            allowed = F.pad(allowed, (1, 0), value=True)  # the sink's place
            return torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, float("-inf"))

        return {"shape": group.ids.shape, "owner": group.owner, "cache": cache, "seen": mask(seen),
                "near": mask(near[:, :, skip:]), "skip": skip,
                "cos": angles.cos() * self.rope_scale, "sin": angles.sin() * self.rope_scale}

    def run(self, ids, parts, quantise):
        """Embeds, runs the layers, norms: [tokens, hidden] and the mean balancing loss."""
        dtype = parts[0]["seen"].dtype
        x = F.embedding(ids, self.embedding)
        balance = 0.0
        for layer in self.layers:
            x = x + layer.attention(x, parts)
            change, loss = layer.experts(x, quantise, dtype)
            x, balance = x + change, balance + loss
        return RmsNorm.apply(x, self.final_norm, self.config.rms_norm_eps, dtype), balance / len(self.layers)

    def forward(self, groups: list, quantise: bool = False, dtype: torch.dtype = torch.float32):
        """Hidden states of all tokens, group after group, row after row; and the balancing loss."""
        parts = []
        for group in groups:
            before = groups[0].positions[group.owner] if group.owner is not None else None
            parts.append(self.describe(group, before, dtype=dtype))
        return self.run(torch.cat([group.ids.flatten() for group in groups]), parts, quantise)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of whole rows [rows, length] without padding."""
        positions = torch.arange(ids.shape[1]).expand(ids.shape[0], -1)
        hidden, _ = self.forward([Group(ids, positions)])
        return F.linear(hidden, self.head).view(*ids.shape, -1)

    @torch.no_grad()
    def generate(self, prompts: list, tokens_max: int, stops: set) -> list:
        """Greedy continuations of several prompts (lists of ids), each up to and with its stop token."""
        length = max(map(len, prompts))
        ids = torch.zeros(len(prompts), length, dtype=torch.long)
        positions = torch.full_like(ids, -1)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt):] = torch.tensor(prompt)
            positions[row, length - len(prompt):] = torch.arange(len(prompt))
        cache, before = {}, None
        outputs, rows, running = [[] for _ in prompts], list(range(len(prompts))), set(range(len(prompts)))
        for _ in range(tokens_max):
            part = self.describe(Group(ids, positions), before, cache)
            hidden, _ = self.run(ids.flatten(), [part], False)
            last = hidden.view(len(rows), -1, hidden.shape[-1])[:, -1]
            chosen = F.linear(last, self.head).argmax(-1)
            for row, token in zip(rows, chosen.tolist()):
                if row in running:
                    outputs[row].append(token)
                    running = running - {row} if token in stops else running
            if not running:
                break
            before = positions if before is None else torch.cat((before, positions), 1)
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            if len(running) <= 0.75 * len(rows):
                kept = torch.tensor([place for place, row in enumerate(rows) if row in running])
                rows = [row for row in rows if row in running]
                ids, positions, before = (value.index_select(0, kept) for value in (ids, positions, before))
                cache = {layer: [value.index_select(0, kept) for value in values] for layer, values in cache.items()}
        return outputs
