"""MXFP4: 4-bit values (E2M1) in blocks of 32 with one power-of-two scale. Source: OCP Microscaling 1.0."""

import torch

BLOCK = 32
E2M1_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def round_e2m1(magnitude):
    """The nearest of 0 .5 1 1.5 2 3 4 6 to each magnitude, ties to even."""
    fine = torch.round(magnitude * 2) / 2
    middle = torch.round(magnitude)
    coarse = torch.round(magnitude / 2) * 2
    return torch.where(magnitude < 2, fine, torch.where(magnitude < 4, middle, coarse)).clamp(max=6.0)


def blocks_and_exponents(weight):
    """`weight` [..., K] as blocks [..., K/32, 32], and the exponent of each block: the least that clips nothing."""
    blocks = weight.reshape(*weight.shape[:-1], -1, BLOCK)
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=2.0 ** -100)
    exponents = torch.ceil(torch.log2(largest / 6.0) - 1e-6)
    return blocks, exponents


def quantise(weight):
    """`weight` as MXFP4 would hold it."""
    blocks, exponents = blocks_and_exponents(weight)
    scale = torch.exp2(exponents)
    return torch.copysign(round_e2m1(blocks.abs() / scale) * scale, blocks).reshape(weight.shape)


def fake_quantise(weight):
    """`weight` quantised in the forward pass, untouched in the backward pass (straight through)."""
    with torch.no_grad():
        change = quantise(weight) - weight
    return weight + change


def pack(weight):
    """`weight` [..., K] as Hugging Face stores it: blocks u8 [..., K/32, 16], low nibble first, and scales u8."""
    blocks, exponents = blocks_and_exponents(weight.float())
    magnitude = round_e2m1(blocks.abs() / torch.exp2(exponents))
    codes = torch.bucketize(magnitude, E2M1_VALUES).to(torch.uint8)
    codes = codes | ((blocks < 0).to(torch.uint8) << 3)
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed.contiguous(), (exponents.squeeze(-1) + 127).to(torch.uint8).contiguous()


def unpack(packed, scales):
    """The weights [..., K] that `pack` stored."""
    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(-2).long()
    values = torch.cat((E2M1_VALUES, -E2M1_VALUES))[codes]
    return (values * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)
