"""llama.cpp's own HTTP server with a model of random weights: tiny_llama.py FOLDER [key=value ...]. Prints its address."""

import random
import struct
import sys
import time
from pathlib import Path

import xllamacpp

BYTES = 256
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


def byte_names():
    """How GPT-2's tokenizers write each byte as a character."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in shown}
    hidden = (byte for byte in range(BYTES) if byte not in names)
    names |= {byte: chr(256 + nth) for nth, byte in enumerate(hidden)}
    return [names[byte] for byte in range(BYTES)]


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


KINDS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?")}


def entry(key, kind, value):
    """A key with its value, as the GGUF specification has it."""
    if kind == "text":
        return text(key) + struct.pack("<I", 8) + text(value)
    if kind == "texts":
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if kind == "i32s":
        return text(key) + struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
    number, form = KINDS[kind]
    return text(key) + struct.pack("<I", number) + struct.pack(form, value)


def write_model(path):
    """A llama of two layers, with a token for each byte."""
    names = SPECIAL + byte_names()
    # One merge, since there must be some.
    names.append("th")
    vocabulary, width, layers, heads, inner = len(names), 64, 2, 4, 128
    entries = [
        ("general.architecture", "text", "llama"),
        ("general.name", "text", "tiny"),
        ("tokenizer.ggml.model", "text", "gpt2"),
        ("tokenizer.ggml.pre", "text", "gpt-2"),
        ("tokenizer.ggml.tokens", "texts", names),
        ("tokenizer.ggml.token_type", "i32s", [3] * len(SPECIAL) + [1] * (vocabulary - len(SPECIAL))),
        ("tokenizer.ggml.merges", "texts", ["t h"]),
        ("tokenizer.ggml.padding_token_id", "u32", 0),
        ("tokenizer.ggml.bos_token_id", "u32", 1),
        ("tokenizer.ggml.eos_token_id", "u32", 2),
        ("tokenizer.ggml.add_bos_token", "bool", False),
        ("tokenizer.chat_template", "text", TEMPLATE),
        ("llama.context_length", "u32", 8192),
        ("llama.embedding_length", "u32", width),
        ("llama.block_count", "u32", layers),
        ("llama.feed_forward_length", "u32", inner),
        ("llama.attention.head_count", "u32", heads),
        ("llama.attention.head_count_kv", "u32", heads),
        ("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        ("llama.rope.dimension_count", "u32", width // heads),
        ("llama.vocab_size", "u32", vocabulary),
    ]
    chance = random.Random(7)
    weights = lambda *shape: (shape, [chance.gauss(0, 0.05) for _ in range(shape[0] * (shape[1:] or (1,))[0])])
    ones = ((width,), [1.0] * width)
    tensors = {"token_embd.weight": weights(width, vocabulary), "output.weight": weights(width, vocabulary)}
    tensors["output_norm.weight"] = ones
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors[block + "attn_norm.weight"] = ones
        tensors[block + "ffn_norm.weight"] = ones
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"]:
            tensors[f"{block}{name}.weight"] = weights(width, width)
        tensors[block + "ffn_gate.weight"] = weights(width, inner)
        tensors[block + "ffn_up.weight"] = weights(width, inner)
        tensors[block + "ffn_down.weight"] = weights(inner, width)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entry(*one) for one in entries)
    body = b""
    for name, (shape, values) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", 0, len(body))
        body += struct.pack(f"<{len(values)}f", *values)
        body += bytes(-len(body) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + body)


def serve(model, settings):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.warmup = False
    parameters.cpuparams.n_threads = 2
    parameters.model_alias = {"tiny"}
    for setting in settings:
        key, value = setting.split("=", 1)
        before = getattr(parameters, key)
        if key == "pooling_type":
            value = getattr(xllamacpp.llama_pooling_type, "LLAMA_POOLING_TYPE_" + value)
        elif isinstance(before, bool):
            value = value == "1"
        elif isinstance(before, int):
            value = int(value)
        elif key == "api_keys":
            value = value.split(",")
        setattr(parameters, key, value)
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    # Until whoever started it is gone.
    sys.stdin.read()


folder = Path(sys.argv[1])
write_model(folder / "tiny.gguf")
serve(folder / "tiny.gguf", sys.argv[2:])
