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

    `owner` [rows] tells which row of the first group each row continues; without it a row starts on its own. With
    `segments` [rows, length] a row holds several conversations, and a token sees only its own (and the owner's row).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    owner: torch.Tensor | None = None
    segments: torch.Tensor | None = None


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


def rms_norm(x, scale, eps):
    """Root-mean-square norm over the last dimension."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * scale


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

    def attend(self, query, keys, values, allowed):
        """Softmax attention of [rows, length, heads, width] with one sink logit per head in the denominator."""
        config = self.config
        rows, length, _, width = query.shape
        groups = config.num_key_value_heads
        shared = config.num_attention_heads // groups
        query = query.view(rows, length, groups, shared, width).permute(0, 2, 3, 1, 4)
        query = query.reshape(rows, groups, shared * length, width) * width ** -0.5
        scores = query @ keys.permute(0, 2, 3, 1)
        scores = scores.view(rows, groups, shared, length, -1).float()
        scores = scores.masked_fill(~allowed[:, None, None], float("-inf"))
        sinks = self.sinks.view(1, groups, shared, 1, 1).expand(rows, -1, -1, length, 1)
        weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1].to(values.dtype)
        mixed = weights.reshape(rows, groups, shared * length, -1) @ values.permute(0, 2, 1, 3)
        mixed = mixed.view(rows, groups, shared, length, width).permute(0, 3, 1, 2, 4)
        return mixed.reshape(rows * length, -1)

    def attention(self, x, parts):
        """`x` is [tokens, hidden], all groups one after the other; `parts` tells where each lies and what it sees."""
        config = self.config
        normed = rms_norm(x, self.attention_norm, config.rms_norm_eps)
        width = config.head_dim
        queries = F.linear(normed, self.q, self.q_bias)
        keys = F.linear(normed, self.k, self.k_bias)
        values = F.linear(normed, self.v, self.v_bias)
        outputs, first = [], None
        start = 0
        for part in parts:
            rows, length = part["shape"]
            span = slice(start, start + rows * length)
            start += rows * length
            cos, sin = part["cos"], part["sin"]
            query = rotate(queries[span].view(rows, length, -1, width), cos, sin)
            key = rotate(keys[span].view(rows, length, -1, width), cos, sin)
            value = values[span].view(rows, length, -1, width)
            if part["owner"] is not None:
                key = torch.cat((first[0].index_select(0, part["owner"]), key), 1)
                value = torch.cat((first[1].index_select(0, part["owner"]), value), 1)
            cache = part.get("cache")
            if cache is not None:
                if self in cache:
                    key = torch.cat((cache[self][0], key), 1)
                    value = torch.cat((cache[self][1], value), 1)
                cache[self] = (key, value)
            first = first or (key, value)
            allowed = part["near"] if self.sliding else part["seen"]
            outputs.append(self.attend(query, key, value, allowed))
        return F.linear(torch.cat(outputs), self.o, self.o_bias)

    def experts(self, x, quantise):
        """Top-k experts per token, computed expert by expert. Also gives the load-balancing loss (Switch)."""
        config = self.config
        chosen_count, expert_count = config.num_experts_per_tok, config.num_local_experts
        normed = rms_norm(x, self.expert_norm, config.rms_norm_eps)
        logits = F.linear(normed, self.router, self.router_bias).float()
        top, chosen = logits.topk(chosen_count, -1)
        shares = top.softmax(-1)
        flat = chosen.flatten()
        order = flat.argsort()
        counts = torch.bincount(flat, minlength=expert_count)
        balance = expert_count * (counts.float() / flat.numel() * logits.softmax(-1).mean(0)).sum()
        gate_up = fake_quantise(self.gate_up) if quantise else self.gate_up
        down = fake_quantise(self.down) if quantise else self.down
        outputs = []
        for expert, rows in enumerate(normed.index_select(0, order // chosen_count).split(counts.tolist())):
            inner = F.linear(rows, gate_up[expert], self.gate_up_bias[expert])
            gate, up = inner.chunk(2, -1)
            gate, up = gate.clamp(max=config.swiglu_limit), up.clamp(-config.swiglu_limit, config.swiglu_limit)
            inner = (up + 1) * gate * torch.sigmoid(config.swiglu_alpha * gate)
            outputs.append(F.linear(inner, down[expert], self.down_bias[expert]))
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel())
        mixed = torch.cat(outputs).index_select(0, back).view(-1, chosen_count, config.hidden_size)
        return (mixed * shares[..., None]).sum(1), balance


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

    def describe(self, group: Group, before: torch.Tensor | None, cache=None) -> dict:
        """What attention needs to know of a group: angles, and which keys each token sees."""
        angles = group.positions.clamp(min=0)[..., None, None].float() * self.frequencies
        key_positions = group.positions
        if before is not None:
            key_positions = torch.cat((before, group.positions), 1)
        distance = group.positions[:, :, None] - key_positions[:, None, :]
        seen = (distance >= 0) & (key_positions >= 0)[:, None, :]
        if group.segments is not None:
            own = group.segments[:, :, None] == group.segments[:, None, :]
            shared = own.new_ones(*own.shape[:2], key_positions.shape[1] - own.shape[2])
            seen = seen & torch.cat((shared, own), 2)
        return {"shape": group.ids.shape, "owner": group.owner, "cache": cache, "seen": seen,
                "near": seen & (distance < self.config.sliding_window),
                "cos": angles.cos() * self.rope_scale, "sin": angles.sin() * self.rope_scale}

    def run(self, ids, parts, quantise):
        """Embeds, runs the layers, norms: [tokens, hidden] and the mean balancing loss."""
        x = F.embedding(ids, self.embedding)
        balance = 0.0
        for layer in self.layers:
            x = x + layer.attention(x, parts)
            change, loss = layer.experts(x, quantise)
            x, balance = x + change, balance + loss
        return rms_norm(x, self.final_norm, self.config.rms_norm_eps), balance / len(self.layers)

    def forward(self, groups: list, quantise: bool = False):
        """Hidden states of all tokens, group after group, row after row; and the balancing loss."""
        parts = []
        for group in groups:
            before = groups[0].positions[group.owner] if group.owner is not None else None
            parts.append(self.describe(group, before))
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
        outputs, running = [[] for _ in prompts], set(range(len(prompts)))
        for _ in range(tokens_max):
            part = self.describe(Group(ids, positions), before, cache)
            hidden, _ = self.run(ids.flatten(), [part], False)
            last = hidden.view(len(prompts), -1, hidden.shape[-1])[:, -1]
            chosen = F.linear(last, self.head).argmax(-1)
            for row in list(running):
                outputs[row].append(int(chosen[row]))
                if outputs[row][-1] in stops:
                    running.discard(row)
            if not running:
                break
            before = positions if before is None else torch.cat((before, positions), 1)
            ids, positions = chosen[:, None], positions[:, -1:] + 1
        return outputs
