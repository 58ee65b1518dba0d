//! A thin reference runtime for language models, with taps on every linear layer
