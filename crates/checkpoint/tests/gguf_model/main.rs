//! Hugging Face models as GGUF files and back, against what llama.cpp's own tools make of the same models.
//!
//! Goldens: `tools/goldens/gguf_model.py`. Weights are a function of name and index, so that only checksums are stored.

mod blocks;
mod converter;
mod fixture;
mod mixes;
mod reading;
mod refusals;
mod vocabularies;
