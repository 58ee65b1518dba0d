//! Activations as signed bytes, in the order in which the products read them.
//!
//! A *panel* is a few tokens. Each activation block of a token has a scale, by default its largest magnitude / 127, and the activations are the nearest multiples of
//! it.
//! Blocks of the panel's tokens lie beside each other, so that a product finds all it needs of 32 columns at constant distances.

use alloc::vec::Vec;

use super::{
    layout::{BLOCK, Layout},
    simd::IntSimd,
};
use crate::level::Kernel;

/// Columns of a vector.
const HALF: usize = BLOCK / 2;

/// The least magnitude that scales are made from: the reciprocal of less would overflow. Weights that differ by as little as this lets activations differ
/// could not be told from zero.
const LEAST: f32 = 1e-30;

/// Thirty-two activations of a token, four a word, the first lowest.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(crate) struct ActBlock(pub(crate) [i32; BLOCK / 4]);

/// The quantized activations of a few tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panel {
    first_token: usize,
    n_tokens: usize,
    /// (blocks, tokens).
    blocks: Vec<ActBlock>,
    /// (activation blocks, tokens).
    scales: Vec<f32>,
    /// (parts, tokens): the sum of a part's activations, times [`Layout::start_factor`]; on grids with minima the bits of that sum as a float.
    starts: Vec<i32>,
}

/// A panel of a number of tokens that the compiler knows.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a, const T: usize> {
    pub(crate) blocks: &'a [[ActBlock; T]],
    pub(crate) scales: &'a [[f32; T]],
    pub(crate) starts: &'a [[i32; T]],
}

impl<const T: usize> Tokens<'_, T> {
    /// Those from a block on, the first of an activation block.
    #[inline(always)]
    pub(crate) fn starting_at(self, layout: &Layout, block: usize) -> Self {
        Self {
            blocks: &self.blocks[block..],
            scales: &self.scales[block / layout.act_blocks..],
            starts: &self.starts[block * BLOCK / layout.part_columns()..],
        }
    }
}

impl Panel {
    /// Says which tokens the panel is for.
    pub(crate) fn place(&mut self, first_token: usize, n_tokens: usize) {
        (self.first_token, self.n_tokens) = (first_token, n_tokens);
    }

    pub(crate) fn first_token(&self) -> usize {
        self.first_token
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The panel, of `T` tokens.
    #[inline(always)]
    pub(crate) fn tokens<const T: usize>(&self) -> Tokens<'_, T> {
        assert_eq!(self.n_tokens, T, "a panel has the tokens that it was made for");
        Tokens {
            blocks: self.blocks.as_chunks().0,
            scales: self.scales.as_chunks().0,
            starts: self.starts.as_chunks().0,
        }
    }
}

/// Where the scales of quantized activations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ActivationScales {
    /// The largest magnitude / 127 of each block of [`activation_block`](super::IntMatrix::activation_block) columns: the most exact.
    #[default]
    PerBlock,
    /// The largest magnitude / 127 of each token, as in files whose activations are quantized dynamically, token by token.
    PerToken,
    /// One scale for all, from calibration; a positive number. Activations beyond 127 times the scale are cut off there.
    Static(f32),
}

/// Quantizes the activations of a panel's tokens, `x (n_tokens, in_features)`.
pub(crate) struct Quantize<'a> {
    pub(crate) panel: &'a mut Panel,
    pub(crate) layout: &'a Layout,
    /// For each stored column the column of the matrix, or a number past the last.
    pub(crate) gather: Option<&'a [u32]>,
    pub(crate) x: &'a [f32],
    /// What [`Layout::start_factor`] gave.
    pub(crate) factor: i32,
    pub(crate) scales: ActivationScales,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: IntSimd>(self, simd: S) {
        let Self { panel, layout, gather, x, factor, scales } = self;
        let n_tokens = panel.n_tokens;
        let act_columns = layout.act_columns();
        let (n_acts, part_halves) = (layout.n_acts(), layout.part_columns() / HALF);
        panel.blocks.resize(layout.n_blocks * n_tokens, ActBlock([0; 8]));
        panel.scales.resize(n_acts * n_tokens, 0.0);
        panel.starts.resize(2 * layout.n_blocks / part_halves * n_tokens, 0);
        let has_minima = layout.has_minima();

        let in_features = x.len() / n_tokens;
        let (mut gathered, mut cut) = ([0.0; 8 * BLOCK], [0.0; 8 * BLOCK]);
        for (token, x) in x.chunks_exact(in_features).enumerate() {
            let (mut next_half, mut next_start) = (0, token);
            let of_token = match scales {
                ActivationScales::PerToken => Some(largest(simd, x)),
                _ => None,
            };
            for act in 0..n_acts {
                let columns = act * act_columns..(act + 1) * act_columns;
                let values = match (gather, x.get(columns.clone())) {
                    (None, Some(values)) => values,
                    _ => {
                        let values = &mut gathered[..act_columns];
                        for (value, column) in values.iter_mut().zip(columns) {
                            let column = gather.map_or(column, |gather| gather[column] as usize);
                            *value = x.get(column).copied().unwrap_or(0.0);
                        }
                        values
                    }
                };
                let most = match of_token {
                    Some(most) => most,
                    None => largest(simd, values),
                };
                let (scale, inverse, values) = match scales {
                    ActivationScales::Static(scale) if !most.is_nan() => {
                        let cut = &mut cut[..act_columns];
                        for (cut, x) in cut.iter_mut().zip(values) {
                            *cut = x.clamp(-127.0 * scale, 127.0 * scale);
                        }
                        (scale, 1.0 / scale, &*cut)
                    }
                    _ => (most / 127.0, 127.0 / most, values),
                };
                panel.scales[act * n_tokens + token] = scale;
                let inverse = simd.splat(inverse);
                let (mut values, _) = values.as_chunks::<HALF>();
                while let Some((part, rest)) = values.split_at_checked(part_halves)
                    && !part.is_empty()
                {
                    let mut sum = simd.splat_int(0);
                    for values in part {
                        let block = &mut panel.blocks[next_half / 2 * n_tokens + token].0;
                        let to = &mut block.as_chunks_mut().0[next_half % 2];
                        let codes = quantize(simd, values, inverse);
                        simd.store_bytes(codes, to);
                        sum = simd.add_ints(sum, codes);
                        next_half += 1;
                    }
                    let sum = simd.sum_ints(sum).wrapping_mul(factor);
                    panel.starts[next_start] =
                        if has_minima { (sum as f32).to_bits() as i32 } else { sum };
                    next_start += n_tokens;
                    values = rest;
                }
            }
        }
    }
}

/// The largest magnitude, at least [`LEAST`]; NaN if there is a NaN or an infinity.
#[inline(always)]
fn largest<S: IntSimd>(simd: S, x: &[f32]) -> f32 {
    let mut most = simd.splat_int(LEAST.to_bits() as i32);
    let (x, rest) = x.as_chunks();
    for x in x {
        most = simd.max_ints(most, simd.magnitudes(simd.load(x)));
    }
    if !rest.is_empty() {
        let mut last = [0.0; HALF];
        last[..rest.len()].copy_from_slice(rest);
        most = simd.max_ints(most, simd.magnitudes(simd.load(&last)));
    }
    let most = f32::from_bits(simd.largest(most) as u32);
    if most.is_finite() { most } else { f32::NAN }
}

/// The integers nearest to `x · inverse`, ties to even, of magnitudes below 2^22. NaN becomes something.
#[inline(always)]
fn quantize<S: IntSimd>(simd: S, x: &[f32; HALF], inverse: S::Floats) -> S::Ints {
    /// Added to a small float, leaves its nearest integer in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let product = simd.mul(simd.load(x), inverse);
    let bits = simd.bits(simd.add(product, simd.splat(ROUND)));
    simd.add_ints(bits, simd.splat_int(-(ROUND.to_bits() as i32)))
}
