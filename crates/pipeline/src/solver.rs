//! GPTQ on whichever grid a plan names.

use fewbit_format::{
    Absmax, BlockType, CodebookMatrix, DoubleQuant, FormatError, Granularity, Grid, IntGrid,
    IntParams, MatrixShape, Misfit, OffsetGrid, OffsetMatrix, QuantMatrix, Quantized, Scheme,
    SuperGrid, SuperParams, TableGrid, TableParams,
};
use fewbit_gptq::{GptqError, Prepared, Solution, SolveReport};

/// Whether the solver has a grid for this scheme on a matrix, or leaves it alone.
pub(crate) fn takes(scheme: &Scheme, shape: MatrixShape) -> bool {
    match scheme {
        Scheme::Float => true,
        // Blocks run on from row to row there, and the solver's groups do not.
        Scheme::Codebook(codebook)
            if !shape.in_features.is_multiple_of(codebook.block_size.get() as usize) =>
        {
            false
        }
        other => granularity(other).is_some(),
    }
}

/// Groups whose weights share parameters on this scheme; `None` if the solver has no grid for it.
pub(crate) fn granularity(scheme: &Scheme) -> Option<Granularity> {
    match *scheme {
        Scheme::Int(scheme) => Some(scheme.granularity),
        Scheme::Offset(scheme) => Some(Granularity::Group(scheme.group_size)),
        Scheme::Codebook(scheme) => Some(Granularity::Group(scheme.block_size)),
        Scheme::Float4(scheme) => Some(Granularity::group(scheme.group_size() as u32)),
        Scheme::Block(BlockType::Iq4Nl) => Some(Granularity::group(32)),
        Scheme::Block(block_type) => match scheme.plain_layout() {
            Scheme::Block(_) => SuperGrid::new(block_type).map(|_| Granularity::group(256)),
            plain => granularity(&plain),
        },
        _ => None,
    }
}

/// Bytes of the parameters of a group.
pub(crate) fn params_bytes(scheme: &Scheme) -> usize {
    match scheme.plain_layout() {
        Scheme::Block(_) => size_of::<SuperParams>(),
        _ => size_of::<IntParams>(),
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
        Scheme::Codebook(scheme) if takes(&Scheme::Codebook(scheme), shape) => {
            let grid = TableGrid::codebook(scheme.codebook);
            let groups = Granularity::Group(scheme.block_size);
            let Solution { codes, params, report, .. } =
                on(weight, shape, prepared, &grid, groups)?;
            let Some(size) = scheme.double_quant else {
                let matrix = TableGrid::codebook_matrix(shape, scheme, codes, &params)?;
                return Ok((matrix.into(), report));
            };
            // The magnitudes of a whole matrix are quantized together, so they are known when it is solved: then it is once more, under what they have become.
            let magnitudes: Vec<f32> = params.iter().map(|p| p.scale).collect();
            let double = DoubleQuant::round_to_nearest(&magnitudes, size);
            let stored = (0..params.len())
                .map(|i| TableParams { scale: double.value(i, size), code: 0 })
                .collect();
            let Solution { codes, report, .. } =
                fewbit_gptq::quantize_under(weight, shape, prepared, &grid, groups, stored)
                    .map_err(Failure::Solver)?;
            let matrix = CodebookMatrix::new(shape, scheme, codes, Absmax::Double(double))?;
            Ok((matrix.into(), report))
        }
        Scheme::Float4(scheme) => {
            let global_scale = scheme.global_scale(weight);
            let grid = TableGrid::float4(scheme, global_scale);
            let groups = Granularity::group(scheme.group_size() as u32);
            let Solution { codes, params, report, .. } =
                on(weight, shape, prepared, &grid, groups)?;
            let matrix = TableGrid::float4_matrix(shape, scheme, global_scale, codes, &params);
            Ok((matrix?.into(), report))
        }
        Scheme::Block(BlockType::Iq4Nl) => {
            BlockType::Iq4Nl.row_bytes(shape.in_features)?;
            let Solution { codes, params, report, .. } =
                on(weight, shape, prepared, &TableGrid::iq4_nl(), Granularity::group(32))?;
            Ok((TableGrid::iq4_nl_matrix(shape, &codes, &params)?.into(), report))
        }
        Scheme::Block(block_type) => block(weight, shape, prepared, block_type),
        ref other => Err(Failure::Format(FormatError::NoGrid { scheme: other.name() })),
    }
}

/// Rounds to blocks: simple ones in the plainer layout of their grid.
fn block(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    block_type: BlockType,
) -> Result<(Quantized, SolveReport), Failure> {
    let scheme = Scheme::Block(block_type);
    let plain = scheme.plain_layout();
    if plain != scheme {
        block_type.row_bytes(shape.in_features)?;
        let (matrix, report) = solve(weight, shape, prepared, &plain, 0)?;
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
