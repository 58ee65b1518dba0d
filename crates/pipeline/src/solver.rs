//! GPTQ on whichever grid a plan names.

use fewbit_format::{
    FormatError, Granularity, Grid, IntGrid, MatrixShape, OffsetGrid, OffsetMatrix, QuantMatrix,
    Quantized, Scheme,
};
use fewbit_gptq::{GptqError, Prepared, Solution, SolveReport};

/// Whether the solver has a grid for this scheme, or leaves the matrix alone.
pub(crate) const fn takes(scheme: &Scheme) -> bool {
    matches!(scheme, Scheme::Float | Scheme::Int(_) | Scheme::Offset(_))
}

/// Groups whose weights share parameters on this scheme; whole rows where the scheme does not say.
pub(crate) const fn granularity(scheme: &Scheme) -> Option<Granularity> {
    match scheme {
        Scheme::Int(scheme) => Some(scheme.granularity),
        Scheme::Offset(scheme) => Some(Granularity::Group(scheme.group_size)),
        _ => None,
    }
}

/// What keeps a matrix from its grid.
#[derive(Debug)]
pub(crate) enum Failure {
    Solver(GptqError),
    Format(FormatError),
}

/// Rounds a matrix to a scheme that the solver [takes](takes). Zero points begin with `least` where the scheme has any.
pub(crate) fn solve(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    scheme: &Scheme,
    least: u8,
) -> Result<(Quantized, SolveReport), Failure> {
    fn on<G: Grid>(
        weight: &[f32],
        shape: MatrixShape,
        prepared: &Prepared<'_>,
        grid: &G,
        granularity: Granularity,
    ) -> Result<Solution<G::Params>, Failure> {
        fewbit_gptq::quantize(weight, shape, prepared, grid, granularity).map_err(Failure::Solver)
    }
    match *scheme {
        Scheme::Int(scheme) => {
            let grid = IntGrid::new(scheme).with_least_zero_point(least);
            let Solution { codes, params, group_of_column, report, .. } =
                on(weight, shape, prepared, &grid, scheme.granularity)?;
            let matrix = QuantMatrix::from_params(shape, scheme, codes, &params, group_of_column);
            Ok((matrix.map_err(Failure::Format)?.into(), report))
        }
        Scheme::Offset(scheme) => {
            let (grid, groups) = (OffsetGrid::new(scheme), Granularity::Group(scheme.group_size));
            let Solution { codes, params, report, .. } =
                on(weight, shape, prepared, &grid, groups)?;
            let matrix = OffsetMatrix::from_params(shape, scheme, codes, &params);
            Ok((matrix.map_err(Failure::Format)?.into(), report))
        }
        ref other => Err(Failure::Format(FormatError::NoGrid { scheme: other.name() })),
    }
}
