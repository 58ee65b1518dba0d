//! GPTQ on whichever grid a plan names.

use fewbit_format::{
    Bits, BlockType, FormatError, Granularity, Grid, IntGrid, IntParams, IntScheme, MatrixShape,
    Misfit, OffsetGrid, OffsetMatrix, OffsetScheme, QuantMatrix, Quantized, ScaleType, Scheme,
    SuperGrid, SuperParams, Symmetry,
};
use fewbit_gptq::{GptqError, Prepared, Solution, SolveReport};

/// Whether the solver has a grid for this scheme, or leaves the matrix alone.
pub(crate) fn takes(scheme: &Scheme) -> bool {
    *scheme == Scheme::Float || granularity(scheme).is_some()
}

/// Groups whose weights share parameters on this scheme; `None` if the solver has no grid for it.
pub(crate) fn granularity(scheme: &Scheme) -> Option<Granularity> {
    match *scheme {
        Scheme::Int(scheme) => Some(scheme.granularity),
        Scheme::Offset(scheme) => Some(Granularity::Group(scheme.group_size)),
        Scheme::Block(block_type) => match simple(block_type) {
            Some(scheme) => granularity(&scheme),
            None => SuperGrid::new(block_type).map(|_| Granularity::group(256)),
        },
        _ => None,
    }
}

/// Bytes of the parameters of a group.
pub(crate) fn params_bytes(scheme: &Scheme) -> usize {
    match scheme {
        Scheme::Block(block_type) if simple(*block_type).is_none() => size_of::<SuperParams>(),
        _ => size_of::<IntParams>(),
    }
}

/// The integers that are the same grid as a block type of one scale, or of a scale and a minimum.
fn simple(block_type: BlockType) -> Option<Scheme> {
    let symmetric = |bits| {
        let (symmetry, granularity) = (Symmetry::Symmetric, Granularity::group(32));
        Scheme::Int(IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 })
    };
    let offset = |bits| Scheme::Offset(OffsetScheme::new(bits, 32, ScaleType::F16));
    match block_type {
        BlockType::Q4_0 => Some(symmetric(Bits::B4)),
        BlockType::Q5_0 => Some(symmetric(Bits::B5)),
        BlockType::Q8_0 => Some(symmetric(Bits::B8)),
        BlockType::Q4_1 => Some(offset(Bits::B4)),
        BlockType::Q5_1 => Some(offset(Bits::B5)),
        _ => None,
    }
}

/// What keeps a matrix from its grid.
#[derive(Debug)]
pub(crate) enum Failure {
    Solver(GptqError),
    Format(FormatError),
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

/// Rounds a matrix to a scheme that the solver [takes](takes). Zero points begin with `least` where the scheme has any.
pub(crate) fn solve(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    scheme: &Scheme,
    least: u8,
) -> Result<(Quantized, SolveReport), Failure> {
    match *scheme {
        Scheme::Int(scheme) => {
            let grid = IntGrid::new(scheme).with_least_zero_point(least);
            let Solution { codes, params, group_of_column, report, .. } =
                on(weight, shape, prepared, &grid, scheme.granularity)?;
            let matrix = QuantMatrix::from_params(shape, scheme, codes, &params, group_of_column);
            Ok((matrix?.into(), report))
        }
        Scheme::Offset(scheme) => {
            let (grid, groups) = (OffsetGrid::new(scheme), Granularity::Group(scheme.group_size));
            let Solution { codes, params, report, .. } =
                on(weight, shape, prepared, &grid, groups)?;
            let matrix = OffsetMatrix::from_params(shape, scheme, codes, &params);
            Ok((matrix?.into(), report))
        }
        Scheme::Block(block_type) => block(weight, shape, prepared, block_type),
        ref other => Err(Failure::Format(FormatError::NoGrid { scheme: other.name() })),
    }
}

/// Rounds to blocks: simple ones as the integers that they are.
fn block(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    block_type: BlockType,
) -> Result<(Quantized, SolveReport), Failure> {
    let scheme = Scheme::Block(block_type);
    if let Some(simple) = simple(block_type) {
        block_type.row_bytes(shape.in_features)?;
        let (matrix, report) = solve(weight, shape, prepared, &simple, 0)?;
        return match matrix.relay(&scheme) {
            Ok(matrix) => Ok((matrix, report)),
            Err(Misfit::Format(error)) => Err(Failure::Format(error)),
            Err(_) => unreachable!("the same grid"),
        };
    }
    let Some(grid) = SuperGrid::new(block_type) else {
        return Err(Failure::Format(FormatError::NoGrid { scheme: block_type.name() }));
    };
    let Solution { codes, params, report, .. } =
        on(weight, shape, prepared, &grid, Granularity::group(256))?;
    Ok((grid.matrix(shape, &codes, &params)?.into(), report))
}

fn on<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    grid: &G,
    granularity: Granularity,
) -> Result<Solution<G::Params>, Failure> {
    fewbit_gptq::quantize(weight, shape, prepared, grid, granularity).map_err(Failure::Solver)
}
