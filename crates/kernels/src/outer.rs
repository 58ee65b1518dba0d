//! Sums of outer products of f32 vectors, of which covariances and the Hessians of layers are made.

use crate::{
    int::simd::IntSimd,
    level::{Kernel, Level},
    simd::{LANES, Lanes, Simd},
};

/// `sums[i][lane] += Σ_k a[k][i] · b[k][lane]`, the sum over all `k` in f32, in registers, as one chain of fused multiply-adds in order; only its result is
/// added in f64. Where `a` and `b` differ in length the shorter one counts, and of `sums` those that are there.
///
/// Worth a call for a hundred steps and more. `N` is best as large as the registers allow: 12 where
/// [`Level::f32_lanes`] is 16, else 6.
pub fn add_outer_products<const N: usize>(
    level: Level,
    a: &[[f32; N]],
    b: &[Lanes],
    sums: &mut [[f64; LANES]],
) {
    let steps = a.len().min(b.len());
    level.dispatch(Tile { a: &a[..steps], b: &b[..steps], sums });
}

struct Tile<'a, const N: usize> {
    a: &'a [[f32; N]],
    b: &'a [Lanes],
    sums: &'a mut [[f64; LANES]],
}

impl<const N: usize> Kernel for Tile<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: IntSimd>(self, simd: S) {
        /// Steps between two jumps: a core that shares its decoder with another thread has no slots to spare.
        const UNROLLED: usize = 4;
        let mut products = [simd.splat(0.0); N];
        let (a, last_a) = self.a.as_chunks::<UNROLLED>();
        let (b, last_b) = self.b.as_chunks::<UNROLLED>();
        for (a, b) in a.iter().zip(b) {
            for (a, b) in a.iter().zip(b) {
                step(simd, a, b, &mut products);
            }
        }
        for (a, b) in last_a.iter().zip(last_b) {
            step(simd, a, b, &mut products);
        }
        let mut lanes = Lanes::ZERO;
        for (sums, products) in self.sums.iter_mut().zip(products) {
            simd.store(products, &mut lanes.0);
            for (sum, product) in sums.iter_mut().zip(lanes.0) {
                *sum += f64::from(product);
            }
        }
    }
}

#[inline(always)]
fn step<S: Simd, const N: usize>(simd: S, a: &[f32; N], b: &Lanes, products: &mut [S::Floats; N]) {
    let b = simd.load(&b.0);
    for (a, product) in a.iter().zip(products) {
        *product = simd.fused(simd.splat(*a), b, *product);
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::*;

    /// Numbers of unequal size and sign, none of which is exact in a product.
    fn numbers<const N: usize>(k: usize, seed: usize) -> [f32; N] {
        core::array::from_fn(|i| {
            let x = (k * 7919 + i * 104_729 + seed) % 1009;
            (x as f32 - 504.0) / 97.0
        })
    }

    fn check<const N: usize>(steps: usize, rows: usize) {
        let a: Vec<[f32; N]> = (0..steps).map(|k| numbers(k, 3)).collect();
        let b: Vec<Lanes> = (0..steps).map(|k| crate::Aligned(numbers(k, 11))).collect();
        let before: Vec<[f64; LANES]> =
            (0..rows).map(|i| numbers(i, 5).map(|x| 1e6 * f64::from(x))).collect();
        let mut expected = before.clone();
        for (i, row) in expected.iter_mut().enumerate() {
            for (lane, sum) in row.iter_mut().enumerate() {
                let chain = |s: f32, (a, b): (&[f32; N], &Lanes)| a[i].mul_add(b.0[lane], s);
                *sum += f64::from(a.iter().zip(&b).fold(0.0, chain));
            }
        }
        for level in Level::available() {
            let mut sums = before.clone();
            add_outer_products(level, &a, &b, &mut sums);
            assert_eq!(sums, expected, "{level}, {steps} steps, {rows} of {N}");
        }
    }

    #[test]
    fn sums_are_chains_of_fused_products_at_every_level() {
        for steps in [0, 1, 3, 4, 5, 8, 257] {
            check::<6>(steps, 6);
            check::<12>(steps, 12);
        }
        // The last panel of a matrix has fewer rows, and none at all has nothing to do.
        check::<6>(9, 4);
        check::<12>(9, 1);
        check::<1>(9, 0);
    }

    #[test]
    fn the_shorter_factor_counts() {
        let a = vec![[1.0; 2]; 5];
        let b = vec![crate::Aligned([2.0; LANES]); 3];
        for level in Level::available() {
            let mut sums = [[0.5; LANES]; 2];
            add_outer_products(level, &a, &b, &mut sums);
            assert_eq!(sums, [[6.5; LANES]; 2], "{level}");
        }
    }
}
