//! Orthogonal matrices of signs, times random signs: what spreads outliers evenly and multiplies fast.

/// An orthogonal matrix `Q = diag(signs) · H / √n` of order `n`, `H` of entries ±1.
///
/// `H` is the Kronecker product of Sylvester's matrix (orders 2^k) with Paley's first (orders q + 1, `q` a prime of the form 4i + 3): together they cover the
/// widths of published models. Where neither fits, `H` is block diagonal, with blocks as wide as the largest power of two that divides `n`.
#[derive(Clone, Debug)]
pub(crate) struct Hadamard {
    signs: Vec<f64>,
    /// 2^k.
    power: usize,
    /// Rows of Paley's matrix; `[[1]]` if there is none.
    core: Vec<Vec<f64>>,
}

/// Paley's matrix is multiplied densely: beyond this order that would cost more than it is worth.
const LARGEST_CORE: usize = 256;

impl Hadamard {
    pub(crate) fn new(n: usize, seed: u64) -> Self {
        let signs = (0..n as u64).map(|i| if mix(seed, i) & 1 == 0 { 1.0 } else { -1.0 });
        let largest = 1 << n.trailing_zeros();
        let cores =
            (1..=LARGEST_CORE).filter(|&m| n.is_multiple_of(m) && (n / m).is_power_of_two());
        let core = { cores }.find(|&m| m == 1 || is_paley(m));
        let (power, core) = match core {
            Some(m) => (n / m, m),
            None => (largest, 1),
        };
        Self { signs: signs.collect(), power, core: paley(core) }
    }

    /// `x · Q`, in place; `x` is of order `n`.
    pub(crate) fn apply(&self, x: &mut [f64]) {
        for (x, sign) in x.iter_mut().zip(&self.signs) {
            *x *= sign;
        }
        let m = self.core.len();
        let block = self.power * m;
        let scale = 1.0 / (block as f64).sqrt();
        let mut part = vec![0.0; m];
        for x in x.chunks_exact_mut(block) {
            if m > 1 {
                for x in x.chunks_exact_mut(m) {
                    part.fill(0.0);
                    for (x, row) in x.iter().zip(&self.core) {
                        part.iter_mut().zip(row).for_each(|(sum, h)| *sum += x * h);
                    }
                    x.copy_from_slice(&part);
                }
            }
            let mut half = m;
            while half < block {
                for pair in x.chunks_exact_mut(2 * half) {
                    let (a, b) = pair.split_at_mut(half);
                    for (a, b) in a.iter_mut().zip(b) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
            x.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// Whether `m − 1` is a prime of the form 4i + 3.
fn is_paley(m: usize) -> bool {
    let q = m - 1;
    q % 4 == 3 && (2..q).take_while(|d| d * d <= q).all(|d| !q.is_multiple_of(d))
}

/// Paley's first matrix of order `m`: `I + S`, with the quadratic characters of differences in `S`.
fn paley(m: usize) -> Vec<Vec<f64>> {
    if m == 1 {
        return vec![vec![1.0]];
    }
    let q = m - 1;
    let mut character = vec![-1.0; q];
    character[0] = 0.0;
    (1..q).for_each(|i| character[i * i % q] = 1.0);
    let entry = |i: usize, j: usize| match (i, j) {
        _ if i == j => 1.0,
        (0, _) => 1.0,
        (_, 0) => -1.0,
        _ => character[(i + q - j) % q],
    };
    (0..m).map(|i| (0..m).map(|j| entry(i, j)).collect()).collect()
}

/// Well mixed bits of a number (splitmix64).
fn mix(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_orthonormal_and_spread_evenly() {
        // 640 = 32·20, 1152 = 16·72, 896 = 4·224, 36 = 9·4 in blocks of 4.
        for n in [1, 2, 4, 12, 20, 36, 64, 128, 288, 640, 896, 1152] {
            let q = Hadamard::new(n, 7);
            let row = |i: usize| {
                let mut x = vec![0.0; n];
                x[i] = 1.0;
                q.apply(&mut x);
                x
            };
            let rows: Vec<_> = (0..n).map(row).collect();
            let size = 1.0 / (q.power as f64 * q.core.len() as f64).sqrt();
            for i in 0..n {
                assert!(rows[i].iter().all(|x| *x == 0.0 || (x.abs() - size).abs() < 1e-12));
                for j in (0..i).step_by(1 + n / 64) {
                    let dot: f64 = rows[i].iter().zip(&rows[j]).map(|(a, b)| a * b).sum();
                    assert!(dot.abs() < 1e-12, "order {n}: rows {i} and {j}");
                }
            }
            if n != 36 {
                assert_eq!(q.power * q.core.len(), n, "order {n} in one block");
            }
        }
    }

    #[test]
    fn seeds_differ() {
        let signs = |seed| Hadamard::new(64, seed).signs;
        assert!(signs(1) != signs(2) && signs(1) == signs(1));
        let negative = signs(1).iter().filter(|s| **s < 0.0).count();
        assert!((16..48).contains(&negative));
    }
}
