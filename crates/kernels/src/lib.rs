//! Matrix products of few-bit and float matrices, at the level that the CPU has
