//! What a solver did.

/// Codes and parameters of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution<P> {
    /// Codes, `(out_features, in_features)` row-major.
    pub codes: Vec<u8>,
    /// Parameters, `(out_features, n_groups)` row-major, or one for [`Granularity::Tensor`](fewbit_format::Granularity::Tensor).
    pub params: Vec<P>,
    /// Group of each column, where it is not `column / group_size`.
    pub group_of_column: Option<Vec<u32>>,
    /// What it cost and what had to be repaired.
    pub report: SolveReport,
}

/// Losses and repairs. A loss is `Σ_rows e·H·eᵀ` with `e` the change of a row and `H` the mean of `x·xᵀ` over the calibration tokens, undamped: the
/// mean squared error of the layer's outputs on them, summed over the outputs.
#[derive(Clone, Debug, PartialEq, Default)]
#[non_exhaustive]
pub struct SolveReport {
    /// Loss of plain rounding in the groups of the solution.
    pub loss_before: f64,
    /// Loss of the solution.
    pub loss_after: f64,
    /// `loss_before` over the mean squared output `Σ w·H·wᵀ` (0 if that is 0).
    pub relative_error_before: f64,
    /// `loss_after` over the mean squared output.
    pub relative_error_after: f64,
    /// Damping with which the Hessian could be factored, as a fraction of its mean diagonal; 0 for plain rounding.
    pub damping: f64,
    /// Whether no damping helped, so that only the diagonal of the Hessian was used.
    pub diagonal_only: bool,
    /// Input features that were zero in every token.
    pub dead_columns: usize,
    /// Codes at either end of the range.
    pub clipped_codes: usize,
    /// Rows for which nothing beat plain rounding.
    pub rows_kept_plain: usize,
    /// Rows whose loss coordinate descent lowered.
    pub rows_refined: usize,
}
