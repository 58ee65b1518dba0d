//! Random numbers that are the same on every machine.

/// 64 bits that look random, of a seed and a place (SplitMix64; Steele, Lea and Flood, 2014).
pub(crate) fn bits(seed: u64, place: u64) -> u64 {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Uniform in `0..n`.
pub(crate) fn below(seed: u64, place: u64, n: usize) -> usize {
    ((u128::from(bits(seed, place)) * n as u128) >> 64) as usize
}

/// Uniform in 0..1.
pub(crate) fn unit(seed: u64, place: u64) -> f64 {
    (bits(seed, place) >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal (Box and Muller, 1958).
pub(crate) fn normal(seed: u64, place: u64) -> f64 {
    let (u, v) = (1.0 - unit(seed, 2 * place), unit(seed, 2 * place + 1));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
