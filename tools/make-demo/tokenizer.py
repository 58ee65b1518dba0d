"""Train the byte-level BPE tokenizer of the demo model.

    tokenizer.py TEXT OUT_DIR

writes tokenizer.json and tokenizer_config.json. 1024 entries: the end-of-text token (id 0), the 256 bytes,
and merges. Any text encodes; encoding with special tokens puts the end-of-text token in front, as Llama does.

The words that a story comes back to are counted some thousand times more than they occur, so that each is one
token: a small model learns to copy a token long before it learns to copy a word in pieces.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from words import NAMES, REMEMBERED, words

END = "<|endoftext|>"
SEPARATOR = f"\n{END}\n"
VOCABULARY = 1024
# Characters of text to train on, and how often a remembered word is added to them.
ENOUGH = 12_000_000
EXTRA = 3000


def main(text_path: str, out_dir: str) -> None:
    stories = Path(text_path).read_text()[:ENOUGH].split(SEPARATOR)
    # Names also begin paragraphs and quotations, where no space goes before them.
    extra = ([f" {word}" for word in words(REMEMBERED)] + words(NAMES)) * EXTRA
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        # The line breaks around the token on its own line belong to it.
        special_tokens=[AddedToken(END, lstrip=True, rstrip=True, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories + extra, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, 0)]
    )
    assert tokenizer.get_vocab_size() == VOCABULARY and tokenizer.token_to_id(END) == 0
    assert all(tokenizer.token_to_id(f"Ġ{word}") for word in words(REMEMBERED)), "a remembered word is not one token"
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": END,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
