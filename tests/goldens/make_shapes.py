"""Checkpoints of shapes and spellings that g1 and g2 do not have: python make_shapes.py DIR, then golden_dev.py DIR g3 g4."""
import json, sys
from make import make
from safetensors.torch import load_file, save_file

base = sys.argv[1]


def respell(name, change, drop=lambda tensor: False, **rope):
    """Writes the config as transformers 5 does, and leaves tensors out."""
    path = f"{base}/{name}/config.json"
    config = json.load(open(path))
    config.pop("rope_scaling"), config.pop("experts_per_token"), config.pop("initial_context_length")
    config["rope_parameters"] = dict(rope_theta=config.pop("rope_theta"), **rope)
    config["dtype"] = config.pop("torch_dtype")
    change(config)
    json.dump(config, open(path, "w"), indent=1)
    path = f"{base}/{name}/model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if not drop(key)}, path, metadata={"format": "pt"})


def plain(config):
    config.pop("layer_types")
    config.update(attention_bias=False, tie_word_embeddings=True, swiglu_limit=1.5, swiglu_alpha=1.3, rms_norm_eps=1e-3)
    config["eos_token_id"] = [config["eos_token_id"], 3]


make(f"{base}/g3", 103, H=64, L=3, E=5, K=3, I=32, nh=4, nkv=1, hd=24, V=301, window=5, factor=4.0, theta=20000.0, orig=64)
respell("g3", plain, lambda name: name == "lm_head.weight" or (".self_attn." in name and name.endswith(".bias")), rope_type="default")
make(f"{base}/g4", 104, H=96, L=3, E=7, K=5, I=32, nh=9, nkv=3, hd=20, V=350, window=3, factor=4.0, orig=64)
respell("g4", lambda config: None, rope_type="yarn", factor=6.0, original_max_position_embeddings=20, attention_factor=1.4, beta_fast=8)
