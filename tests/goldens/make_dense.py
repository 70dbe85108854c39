"""A checkpoint whose experts are bf16 in transformers' own form, as fine-tunes and dequantised models have them, and whose embedding and
attention are F32: python make_dense.py DIR, then golden_dev.py DIR g5."""
import json, sys, torch
from make import make
from safetensors.torch import load_file, save_file

base = sys.argv[1]
H, I, E, L = 64, 32, 5, 2
make(f"{base}/g5", 105, H=H, L=L, E=E, K=3, I=I, nh=4, nkv=2, hd=16, V=301, window=5, factor=4.0, orig=64)
path = f"{base}/g5/config.json"
config = json.load(open(path))
config.pop("quantization_config")
json.dump(config, open(path, "w"), indent=1)
path, random = f"{base}/g5/model.safetensors", torch.Generator().manual_seed(205)
tensors = {key: value for key, value in load_file(path).items() if not key.endswith(("_blocks", "_scales"))}
for layer in range(L):
    # Inputs first, unlike the rows of every other matrix.
    for name, cols, rows in (("gate_up", H, 2 * I), ("down", I, H)):
        values = torch.randn(E, cols, rows, generator=random) * 1.2 * cols**-0.5
        tensors[f"model.layers.{layer}.mlp.experts.{name}_proj"] = values.to(torch.bfloat16)
for key, value in tensors.items():
    if key == "model.embed_tokens.weight" or ".self_attn." in key and key.endswith(".weight"):
        tensors[key] = value.to(torch.float32)
save_file(tensors, path, metadata={"format": "pt"})
