"""Golden files of GGUF models: what llama.cpp's converter makes of tiny models of every architecture, and what llama-quantize chooses.

    python gguf_model.py LLAMA_CPP BIN OUT [MODELS]

LLAMA_CPP is a source tree (with convert_hf_to_gguf.py and gguf-py), BIN a folder with its programs, OUT is
crates/checkpoint/testdata/gguf_model. MODELS is a folder of model folders (stories260K, llama-4m), whose goldens are
written too. Weights are a function of tensor name and index, so that the models need not be stored.
Packages: ../peers/requirements.txt, and sentencepiece.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA_CPP, BIN, OUT = (Path(arg).resolve() for arg in sys.argv[1:4])
MODELS = Path(sys.argv[4]).resolve() if len(sys.argv) > 4 else None
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import gguf  # noqa: E402

VOCAB = 352
WORDS = """the owl and the otter went over the old bridge that they had built when the river was low
nobody told the baker that the bread was in the oven for there was thunder over the hills and the lights went out
she threw the other rope to her brother then both of them pulled until the boat was on the shore again
another day another letter and still there was no answer from the island where the lighthouse stood
"""
LLAMA = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
    tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, hidden_act="silu",
)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32,
)
CONFIGS = {
    "llama": dict(
        architectures=["LlamaForCausalLM"], model_type="llama", head_dim=8, attention_bias=True, mlp_bias=True,
        rope_scaling=LLAMA3, **LLAMA),
    "mistral": dict(
        architectures=["MistralForCausalLM"], model_type="mistral", head_dim=16, sliding_window=None,
        # Without tokenizer.model the converter does not fill rows that have no token.
        **(LLAMA | dict(tie_word_embeddings=True, vocab_size=349))),
    "qwen2": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", **LLAMA),
    "qwen2-yarn": dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2",
        rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16), **LLAMA),
    "qwen3": dict(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16,
        **(LLAMA | dict(tie_word_embeddings=True, rope_theta=1000000.0))),
    # The converter cuts the embedding to the sizes of vocabulary and added tokens together, 340 + 4.
    "gemma3": dict(
        architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", head_dim=16, query_pre_attn_scalar=16,
        sliding_window=16, rope_local_base_freq=10000.0, hidden_activation="gelu_pytorch_tanh",
        **{k: v for k, v in (LLAMA | dict(num_hidden_layers=7, tie_word_embeddings=True, vocab_size=344,
                                          rope_theta=1000000.0)).items() if k != "hidden_act"}),
    "gpt2": dict(
        architectures=["GPT2LMHeadModel"], model_type="gpt2", vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4,
        n_positions=64, n_ctx=64, layer_norm_epsilon=1e-5, activation_function="gelu_new", bos_token_id=1,
        eos_token_id=2),
    "exaone": dict(
        architectures=["ExaoneForCausalLM"], model_type="exaone", vocab_size=VOCAB, hidden_size=32,
        intermediate_size=48, num_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        max_position_embeddings=64, layer_norm_epsilon=1e-5, activation_function="silu", rope_theta=1000000.0,
        rope_scaling=LLAMA3, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2),
}


def write_json(path: Path, value, depth: int = 1) -> None:
    """One line for each entry of so many levels of objects."""
    def lines(value, level: int) -> str:
        if level == 0 or not isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False)
        entries = (f"{json.dumps(key, ensure_ascii=False)}: {lines(entry, level - 1)}" for key, entry in value.items())
        return "{\n" + ",\n".join(entries) + "\n}"

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines(value, depth) + "\n", encoding="utf-8")


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Pseudorandom numbers in -0.5..0.5, exact in f32; norms around 1 (Gemma's around 0), biases small."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & np.uint64(0xFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    mixed ^= mixed >> np.uint64(13)
    return ((mixed >> np.uint64(8)).astype(np.float64) / 2**24 - 0.5).astype(np.float32).reshape(shape)


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors, as transformers has them."""
    out = {}
    kind = config["model_type"]
    if kind == "gpt2":
        n, v = config["n_embd"], config["vocab_size"]
        out |= {"transformer.wte.weight": (v, n), "transformer.wpe.weight": (config["n_positions"], n)}
        for i in range(config["n_layer"]):
            at = f"transformer.h.{i}."
            for norm in ["ln_1", "ln_2"]:
                out |= {f"{at}{norm}.weight": (n,), f"{at}{norm}.bias": (n,)}
            for name, (a, b) in {"attn.c_attn": (n, 3 * n), "attn.c_proj": (n, n), "mlp.c_fc": (n, 4 * n),
                                 "mlp.c_proj": (4 * n, n)}.items():
                out |= {f"{at}{name}.weight": (a, b), f"{at}{name}.bias": (b,)}
        return out | {"transformer.ln_f.weight": (n,), "transformer.ln_f.bias": (n,)}
    n, v, m = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    d = config.get("head_dim", n // config["num_attention_heads"])
    q, k = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    exaone = kind == "exaone"
    out["transformer.wte.weight" if exaone else "model.embed_tokens.weight"] = (v, n)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = (v, n)
    for i in range(config["num_layers" if exaone else "num_hidden_layers"]):
        at = f"transformer.h.{i}." if exaone else f"model.layers.{i}."
        attn = "attn.attention." if exaone else "self_attn."
        mlp = ["mlp.c_fc_0", "mlp.c_fc_1", "mlp.c_proj"] if exaone else ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
        matrices = {f"{attn}q_proj": (q, n), f"{attn}k_proj": (k, n), f"{attn}v_proj": (k, n),
                    attn + ("out_proj" if exaone else "o_proj"): (n, q), mlp[0]: (m, n), mlp[1]: (m, n), mlp[2]: (n, m)}
        out |= {f"{at}{name}.weight": shape for name, shape in matrices.items()}
        for name, shape in matrices.items():
            attention = "attn" in name
            if (attention and config.get("attention_bias")) or (not attention and config.get("mlp_bias")) or (
                    kind == "qwen2" and name[-6:] in ["q_proj", "k_proj", "v_proj"]):
                out[f"{at}{name}.bias"] = (shape[0],)
        norms = ["ln_1", "ln_2"] if exaone else ["input_layernorm", "post_attention_layernorm"]
        if kind == "gemma3_text":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        out |= {f"{at}{norm}.weight": (n,) for norm in norms}
        if kind in ["qwen3", "gemma3_text"]:
            out |= {f"{at}self_attn.{norm}.weight": (d,) for norm in ["q_norm", "k_norm"]}
    out["transformer.ln_f.weight" if exaone else "model.norm.weight"] = (n,)
    return out


def write_model(folder: Path, config: dict, dtype=np.float32) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    tensors = {name: weights(name, shape).astype(dtype) for name, shape in shapes(config).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def byte_level_tokenizer(pre) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<|pad|>", "<|begin|>", "<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(WORDS.splitlines(), trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 1)])
    return tokenizer


def sentence_piece_tokenizer() -> Tokenizer:
    """As transformers makes one of a SentencePiece model: every way of halving a token is a merge, in the order of scores."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(WORDS.splitlines(), trainers.BpeTrainer(vocab_size=90, show_progress=False))
    made = json.loads(trained.to_str())["model"]
    joined = [left + right for left, right in made["merges"]]
    characters = [token for token in made["vocab"] if token not in joined]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + joined + characters
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for token in joined:
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        halves = [(left, right) for left, right in halves if left in vocab and right in vocab]
        merges += sorted(halves, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["<unk>", "<s>", "</s>"]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def tokenizer_config(names: tuple[str, str, str]) -> dict:
    bos, eos, other = names
    return dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token=bos, eos_token=eos,
        **({"unk_token": other} if other == "<unk>" else {"pad_token": other}),
        clean_up_tokenization_spaces=False, model_max_length=64,
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")


def write_tokenizers() -> None:
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    for name, tokenizer, special in [
        ("byte-level", byte_level_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False)), ("<|begin|>", "<|end|>", "<|pad|>")),
        ("digits", byte_level_tokenizer(split), ("<|begin|>", "<|end|>", "<|pad|>")),
        ("sentence-piece", sentence_piece_tokenizer(), ("<s>", "</s>", "<unk>")),
    ]:
        folder = OUT / "tokenizers" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
        write_json(folder / "tokenizer_config.json", tokenizer_config(special))


def tokenizer_of(name: str) -> str:
    return {"exaone": "digits", "mistral": "sentence-piece"}.get(name, "byte-level")


def convert(folder: Path, out: Path, pre: str) -> None:
    """llama.cpp's own converter, told the pre-tokenizer: it knows those of published vocabularies by a hash alone."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/gguf-py']\n"
        "from conversion.base import TextModel\n"
        "TextModel.get_vocab_base_pre = lambda self, tokenizer, pre=sys.argv[2]: pre\n"
        "import convert_hf_to_gguf\n"
        "sys.argv = ['convert_hf_to_gguf.py', sys.argv[3], '--outtype', 'f32', '--outfile', sys.argv[4]]\n"
        "convert_hf_to_gguf.main()\n")
    subprocess.run([sys.executable, "-c", code, str(LLAMA_CPP), pre, str(folder), str(out)], check=True, capture_output=True)


def describe(path: Path) -> dict:
    """Metadata with types, and tensors with type, dimensions and CRC-32 of their bytes. Long lists as their CRC-32."""
    reader = gguf.GGUFReader(path)
    keys = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value = field.contents()
        kind = field.types[-1].name
        if isinstance(value, list):
            kind = f"{len(value)} {kind}"
            value = zlib.crc32(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) if kind.endswith("STRING") else \
                zlib.crc32(np.array(value, np.float32 if "FLOAT" in kind else np.int32).tobytes())
        keys[key] = [kind, value]
    tensors = {t.name: [t.tensor_type.name, [int(d) for d in t.shape], zlib.crc32(t.data.tobytes())] for t in reader.tensors}
    return {"metadata": keys, "tensors": dict(sorted(tensors.items()))}


def sentence_piece_gguf(path: Path) -> None:
    """A vocabulary alone, with the scores that SentencePiece gives: the converter has none to give without tokenizer.model."""
    model = json.loads((OUT / "tokenizers" / "sentence-piece" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = list(model["vocab"])
    joined = {left + right for left, right in model["merges"]}
    first = min(model["vocab"][token] for token in joined)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(first - i) if i >= first else 0.0 for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def tokenize(model: Path, text: str, *options: str) -> list[int]:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".txt") as file:
        file.write(text)
        file.flush()
        done = subprocess.run(
            [str(BIN / "llama-tokenize"), "-m", str(model), "-f", file.name, "--ids", "--no-escape", "--log-disable", *options],
            check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def mixes() -> None:
    """What llama-quantize chooses for each tensor, told from a file that has shapes and no data (--dry-run)."""
    shapes_of = {
        # 1B of Llama 3.2; 8 query heads share one of keys and values; 80 layers; a width that no super-block divides.
        "llama-3.2-1b": dict(layers=16, hidden=2048, inner=8192, heads=32, kv=8, head=64, tied=True),
        "llama-untied": dict(layers=32, hidden=512, inner=1024, heads=8, kv=8, head=64, tied=False),
        "llama-70b-like": dict(layers=80, hidden=512, inner=768, heads=8, kv=1, head=64, tied=False),
        "llama-narrow": dict(layers=9, hidden=288, inner=736, heads=8, kv=2, head=36, tied=True),
        "llama-odd": dict(layers=2, hidden=64, inner=172, heads=8, kv=4, head=8, tied=False),
    }
    kinds = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L",
             "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4_MOE"]
    golden = {}
    for name, s in shapes_of.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.gguf"
            sparse_model(path, s)
            entry = {"shape": s, "choices": {}}
            for kind in kinds:
                for importance in [False, True] if kind in ["Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS", "Q4_K_M", "Q2_K_S"] else [False]:
                    chosen = quantize_dry(path, kind, s, importance)
                    label = kind + ("+imatrix" if importance else "")
                    entry["choices"][label] = chosen
            golden[name] = entry
    write_json(OUT / "mixes.json", golden, 3)


def sparse_model(path: Path, s: dict) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(s["layers"])
    writer.add_context_length(64)
    writer.add_embedding_length(s["hidden"])
    writer.add_feed_forward_length(s["inner"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv"])
    writer.add_key_length(s["head"])
    writer.add_value_length(s["head"])
    writer.add_rope_dimension_count(s["head"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(256)
    writer.add_tokenizer_model("none")
    n, m, q, k = s["hidden"], s["inner"], s["heads"] * s["head"], s["kv"] * s["head"]
    tensors = {"token_embd": (256, n)} | ({} if s["tied"] else {"output": (256, n)})
    for i in range(s["layers"]):
        tensors |= {f"blk.{i}.{name}": shape for name, shape in {
            "attn_q": (q, n), "attn_k": (k, n), "attn_v": (k, n), "attn_output": (n, q), "ffn_gate": (m, n),
            "ffn_up": (m, n), "ffn_down": (n, m), "attn_norm": (n,), "ffn_norm": (n,)}.items()}
    tensors["output_norm"] = (n,)
    for name, shape in tensors.items():
        writer.add_tensor_info(f"{name}.weight", shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    size = sum(-(-int(np.prod(shape)) * 4 // 32) * 32 for shape in tensors.values())
    with open(path, "r+b") as file:
        end = -(-path.stat().st_size // 32) * 32
        file.truncate(end + size)


def quantize_dry(path: Path, kind: str, s: dict, importance: bool) -> dict[str, str]:
    """Types of each module, layer after layer: "q6_k*2 q4_k*14"."""
    command = [str(BIN / "llama-quantize"), "--dry-run"]
    if importance:
        # Any importance: only its being there matters.
        matrix = path.with_name("imatrix.gguf")
        if not matrix.exists():
            writer = gguf.GGUFWriter(matrix, "")
            writer.add_type("imatrix")
            writer.add_array("imatrix.datasets", ["none"])
            writer.add_uint32("imatrix.chunk_count", 1)
            writer.add_uint32("imatrix.chunk_size", 1)
            for i in range(s["layers"]):
                widths = {"attn_output": s["heads"] * s["head"], "ffn_down": s["inner"]}
                for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
                    width = widths.get(name, s["hidden"])
                    writer.add_tensor(f"blk.{i}.{name}.weight.in_sum2", np.ones((1, width), np.float32))
                    writer.add_tensor(f"blk.{i}.{name}.weight.counts", np.ones((1, 1), np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        command += ["--imatrix", str(matrix)]
    done = subprocess.run([*command, str(path), kind, "1"], capture_output=True, text=True)
    text = done.stdout + done.stderr
    rows = {}
    for line in text.splitlines():
        if "size = " not in line or "[" not in line:
            continue
        name = next((word.rstrip(",-") for word in line.split() if word.endswith(("weight", "weight,", "weight-"))), None)
        if name is None or "_norm" in name:
            continue
        source = line.split("type =")[1].split(",")[0].strip()
        target = line.split("->")[1].split("(")[1].split(")")[0] if "->" in line else source
        part = name.split(".")
        rows.setdefault(part[2] if part[0] == "blk" else part[0], []).append(target.lower())
    if not rows:
        raise RuntimeError(f"nothing understood in: {text[-2000:]}")
    return {module: run_lengths(kinds) for module, kinds in sorted(rows.items())}


def run_lengths(kinds: list[str]) -> str:
    return " ".join(f"{kind}*{len(list(run))}" for kind, run in itertools.groupby(kinds))


def main() -> None:
    write_tokenizers()
    text = (OUT / "text.txt").read_text(encoding="utf-8")
    tokens = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, config in CONFIGS.items():
            folder = Path(temp) / name
            write_model(folder, config)
            write_json(OUT / name / "config.json", config)
            kind = tokenizer_of(name)
            for file in (OUT / "tokenizers" / kind).iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            path = Path(temp) / f"{name}.gguf"
            convert(folder, path, "exaone" if name == "exaone" else "gpt-2")
            write_json(OUT / name / "converted.json", describe(path), 2)
            if kind != "sentence-piece":
                tokens[kind] = tokenize(path, text)
        path = Path(temp) / "sentence-piece.gguf"
        sentence_piece_gguf(path)
        tokens["sentence-piece"] = tokenize(path, text)
        if MODELS:
            for name in ["stories260K", "llama-4m"]:
                path = Path(temp) / f"{name}.gguf"
                convert(MODELS / name, path, "gpt-2")
                write_json(OUT / "shared" / f"{name}.json", describe(path), 2)
                tokens[name] = tokenize(path, text)
    write_json(OUT / "tokens.json", tokens)
    mixes()


if __name__ == "__main__":
    main()
