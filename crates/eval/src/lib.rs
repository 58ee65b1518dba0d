//! Perplexity, KL divergence, agreement, throughput and memory of anything that gives logits
