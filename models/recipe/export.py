"""Writes a trained model in Hugging Face's gpt-oss layout, and refuses when what comes back computes other numbers.

The files are written beside the target first; transformers loads them (experts dequantised, float32) and must give the
trainer's own logits on real prompts. Only then do they take the target's place.
"""

import copy
import json
import pathlib
import random
import shutil

import torch
from safetensors.torch import load_file, save_file

import mxfp4
import tokenizer as tokenizers
from batches import encode_branch
from model import Config, Model
from world.conversation import make_document

LOGITS_DIFFERENCE_MAX = 1e-3
SIZE_MAX_BYTES = 16 * 1024 * 1024
HERE = pathlib.Path(__file__).parent


def interleave(weight):
    """Rows g0 u0 g1 u1 … from gates first, then ups (dimension 1)."""
    gate, up = weight.chunk(2, 1)
    return torch.stack((gate, up), 2).flatten(1, 2)


def apart(weight):
    """What `interleave` did, undone."""
    return torch.cat((weight[:, 0::2], weight[:, 1::2]), 1)


def tensors(model: Model) -> dict:
    """All tensors by Hugging Face's names: bf16, the experts as MXFP4."""
    def plain(value):
        return value.detach().to(torch.bfloat16).contiguous()

    named = {"model.embed_tokens.weight": plain(model.embedding), "lm_head.weight": plain(model.head),
             "model.norm.weight": plain(model.final_norm)}
    for index, layer in enumerate(model.layers):
        start = f"model.layers.{index}."
        named[start + "input_layernorm.weight"] = plain(layer.attention_norm)
        named[start + "post_attention_layernorm.weight"] = plain(layer.expert_norm)
        for letter in "qkvo":
            named[f"{start}self_attn.{letter}_proj.weight"] = plain(getattr(layer, letter))
            named[f"{start}self_attn.{letter}_proj.bias"] = plain(getattr(layer, letter + "_bias"))
        named[start + "self_attn.sinks"] = plain(layer.sinks)
        named[start + "mlp.router.weight"] = plain(layer.router)
        named[start + "mlp.router.bias"] = plain(layer.router_bias)
        experts = start + "mlp.experts."
        for name, weight in (("gate_up_proj", interleave(layer.gate_up.detach())), ("down_proj", layer.down.detach())):
            named[f"{experts}{name}_blocks"], named[f"{experts}{name}_scales"] = mxfp4.pack(weight)
        named[experts + "gate_up_proj_bias"] = plain(interleave(layer.gate_up_bias.detach()))
        named[experts + "down_proj_bias"] = plain(layer.down_bias)
    return named


@torch.no_grad()
def read(folder: pathlib.Path) -> Model:
    """The model of an exported checkpoint: what `tensors` wrote, back in the trainer's names."""
    named = load_file(str(folder / "model.safetensors"))
    model = Model(Config(vocab_size=named["lm_head.weight"].shape[0]))
    found = {"embedding": named["model.embed_tokens.weight"], "head": named["lm_head.weight"],
             "final_norm": named["model.norm.weight"]}
    for index in range(len(model.layers)):
        theirs, ours = f"model.layers.{index}.", f"layers.{index}."
        found[ours + "attention_norm"] = named[theirs + "input_layernorm.weight"]
        found[ours + "expert_norm"] = named[theirs + "post_attention_layernorm.weight"]
        for letter in "qkvo":
            found[ours + letter] = named[f"{theirs}self_attn.{letter}_proj.weight"]
            found[f"{ours}{letter}_bias"] = named[f"{theirs}self_attn.{letter}_proj.bias"]
        found[ours + "sinks"] = named[theirs + "self_attn.sinks"]
        found[ours + "router"] = named[theirs + "mlp.router.weight"]
        found[ours + "router_bias"] = named[theirs + "mlp.router.bias"]
        experts = theirs + "mlp.experts."
        gate_up, down = (mxfp4.unpack(named[f"{experts}{name}_proj_blocks"], named[f"{experts}{name}_proj_scales"])
                         for name in ("gate_up", "down"))
        found[ours + "gate_up"], found[ours + "down"] = apart(gate_up), down
        found[ours + "gate_up_bias"] = apart(named[experts + "gate_up_proj_bias"])
        found[ours + "down_bias"] = named[experts + "down_proj_bias"]
    model.load_state_dict({name: value.float() for name, value in found.items()})
    return model


@torch.no_grad()
def rounded(model: Model) -> Model:
    """A copy that holds exactly the exported values: MXFP4 experts, the rest bf16."""
    result = copy.deepcopy(model)
    for name, value in result.named_parameters():
        is_expert = name.endswith((".gate_up", ".down"))
        value.copy_(mxfp4.quantise(value) if is_expert else value.to(torch.bfloat16).float())
    return result.eval()


def config_json(model: Model, control: dict) -> dict:
    """The content of config.json."""
    config = model.config
    kinds = ["sliding_attention" if layer.sliding else "full_attention" for layer in model.layers]
    return {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": True,
        "attention_dropout": 0.0, "eos_token_id": control["<|return|>"], "pad_token_id": control["<|endoftext|>"],
        "experts_per_token": config.num_experts_per_tok, "num_experts_per_tok": config.num_experts_per_tok,
        "num_local_experts": config.num_local_experts, "head_dim": config.head_dim, "hidden_act": "silu",
        "hidden_size": config.hidden_size, "initial_context_length": config.original_max_positions,
        "initializer_range": 0.02, "intermediate_size": config.intermediate_size, "layer_types": kinds,
        "max_position_embeddings": config.max_positions, "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers, "num_key_value_heads": config.num_key_value_heads,
        "output_router_logits": False, "rms_norm_eps": config.rms_norm_eps, "rope_theta": config.rope_theta,
        "rope_scaling": {"rope_type": "yarn", "factor": config.rope_factor, "beta_fast": config.rope_beta_fast,
                         "beta_slow": config.rope_beta_slow, "truncate": False,
                         "original_max_position_embeddings": config.original_max_positions},
        "quantization_config": {"quant_method": "mxfp4",
                                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                           "model.embed_tokens", "lm_head"]},
        "router_aux_loss_coef": 0.01, "sliding_window": config.sliding_window, "swiglu_limit": config.swiglu_limit,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": config.vocab_size,
    }


def write_files(model: Model, run: pathlib.Path, target: pathlib.Path) -> None:
    """All files of the checkpoint; `run` holds the tokenizer."""
    control = tokenizers.control_ids(tokenizers.load(run))
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors(model), str(target / "model.safetensors"), metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config_json(model, control), indent=2) + "\n")
    generation = {"bos_token_id": control["<|startoftext|>"], "do_sample": True,
                  "eos_token_id": [control["<|return|>"], control["<|endoftext|>"], control["<|call|>"]],
                  "pad_token_id": control["<|endoftext|>"]}
    (target / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(run / name, target / name)
    shutil.copyfile(HERE / "chat_template.jinja", target / "chat_template.jinja")


def load_with_transformers(folder: pathlib.Path):
    """The checkpoint as transformers reads it: experts dequantised, float32, eager attention."""
    from transformers import AutoModelForCausalLM, Mxfp4Config
    return AutoModelForCausalLM.from_pretrained(
        str(folder), quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32,
        attn_implementation="eager").eval()


@torch.no_grad()
def difference(model: Model, run: pathlib.Path, folder: pathlib.Path) -> tuple:
    """The largest difference of logits between the trainer's model and the files, and the largest logit."""
    tokenizer = tokenizers.load(run)
    theirs, ours = load_with_transformers(folder), rounded(model)
    rng, worst, largest = random.Random(21), 0.0, 0.0
    for _ in range(6):
        document = make_document(rng, branches=1)
        ids = tokenizer.encode(document.prefix, add_special_tokens=False).ids
        ids = torch.tensor([ids + encode_branch(tokenizer, document.branches[0])[0]])
        expected, found = ours.logits(ids), theirs(ids).logits
        worst = max(worst, (expected - found).abs().max().item())
        largest = max(largest, found.abs().max().item())
    return worst, largest


def export(model: Model, run: pathlib.Path, target: pathlib.Path) -> None:
    """Writes the checkpoint into `target`, or stops without touching it."""
    draft = run / "export-draft"
    shutil.rmtree(draft, ignore_errors=True)
    write_files(model, run, draft)
    worst, largest = difference(model, run, draft)
    print(f"logits of transformers against the trainer's: largest difference {worst:.2e}, largest logit {largest:.1f}")
    if not worst <= LOGITS_DIFFERENCE_MAX:
        raise SystemExit(f"not exported: logits differ by {worst:.2e}, allowed are {LOGITS_DIFFERENCE_MAX:.0e}; "
                         f"the files are in {draft}")
    size = sum(path.stat().st_size for path in draft.iterdir())
    if size > SIZE_MAX_BYTES:
        raise SystemExit(f"not exported: {size:,} bytes, allowed are {SIZE_MAX_BYTES:,}")
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(draft.iterdir()):
        shutil.move(str(path), str(target / path.name))
        (target / path.name).chmod(0o644)
    print(f"exported {size:,} bytes to {target}")
