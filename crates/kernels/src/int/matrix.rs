//! A quantized matrix prepared for integer products.

use alloc::vec::Vec;
use core::marker::PhantomData;

use fewbit_format::{BlockView, MatrixShape, QuantMatrix, Scheme};

use super::{
    blocks,
    codes::{CodeKind, Codes, E2m1, Iq4, Looked, Plain},
    flat::{Centre, Flat, Minimum, ZeroPoint},
    kernel::{Form, Product},
    layout::{BLOCK, Form as FormKind, Layout, Offset as OffsetKind, SuperKind, TILE_ROWS},
    line::Line,
    lines::Lines,
    panel::{ActivationScales, Panel, Quantize},
    prepare,
    simd::IntSimd,
    strips::{GROUP, Strip},
    supers::{Minima, Nibbles, Signed, Super},
};
use crate::{
    Level,
    level::Kernel,
    output::Columns,
    parallel::{PARALLEL_WORK, for_each_chunk, for_each_index},
};

/// A quantized matrix prepared once for products with activations that are quantized on the way to signed bytes.
///
/// Sums of products are exact integers as far as a weight's scale and an activation's scale reach; floats are added in the same order at every level and with
/// any number of threads. What is lost is what the activations lose: each is replaced by the nearest multiple (ties to even) of the largest magnitude
/// / 127 of its block of [`activation_block`](Self::activation_block) columns. A block with a NaN or an infinity makes all of its token's outputs NaN; magnitudes
/// below 10⁻³⁰ may be taken for 0.
///
/// It takes the bytes that the weights take in a file, and up to 5 % more where GGML packs scales into fewer bits than bytes; rows are padded to 16, groups of columns to
/// 32.
#[derive(Clone, Debug)]
pub struct IntMatrix {
    shape: MatrixShape,
    /// Of whole rows, as activations are quantized.
    layout: Layout,
    strips: Vec<Strip>,
    /// In all strips.
    tile_lines: usize,
    /// (groups, strips, tiles, lines of a tile in a strip).
    lines: Lines,
    /// Column of each stored column, or a number past the last, where they differ.
    gather: Option<Vec<u32>>,
}

/// Memory that products use, to be kept from one to the next.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    panels: Vec<Panel>,
    /// Activations without outliers.
    pub(super) inliers: Vec<f32>,
}

/// Tokens that are quantized at a time.
const TOKENS: usize = 512;
/// Bytes of weights that a task reads in products with few tokens.
const TASK_BYTES: usize = 1 << 16;

impl IntMatrix {
    /// Whether matrices of this grid have integer products. A group map that spreads the columns of a matrix unevenly can still make them impractical.
    pub fn supports(scheme: &Scheme) -> bool {
        match scheme {
            Scheme::Int(scheme) => prepare::supports(scheme),
            Scheme::Block(block_type) => blocks::kind(*block_type).is_some(),
            _ => false,
        }
    }

    /// Rearranges a matrix on an integer grid. `None` if groups are so small that padding each to 32 columns would take a quarter more memory.
    pub fn from_quant(matrix: &QuantMatrix) -> Option<Self> {
        prepare::from_quant(matrix)
    }

    /// Rearranges a matrix of GGML blocks. `None` for types without integer products: see [`supports`](Self::supports).
    pub fn from_blocks(matrix: BlockView<'_>) -> Option<Self> {
        prepare::from_blocks(matrix)
    }

    /// A matrix whose tiles `fill` writes, strip by strip, given the index of each tile and its lines of zeros.
    pub(super) fn build(
        shape: MatrixShape,
        layout: Layout,
        gather: Option<Vec<u32>>,
        fill: impl Fn(&Strip, usize, &mut [Line]) + Sync,
    ) -> Self {
        let strips = Strip::split(&layout);
        let tile_lines = strips.iter().map(|strip| strip.layout.tile_lines()).sum::<usize>();
        let mut lines = Lines::zeros(shape.out_features.div_ceil(TILE_ROWS) * tile_lines);
        for_each_chunk(&mut lines, (GROUP * tile_lines).max(1), true, |group, lines| {
            let n_tiles = lines.len() / tile_lines;
            for strip in &strips {
                for tile in 0..n_tiles {
                    fill(strip, group * GROUP + tile, &mut lines[strip.tile(tile, n_tiles)]);
                }
            }
        });
        Self { shape, layout, strips, tile_lines, lines, gather }
    }

    /// All that a product reads of the weights.
    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Columns that share an activation scale. With a group map, columns in the order of their groups.
    pub fn activation_block(&self) -> usize {
        self.layout.act_columns()
    }

    /// Bytes that it takes in memory: codes, parameters and maps, padding included.
    pub fn packed_bytes(&self) -> usize {
        size_of_val(&*self.lines) + self.gather.as_ref().map_or(0, |gather| size_of_val(&**gather))
    }

    /// Writes the values of one row, `in_features` of them: the same bits as the matrix that this one was made of. Not made to be fast.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        let MatrixShape { out_features, in_features } = self.shape;
        assert!(row < out_features, "no row {row}");
        assert_eq!(out.len(), in_features, "a row has in_features values");
        for strip in &self.strips {
            let tile = self.tile(strip, row / TILE_ROWS);
            prepare::decode_row(strip, tile, row % TILE_ROWS, self.gather.as_deref(), out);
        }
    }

    /// Lines of a group of tiles.
    fn group(&self, group: usize) -> &[Line] {
        let lines = GROUP * self.tile_lines;
        &self.lines[group * lines..self.lines.len().min((group + 1) * lines)]
    }

    /// Lines of a tile in a strip.
    fn tile(&self, strip: &Strip, tile: usize) -> &[Line] {
        let group = self.group(tile / GROUP);
        &group[strip.tile(tile % GROUP, group.len() / self.tile_lines)]
    }

    /// Codes of a column in the rows of a tile.
    pub(super) fn column_codes(&self, tile: usize, column: usize) -> [u8; TILE_ROWS] {
        let block = column / BLOCK;
        // All strips but the last are of the same size.
        let strip = &self.strips[block / self.strips[0].layout.n_blocks];
        let block = &self.tile(strip, tile)[strip.layout.block_lines(block - strip.first_block)];
        core::array::from_fn(|lane| self.layout.codes.get(block, lane, column % BLOCK))
    }

    /// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ`, with a scale for each block of activations.
    ///
    /// # Panics
    /// If a length does not follow from the shape.
    pub fn linear(
        &self,
        level: Level,
        out: &mut [f32],
        x: &[f32],
        n_tokens: usize,
        scratch: &mut Scratch,
    ) {
        self.linear_scaled(level, out, x, n_tokens, ActivationScales::PerBlock, scratch);
    }

    /// As [`linear`](Self::linear), with scales of activations from elsewhere: weights with one scale for each row then make the W8A8 of other engines.
    ///
    /// # Panics
    /// If a length does not follow from the shape, or a static scale is not a positive number.
    pub fn linear_scaled(
        &self,
        level: Level,
        out: &mut [f32],
        x: &[f32],
        n_tokens: usize,
        scales: ActivationScales,
        scratch: &mut Scratch,
    ) {
        if let ActivationScales::Static(scale) = scales {
            assert!(scale.is_normal() && scale > 0.0, "a static scale is positive, not {scale}");
        }
        let MatrixShape { out_features, in_features } = self.shape;
        assert_eq!(out.len(), n_tokens * out_features, "out is (n_tokens, out_features)");
        assert_eq!(x.len(), n_tokens * in_features, "x is (n_tokens, in_features)");
        if out.is_empty() {
            return;
        }
        if in_features == 0 {
            out.fill(0.0);
            return;
        }
        for (out, x) in out.chunks_mut(TOKENS * out_features).zip(x.chunks(TOKENS * in_features)) {
            let n_panels = self.quantize(level, x, scales, &mut scratch.panels);
            self.product(level, out, &scratch.panels[..n_panels]);
        }
    }

    /// Quantizes some tokens, and returns the number of panels.
    fn quantize(
        &self,
        level: Level,
        x: &[f32],
        scales: ActivationScales,
        panels: &mut Vec<Panel>,
    ) -> usize {
        let in_features = self.shape.in_features;
        let n_tokens = x.len() / in_features;
        let VectorUnit { most_tokens, bias } = level.dispatch(Ask);
        let factor = self.layout.start_factor(bias);
        let sizes = panel_sizes(n_tokens, most_tokens);
        let n_panels = sizes.clone().count();
        if panels.len() < n_panels {
            panels.resize_with(n_panels, Panel::default);
        }
        let mut first = 0;
        for (panel, n) in panels.iter_mut().zip(sizes) {
            panel.place(first, n);
            first += n;
        }
        let parallel = x.len() >= PARALLEL_WORK / 8;
        for_each_chunk(&mut panels[..n_panels], 1, parallel, |_, panel| {
            let panel = &mut panel[0];
            let x = &x[panel.first_token() * in_features..][..panel.n_tokens() * in_features];
            let gather = self.gather.as_deref();
            let layout = &self.layout;
            level.dispatch(Quantize { panel, layout, gather, x, factor, scales });
        });
        n_panels
    }

    /// The product with quantized activations.
    fn product(&self, level: Level, out: &mut [f32], panels: &[Panel]) {
        let n_groups = self.shape.out_features.div_ceil(GROUP * TILE_ROWS);
        let n_tokens: usize = panels.iter().map(Panel::n_tokens).sum();
        // With few panels every group is read from memory once and meets all panels while it is near; with many the panels are what is larger.
        let group_bytes = GROUP * self.tile_lines * Line::BYTES;
        let task = if panels.len() < 4 { (TASK_BYTES / group_bytes).clamp(1, 4) } else { 1 };
        let parallel = self.shape.len() * n_tokens >= PARALLEL_WORK;
        let out = Columns::new(out, self.shape.out_features);
        for_each_index(n_groups.div_ceil(task), parallel, |index| {
            for group in index * task..((index + 1) * task).min(n_groups) {
                for panel in panels {
                    self.dispatch(level, &out, panel, group);
                }
            }
        });
    }

    /// Calls the kernel of the layout.
    fn dispatch(&self, level: Level, out: &Columns<'_>, panel: &Panel, group: usize) {
        let call = Call { matrix: self, level, out, panel, group };
        match self.layout.form {
            FormKind::Flat { offset: OffsetKind::Centre(_), .. } => match self.layout.codes {
                CodeKind::Two => call.run::<Flat<Centre>, Plain<2>>(),
                CodeKind::Three => call.run::<Flat<Centre>, Plain<3>>(),
                CodeKind::Four => call.run::<Flat<Centre>, Plain<4>>(),
                CodeKind::Five => call.run::<Flat<Centre>, Plain<5>>(),
                CodeKind::Six => call.run::<Flat<Centre>, Plain<6>>(),
                CodeKind::Eight => call.run::<Flat<Centre>, Plain<8>>(),
                CodeKind::Iq4 => call.run::<Flat<Centre>, Looked<Iq4>>(),
                CodeKind::E2m1 => call.run::<Flat<Centre>, Looked<E2m1>>(),
            },
            FormKind::Flat { offset: OffsetKind::ZeroPoint, .. } => match self.layout.codes {
                CodeKind::Two => call.run::<Flat<ZeroPoint>, Plain<2>>(),
                CodeKind::Three => call.run::<Flat<ZeroPoint>, Plain<3>>(),
                CodeKind::Five => call.run::<Flat<ZeroPoint>, Plain<5>>(),
                CodeKind::Six => call.run::<Flat<ZeroPoint>, Plain<6>>(),
                CodeKind::Eight => call.run::<Flat<ZeroPoint>, Plain<8>>(),
                _ => call.run::<Flat<ZeroPoint>, Plain<4>>(),
            },
            FormKind::Flat { offset: OffsetKind::Minimum, .. } => match self.layout.codes {
                CodeKind::Five => call.run::<Flat<Minimum>, Plain<5>>(),
                _ => call.run::<Flat<Minimum>, Plain<4>>(),
            },
            FormKind::Super(SuperKind::HalvesMinima) => call.run::<Super<Nibbles>, Plain<2>>(),
            FormKind::Super(SuperKind::HalvesSigned { .. }) => match self.layout.codes {
                CodeKind::Three => call.run::<Super<Signed<true>>, Plain<3>>(),
                _ => call.run::<Super<Signed<true>>, Plain<6>>(),
            },
            FormKind::Super(SuperKind::Minima) => match self.layout.codes {
                CodeKind::Five => call.run::<Super<Minima>, Plain<5>>(),
                _ => call.run::<Super<Minima>, Plain<4>>(),
            },
            FormKind::Super(SuperKind::Signed { .. }) => {
                call.run::<Super<Signed<false>>, Looked<Iq4>>();
            }
        }
    }
}

/// A call of a kernel but for its type.
struct Call<'a> {
    matrix: &'a IntMatrix,
    level: Level,
    out: &'a Columns<'a>,
    panel: &'a Panel,
    group: usize,
}

impl Call<'_> {
    fn run<F: Form, C: Codes>(self) {
        let Self { matrix, level, out, panel, group } = self;
        let (strips, lines) = (&*matrix.strips, matrix.group(group));
        let rows = GROUP * TILE_ROWS;
        let rows = group * rows..((group + 1) * rows).min(matrix.shape.out_features);
        let grid = PhantomData::<fn() -> (F, C)>;
        level.dispatch(Product { strips, lines, panel, out, rows, grid });
    }
}

/// What the preparation of activations has to know of a level.
struct VectorUnit {
    most_tokens: usize,
    /// What 8-bit codes are multiplied less.
    bias: i32,
}

struct Ask;

impl Kernel for Ask {
    type Output = VectorUnit;

    #[inline(always)]
    fn run<S: IntSimd>(self, _: S) -> VectorUnit {
        VectorUnit { most_tokens: S::TOKENS, bias: if S::SIGNED { 128 } else { 0 } }
    }
}

/// Sizes of panels for some tokens, large ones first; each is one that kernels are made for.
fn panel_sizes(n_tokens: usize, most: usize) -> impl Iterator<Item = usize> + Clone {
    let mut left = n_tokens;
    core::iter::from_fn(move || {
        let size = [12, 8, 4, 2, 1].into_iter().find(|&size| size <= most.min(left))?;
        left -= size;
        Some(size)
    })
}
