//! The neutral quantized matrix.

use alloc::{vec, vec::Vec};

use crate::{
    FormatError, FormatError as E, Granularity, Grid, IntGrid, IntParams, IntScheme, MatrixShape,
    Symmetry, checks,
};

/// A weight matrix on an integer grid: codes, scales, zero points and, for act-order, a group map.
///
/// Every container of the workspace is written from this form and read back into it, without going through floats.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantMatrix {
    shape: MatrixShape,
    scheme: IntScheme,
    /// (out_features, in_features), one code a byte.
    codes: Vec<u8>,
    /// (out_features, n_groups), or one per tensor; values that `scheme.scale_type` holds exactly.
    scales: Vec<f32>,
    /// Like `scales` when affine, empty when symmetric.
    zero_points: Vec<u8>,
    /// Group of each column (in_features) when it is not `column / group_size`.
    group_of_column: Option<Vec<u32>>,
}

impl QuantMatrix {
    /// Assembles a matrix from its parts.
    ///
    /// `codes` is `(out_features, in_features)` row-major. `scales` is `(out_features, n_groups)` row-major, or one value per
    /// tensor; so is `zero_points` on an affine grid, and empty on a symmetric one. `group_of_column` names the group
    /// of each column where that is not `column / group_size`.
    ///
    /// # Errors
    /// If a length does not follow from the shape, a scale is not finite or not exactly representable, a code or zero point exceeds
    /// the grid, or the map names a group that does not exist.
    pub fn new(
        shape: MatrixShape,
        scheme: IntScheme,
        codes: Vec<u8>,
        scales: Vec<f32>,
        zero_points: Vec<u8>,
        group_of_column: Option<Vec<u32>>,
    ) -> Result<Self, FormatError> {
        let n_scales = scheme.granularity.n_scales(shape);
        let n_zeros = if scheme.symmetry == Symmetry::Affine { n_scales } else { 0 };
        checks::length(shape, "codes", codes.len(), shape.len())?;
        checks::length(shape, "scales", scales.len(), n_scales)?;
        checks::length(shape, "zero points", zero_points.len(), n_zeros)?;
        let (max, bits) = (scheme.bits.max_code(), scheme.bits.get());
        checks::codes("code", &codes, max, bits)?;
        checks::codes("zero point", &zero_points, max, bits)?;
        checks::scales(&scales, scheme.scale_type)?;
        if let Some(map) = &group_of_column {
            let Granularity::Group(_) = scheme.granularity else {
                return Err(E::GroupMapWithoutGroups { granularity: scheme.granularity.name() });
            };
            checks::length(shape, "group map", map.len(), shape.in_features)?;
            let n_groups = scheme.granularity.n_groups(shape.in_features);
            if let Some(column) = map.iter().position(|&g| g as usize >= n_groups) {
                return Err(E::GroupRange { column, group: map[column] as usize, n_groups });
            }
        }
        Ok(Self { shape, scheme, codes, scales, zero_points, group_of_column })
    }

    /// Assembles a matrix from codes and the parameters of a grid, `(out_features, n_groups)` row-major or one per tensor.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_params(
        shape: MatrixShape,
        scheme: IntScheme,
        codes: Vec<u8>,
        params: &[IntParams],
        group_of_column: Option<Vec<u32>>,
    ) -> Result<Self, FormatError> {
        let scales = params.iter().map(|p| p.scale).collect();
        let zero_points = match scheme.symmetry {
            Symmetry::Symmetric => Vec::new(),
            Symmetry::Affine => params.iter().map(|p| p.zero_point).collect(),
        };
        Self::new(shape, scheme, codes, scales, zero_points, group_of_column)
    }

    /// Plain rounding (RTN): min-max parameters, every weight to its nearest value.
    ///
    /// # Errors
    /// If `weight` is not `(out_features, in_features)` or holds NaN or infinity.
    pub fn round_to_nearest(
        weight: &[f32],
        shape: MatrixShape,
        scheme: IntScheme,
    ) -> Result<Self, FormatError> {
        Self::round_to_nearest_on(weight, shape, &IntGrid::plain(scheme))
    }

    /// As [`round_to_nearest`](Self::round_to_nearest), on a grid that may have a least zero point.
    ///
    /// # Errors
    /// The same.
    pub fn round_to_nearest_on(
        weight: &[f32],
        shape: MatrixShape,
        grid: &IntGrid,
    ) -> Result<Self, FormatError> {
        checks::length(shape, "weight", weight.len(), shape.len())?;
        checks::finite("weight", weight)?;
        let scheme = grid.scheme;
        let mut codes = vec![0; weight.len()];
        let mut params = Vec::with_capacity(scheme.granularity.n_scales(shape));
        // Groups lie within a row, unless all rows share one.
        let (row, group) = match scheme.granularity {
            Granularity::Tensor => (shape.len(), shape.len()),
            other => (shape.in_features, other.group_size(shape.in_features)),
        };
        if !shape.is_empty() {
            for (w, c) in weight.chunks(row).zip(codes.chunks_mut(row)) {
                for (w, c) in w.chunks(group).zip(c.chunks_mut(group)) {
                    let p = grid.fit_plain(w);
                    for (w, c) in w.iter().zip(c) {
                        *c = grid.encode(p, 0, *w);
                    }
                    params.push(p);
                }
            }
        }
        Self::from_params(shape, scheme, codes, &params, None)
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// The grid it lies on.
    pub fn scheme(&self) -> IntScheme {
        self.scheme
    }

    /// Codes, `(out_features, in_features)` row-major.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Scales, `(out_features, n_groups)` row-major, or one per tensor.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Stored zero points, laid out like the scales; empty on a symmetric grid.
    pub fn zero_points(&self) -> &[u8] {
        &self.zero_points
    }

    /// Group of each column, where it is not `column / group_size`.
    pub fn group_of_column(&self) -> Option<&[u32]> {
        self.group_of_column.as_deref()
    }

    /// Groups along a row.
    pub fn n_groups(&self) -> usize {
        self.scheme.granularity.n_groups(self.shape.in_features)
    }

    /// Group of a column.
    pub fn group(&self, column: usize) -> usize {
        match &self.group_of_column {
            Some(map) => map[column] as usize,
            None => column / self.scheme.granularity.group_size(self.shape.in_features),
        }
    }

    /// Parameters of a group of a row.
    ///
    /// # Panics
    /// If `row` or `group` is out of range.
    pub fn params(&self, row: usize, group: usize) -> IntParams {
        let i = match self.scheme.granularity {
            Granularity::Tensor => 0,
            _ => row * self.n_groups() + group,
        };
        let zero_point = match self.scheme.symmetry {
            Symmetry::Symmetric => self.scheme.bits.middle(),
            Symmetry::Affine => self.zero_points[i],
        };
        IntParams { scale: self.scales[i], zero_point }
    }

    /// Bits per weight, scales and zero points included. A group map is not counted: it costs 32 bits a column, shared by all rows.
    pub fn bits_per_weight(&self) -> f64 {
        self.scheme.bits_per_weight(self.shape)
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        let n = self.shape.in_features;
        assert_eq!(out.len(), n, "a row has in_features values");
        let codes = &self.codes[row * n..][..n];
        let value = |p: IntParams, c: u8| (f32::from(c) - f32::from(p.zero_point)) * p.scale;
        if let Some(map) = &self.group_of_column {
            for ((o, &c), &g) in out.iter_mut().zip(codes).zip(map) {
                *o = value(self.params(row, g as usize), c);
            }
            return;
        }
        let group = self.scheme.granularity.group_size(n);
        for (g, (o, c)) in out.chunks_mut(group).zip(codes.chunks(group)).enumerate() {
            let p = self.params(row, g);
            for (o, &c) in o.iter_mut().zip(c) {
                *o = value(p, c);
            }
        }
    }

    /// All values, `(out_features, in_features)` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.len()];
        if !self.shape.is_empty() {
            for (row, out) in out.chunks_mut(self.shape.in_features).enumerate() {
                self.dequantize_row_into(row, out);
            }
        }
        out
    }
}
