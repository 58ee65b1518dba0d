//! Where everything lies in a prepared matrix.
//!
//! Sixteen rows make a *tile*, one stream of lines that a product reads from first to last. A tile is a run of *chunks* of some columns: first a header
//! with the parameters of the chunk's columns, sixteen of each kind beside each other and the whole padded to lines, then the codes, block by block
//! (see `codes`).
//!
//! ```text
//! tile    | header | blocks … | header | blocks … |   …
//! flat    header  = scales of each group | zero points or minima of each group
//! super   header  = d 16 × f16 | dmin 16 × f16 | scales of each part, 16 bytes | minima of each part, 16 bytes
//! ```
//!
//! *Flat* grids have a scale for each group of columns. *Super* grids are those of GGML's super-blocks: 256 columns share d and dmin, and each part of 32 or 16
//! of them has a scale, and perhaps a minimum, that is an integer itself.
//!
//! Activations are quantized in *activation blocks*: the columns of a group, or 96 or 128 of a larger group, or a super-block.

use core::ops::Range;

use super::{codes::CodeKind, line::Line};

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a block.
pub(crate) const BLOCK: usize = 32;
/// Blocks of a super-block.
pub(crate) const SUPER_BLOCKS: usize = 8;
/// The most groups of a chunk.
pub(crate) const MOST_GROUPS: usize = 2 * SUPER_BLOCKS;

/// Storage of the scales of a flat grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleKind {
    F16,
    BF16,
    F32,
    /// `2^(x − 128)`: exponents of 8 bits under a codebook that is stored doubled.
    HalfE8m0,
}

impl ScaleKind {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::HalfE8m0 => 1,
        }
    }
}

/// What a grid subtracts from its codes, or adds to their products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offset {
    /// value = scale · (code − centre).
    Centre(u8),
    /// value = scale · (code − zero point), an unsigned byte for each group.
    ZeroPoint,
    /// value = scale · code + minimum, a half-precision float for each group.
    Minimum,
}

impl Offset {
    /// Bytes that a group takes.
    const fn bytes(self) -> usize {
        match self {
            Self::Centre(_) => 0,
            Self::ZeroPoint => 1,
            Self::Minimum => 2,
        }
    }
}

/// How scales and minima of a super-block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuperKind {
    /// Parts of 32: signed scales, value = d · scale · (code − centre).
    Signed { centre: u8 },
    /// Parts of 32: unsigned scales and minima, value = d · scale · code − dmin · minimum.
    Minima,
    /// Parts of 16: signed scales.
    HalvesSigned { centre: u8 },
    /// Parts of 16: nibbles, scale low and minimum high.
    HalvesMinima,
}

impl SuperKind {
    /// Parts of a super-block.
    pub(crate) const fn parts(self) -> usize {
        SUPER_BLOCKS * BLOCK / self.part()
    }

    /// What is subtracted from the codes, unless there are minima.
    pub(crate) const fn centre(self) -> Option<u8> {
        match self {
            Self::Signed { centre } | Self::HalvesSigned { centre } => Some(centre),
            Self::Minima | Self::HalvesMinima => None,
        }
    }

    /// Whether a part's minimum has a byte of its own.
    pub(crate) const fn has_minimum_bytes(self) -> bool {
        matches!(self, Self::Minima)
    }

    /// Columns of a part.
    pub(crate) const fn part(self) -> usize {
        match self {
            Self::Signed { .. } | Self::Minima => 32,
            Self::HalvesSigned { .. } | Self::HalvesMinima => 16,
        }
    }
}

/// The parameters of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Flat { scale: ScaleKind, offset: Offset },
    Super(SuperKind),
}

/// A kind of parameter in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Param {
    /// The scale of a group, or d of a super-block.
    Scale,
    /// Zero point or minimum of a group, or dmin of a super-block.
    Offset,
    /// The scale of a part.
    PartScale,
    /// The minimum of a part, where it has a byte of its own.
    PartMinimum,
}

/// The layout of a prepared matrix.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) codes: CodeKind,
    pub(crate) form: Form,
    /// Blocks of a row; a multiple of `act_blocks`.
    pub(crate) n_blocks: usize,
    /// Blocks of an activation block.
    pub(crate) act_blocks: usize,
    /// Blocks of a group that shares a scale, or of a super-block; a multiple of `act_blocks`.
    pub(crate) group_blocks: usize,
    /// Blocks of a chunk, all but the last; a multiple of `group_blocks`.
    pub(crate) chunk_blocks: usize,
    /// Lines of a chunk's header, all but the last.
    header_lines: usize,
}

/// A chunk of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) header: &'a [Line],
    pub(crate) codes: &'a [Line],
    pub(crate) n_blocks: usize,
}

impl Layout {
    /// A layout with one scale for each group of `group_blocks` blocks.
    pub(crate) fn flat(
        codes: CodeKind,
        scale: ScaleKind,
        offset: Offset,
        n_blocks: usize,
        group_blocks: usize,
        act_blocks: usize,
    ) -> Self {
        let mut layout = Self {
            codes,
            form: Form::Flat { scale, offset },
            n_blocks,
            act_blocks,
            group_blocks,
            chunk_blocks: 0,
            header_lines: 0,
        };
        // A few hundred columns, twice that if the header then needs no padding.
        let groups = SUPER_BLOCKS.div_ceil(group_blocks);
        let whole = layout.header_bytes(groups).is_multiple_of(Line::BYTES);
        let groups = if whole { groups } else { 2 * groups };
        layout.chunk_blocks = group_blocks * groups;
        layout.header_lines = layout.header_bytes(groups).div_ceil(Line::BYTES);
        layout
    }

    /// A layout of super-blocks.
    pub(crate) fn super_blocks(codes: CodeKind, kind: SuperKind, n_blocks: usize) -> Self {
        let mut layout = Self {
            codes,
            form: Form::Super(kind),
            n_blocks,
            act_blocks: SUPER_BLOCKS,
            group_blocks: SUPER_BLOCKS,
            chunk_blocks: SUPER_BLOCKS,
            header_lines: 0,
        };
        layout.header_lines = layout.header_bytes(1).div_ceil(Line::BYTES);
        layout
    }

    /// The layout of `n_blocks` blocks of such rows: whole chunks, but for the last, or any part of rows with one group.
    pub(crate) fn part(&self, n_blocks: usize) -> Self {
        match self.form {
            Form::Flat { scale, offset } if self.one_group() => {
                Self::flat(self.codes, scale, offset, n_blocks, n_blocks, self.act_blocks)
            }
            _ => Self { n_blocks, ..self.clone() },
        }
    }

    /// Whether a row shares one scale.
    pub(crate) fn one_group(&self) -> bool {
        self.group_blocks >= self.n_blocks
    }

    /// Columns that share an activation scale.
    pub(crate) fn act_columns(&self) -> usize {
        self.act_blocks * BLOCK
    }

    /// Activation blocks of a row.
    pub(crate) fn n_acts(&self) -> usize {
        self.n_blocks / self.act_blocks
    }

    /// Columns whose integer sum of activations is needed.
    pub(crate) fn part_columns(&self) -> usize {
        match self.form {
            Form::Flat { .. } => self.act_columns(),
            Form::Super(kind) => kind.part(),
        }
    }

    /// Whether values are products and a minimum.
    pub(crate) fn has_minima(&self) -> bool {
        match self.form {
            Form::Flat { offset, .. } => offset == Offset::Minimum,
            Form::Super(kind) => kind.centre().is_none(),
        }
    }

    /// What the integer sum of a part's activations is multiplied with before it is used, where codes of 8 bits are taken less `bias`.
    pub(crate) fn start_factor(&self, bias: i32) -> i32 {
        let bias = if self.codes.width() == 8 { bias } else { 0 };
        match self.form {
            Form::Flat { offset: Offset::Centre(centre), .. } => bias - i32::from(centre),
            Form::Flat { offset: Offset::ZeroPoint, .. } => -1,
            Form::Flat { offset: Offset::Minimum, .. } => 1,
            Form::Super(kind) => kind.centre().map_or(1, |centre| bias - i32::from(centre)),
        }
    }

    fn header_bytes(&self, n_groups: usize) -> usize {
        let bytes = match self.form {
            Form::Flat { scale, offset } => n_groups * (scale.bytes() + offset.bytes()),
            Form::Super(SuperKind::Signed { .. }) => 4 + 8,
            Form::Super(
                SuperKind::Minima | SuperKind::HalvesSigned { .. } | SuperKind::HalvesMinima,
            ) => 4 + 16,
        };
        bytes * TILE_ROWS
    }

    fn chunk_lines(&self, n_blocks: usize) -> Range<usize> {
        let header = match n_blocks == self.chunk_blocks {
            true => self.header_lines,
            false => self.header_bytes(n_blocks.div_ceil(self.group_blocks)).div_ceil(Line::BYTES),
        };
        header..header + n_blocks * self.codes.lines()
    }

    /// Lines of a tile.
    pub(crate) fn tile_lines(&self) -> usize {
        if self.n_blocks == 0 {
            return 0;
        }
        let last = (self.n_blocks - 1) / self.chunk_blocks;
        last * self.chunk_lines(self.chunk_blocks).end
            + self.chunk_lines(self.n_blocks - last * self.chunk_blocks).end
    }

    /// The chunks of a tile.
    #[inline(always)]
    pub(crate) fn chunks<'a>(&self, tile: &'a [Line]) -> Chunks<'a, '_> {
        Chunks { layout: self, rest: tile, n_blocks: self.n_blocks }
    }

    /// First line of the chunk that holds a block, and the chunk's number of blocks.
    fn chunk_of(&self, block: usize) -> (usize, usize) {
        let chunk = block / self.chunk_blocks;
        let n_blocks = self.chunk_blocks.min(self.n_blocks - chunk * self.chunk_blocks);
        (chunk * self.chunk_lines(self.chunk_blocks).end, n_blocks)
    }

    /// Lines of a block of a tile.
    pub(crate) fn block_lines(&self, block: usize) -> Range<usize> {
        let (first, n_blocks) = self.chunk_of(block);
        let lines = self.codes.lines();
        let start = first + self.chunk_lines(n_blocks).start + block % self.chunk_blocks * lines;
        start..start + lines
    }

    /// Bytes of a parameter of row `lane`, in the lines of a tile: the `index`-th group, super-block or part of the row.
    pub(crate) fn param_bytes(&self, param: Param, index: usize, lane: usize) -> Range<usize> {
        let (groups_before, size, group, within) = match (self.form, param) {
            (Form::Flat { scale, .. }, Param::Scale) => (None, scale.bytes(), index, index),
            (Form::Flat { scale, offset }, _) => {
                (Some(scale.bytes()), offset.bytes(), index, index)
            }
            (Form::Super(_), Param::Scale) => (Some(0), 2, index, 0),
            (Form::Super(_), Param::Offset) => (Some(2), 2, index, 0),
            (Form::Super(kind), Param::PartScale | Param::PartMinimum) => {
                let parts = kind.parts();
                let before = if param == Param::PartScale { 4 } else { 4 + parts };
                (Some(before), 1, index / parts, index % parts)
            }
        };
        let (first, n_blocks) = self.chunk_of(group * self.group_blocks);
        let per_chunk = self.chunk_blocks / self.group_blocks;
        // In a flat header all scales lie before the offsets; what comes before in a super-block's is counted once.
        let before = match (self.form, groups_before) {
            (_, None) => 0,
            (Form::Flat { .. }, Some(bytes)) => bytes * n_blocks.div_ceil(self.group_blocks),
            (Form::Super(_), Some(bytes)) => bytes,
        };
        let within = if let Form::Flat { .. } = self.form { within % per_chunk } else { within };
        let start = first * Line::BYTES + (before + within * size) * TILE_ROWS + lane * size;
        start..start + size
    }
}

/// Iterates over the chunks of a tile.
pub(crate) struct Chunks<'a, 'l> {
    layout: &'l Layout,
    rest: &'a [Line],
    n_blocks: usize,
}

impl<'a> Iterator for Chunks<'a, '_> {
    type Item = Chunk<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Chunk<'a>> {
        if self.n_blocks == 0 {
            return None;
        }
        let n_blocks = self.layout.chunk_blocks.min(self.n_blocks);
        self.n_blocks -= n_blocks;
        let lines = self.layout.chunk_lines(n_blocks);
        let (chunk, rest) = self.rest.split_at(lines.end);
        self.rest = rest;
        let (header, codes) = chunk.split_at(lines.start);
        Some(Chunk { header, codes, n_blocks })
    }
}
