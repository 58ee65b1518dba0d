//! Codes as bytes, nibbles and 32-bit words.
