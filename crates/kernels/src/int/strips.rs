//! Groups of tiles, in strips that the nearest cache holds beside their activations.
//!
//! [`GROUP`] tiles lie together: the first strip of columns of each, then the second strip of each, and so on. A product with one token reads them from first to last, and the
//! activations of a strip once for each tile; between two tiles, as many bytes pass through the nearest cache as a tile has in the strip. If those are 64 KiB, as of 8,192 columns at
//! 4 bits that are not divided, they push the activations out, and the product reads at two thirds of the speed of plain loads where it reads at nine tenths in strips.

use alloc::vec::Vec;
use core::ops::Range;

use super::{
    layout::{BLOCK, Layout},
    line::Line,
};

/// Tiles that lie together.
pub(crate) const GROUP: usize = 4;

/// Bytes of a tile in a strip, about: a nearest cache of 32 KiB holds them beside the activations.
const STRIP_BYTES: usize = 20 << 10;

/// Some columns of a matrix.
#[derive(Clone, Debug)]
pub(crate) struct Strip {
    /// Of a tile of these columns.
    pub(crate) layout: Layout,
    /// The first block of a row that lies here.
    pub(crate) first_block: usize,
    /// Lines of a tile in the strips before.
    lines_before: usize,
}

impl Strip {
    /// The strips of a matrix with rows of this layout, the same number of columns in all but the last.
    pub(crate) fn split(rows: &Layout) -> Vec<Self> {
        let n_strips = (rows.tile_lines() * Line::BYTES).div_ceil(STRIP_BYTES).max(1);
        let whole = if rows.one_group() { rows.act_blocks } else { rows.chunk_blocks };
        let most = rows.n_blocks.div_ceil(n_strips).next_multiple_of(whole).max(1);
        let mut lines_before = 0;
        let strips = (0..rows.n_blocks).step_by(most).map(|first_block| {
            let layout = rows.part(most.min(rows.n_blocks - first_block));
            let strip = Self { layout, first_block, lines_before };
            lines_before += strip.layout.tile_lines();
            strip
        });
        strips.collect()
    }

    /// Stored columns.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.first_block * BLOCK..(self.first_block + self.layout.n_blocks) * BLOCK
    }

    /// Lines of a tile of a group of `n_tiles`, among those of the group.
    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize, n_tiles: usize) -> Range<usize> {
        let n = self.layout.tile_lines();
        let start = self.lines_before * n_tiles + tile * n;
        start..start + n
    }
}
