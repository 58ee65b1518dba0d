//! Model files: safetensors, Hugging Face folders, quantized containers, streaming writers
