//! The product of some tiles with a panel of activations.

use core::{marker::PhantomData, ops::Range};

use super::{
    codes::Codes,
    layout::{Layout, TILE_ROWS},
    line::Line,
    panel::{ActBlock, Panel, Tokens},
    simd::IntSimd,
    strips::{GROUP, Strip},
};
use crate::{level::Kernel, output::Columns};

/// Lines from those that are multiplied to those that are asked for: as many as a core with AVX2 waits for at a time (24 on a Zen 3).
const AHEAD: usize = 24;

/// A way of storing scales and offsets.
pub(crate) trait Form: Sync + 'static {
    /// Adds the products of a tile's rows with each token to `total`.
    fn tile<S: IntSimd, C: Codes, const T: usize>(
        simd: S,
        layout: &Layout,
        tile: &[Line],
        x: Tokens<'_, T>,
        total: [S::Floats; T],
    ) -> [S::Floats; T];
}

/// The product of a group of tiles with a panel.
pub(crate) struct Product<'a, F, C> {
    pub(crate) strips: &'a [Strip],
    /// Of the group.
    pub(crate) lines: &'a [Line],
    pub(crate) panel: &'a Panel,
    pub(crate) out: &'a Columns<'a>,
    /// Of the group.
    pub(crate) rows: Range<usize>,
    pub(crate) grid: PhantomData<fn() -> (F, C)>,
}

impl<F: Form, C: Codes> Kernel for Product<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: IntSimd>(self, simd: S) {
        match self.panel.n_tokens() {
            1 => self.tokens::<S, 1>(simd),
            2 if S::TOKENS >= 2 => self.tokens::<S, 2>(simd),
            4 if S::TOKENS >= 4 => self.tokens::<S, 4>(simd),
            8 if S::TOKENS >= 8 => self.tokens::<S, 8>(simd),
            12 if S::TOKENS >= 12 => self.tokens::<S, 12>(simd),
            n => unreachable!("no panels of {n} tokens are made for this level"),
        }
    }
}

impl<F: Form, C: Codes> Product<'_, F, C> {
    #[inline(always)]
    fn tokens<S: IntSimd, const T: usize>(&self, simd: S) {
        let x = self.panel.tokens::<T>();
        let n_tiles = self.rows.len().div_ceil(TILE_ROWS);
        let mut totals = [[simd.splat(0.0); T]; GROUP];
        let n_strips = self.strips.len();
        for step in 0..n_tiles * n_strips {
            // Few tokens: as they lie in memory. Many: the group is near but for the first panel, and its tiles are taken one by one.
            let (strip, tile) = match T {
                1 | 2 => (step / n_tiles, step % n_tiles),
                _ => (step % n_strips, step / n_strips),
            };
            let Strip { layout, first_block, .. } = &self.strips[strip];
            let lines = &self.lines[self.strips[strip].tile(tile, n_tiles)];
            let x = x.starting_at(layout, *first_block);
            totals[tile] = F::tile::<S, C, T>(simd, layout, lines, x, totals[tile]);
        }
        for (tile, totals) in totals[..n_tiles].iter().enumerate() {
            let first = self.rows.start + tile * TILE_ROWS;
            let rows = first..(first + TILE_ROWS).min(self.rows.end);
            for t in 0..T {
                // SAFETY: the caller shares out groups of tiles, which are disjoint columns of `out`, and this task holds one part at a time.
                let out = unsafe { self.out.part(self.panel.first_token() + t, rows.clone()) };
                match out.first_chunk_mut() {
                    Some(out) => simd.store(totals[t], out),
                    None => {
                        let mut lanes = [0.0; TILE_ROWS];
                        simd.store(totals[t], &mut lanes);
                        out.copy_from_slice(&lanes[..out.len()]);
                    }
                }
            }
        }
    }
}

/// The growing sums of the products with `T` tokens: of few tokens two each, so that an addition need not wait for the one before.
pub(crate) struct Sums<S: IntSimd, const T: usize> {
    even: [S::Sums; T],
    odd: [S::Sums; T],
}

impl<S: IntSimd, const T: usize> Sums<S, T> {
    const TWO: bool = T <= 2;

    #[inline(always)]
    pub(crate) fn zero(simd: S) -> Self {
        let zero = [simd.begin(simd.splat_int(0)); T];
        Self { even: zero, odd: zero }
    }

    /// Begins the sum of a token.
    #[inline(always)]
    pub(crate) fn begin(&mut self, simd: S, token: usize, start: S::Ints) {
        simd.begin_token(&mut self.even, token, start);
    }

    /// The sum of a token.
    #[inline(always)]
    pub(crate) fn end(&self, simd: S, token: usize) -> S::Floats {
        let even = simd.end_token(&self.even, token);
        let sum = match Self::TWO {
            true => simd.add_ints(even, simd.end_token(&self.odd, token)),
            false => even,
        };
        simd.to_floats(sum)
    }

    /// Adds the products of a block.
    #[inline(always)]
    pub(crate) fn add_block<C: Codes>(&mut self, simd: S, codes: &[Line], x: &[ActBlock; T]) {
        self.add_half::<C>(simd, codes, x, 0);
        self.add_half::<C>(simd, codes, x, 1);
    }

    /// Adds the products of one half of a block, four steps.
    #[inline(always)]
    pub(crate) fn add_half<C: Codes>(
        &mut self,
        simd: S,
        codes: &[Line],
        x: &[ActBlock; T],
        half: usize,
    ) {
        let codes = &codes[..C::LINES];
        if Self::TWO {
            for line in C::LINES * half / 2..C::LINES * (half + 1) / 2 {
                simd.prefetch(codes.as_ptr().wrapping_add(line + AHEAD));
            }
        }
        let mut quads = [simd.quad(quad(&x[0], half)); T];
        for t in 0..T {
            quads[t] = simd.quad(quad(&x[t], half));
        }
        let sums = if Self::TWO && half == 1 { &mut self.odd } else { &mut self.even };
        simd.dot_half::<C, T>(sums, codes, half, quads);
    }
}

/// Four words of a block.
#[inline(always)]
fn quad(block: &ActBlock, half: usize) -> &[i32; 4] {
    &block.0.as_chunks().0[half]
}
