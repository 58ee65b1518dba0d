//! Quadratic forms of a few rows at a time, the same at every level of the CPU.

/// Columns side by side.
pub(crate) const LANES: usize = 16;
/// Rows that share the loads of the matrix.
pub(crate) const ROWS: usize = 4;

/// `e·M·eᵀ` of [`ROWS`] rows of `width` values, each padded to whole lanes with zeros; `matrix` is `(width, width padded)`.
#[inline(always)]
pub(crate) fn quadratic(
    matrix: &[f32],
    width: usize,
    e: &[Vec<[f32; LANES]>; ROWS],
) -> [f32; ROWS] {
    let strips = width.div_ceil(LANES);
    let (matrix, _) = matrix.as_chunks::<LANES>();
    let mut losses = [[0.0f32; LANES]; ROWS];
    for strip in 0..strips {
        let mut sums = [[0.0f32; LANES]; ROWS];
        for (j, row) in matrix.chunks_exact(strips).enumerate() {
            let m = &row[strip];
            for r in 0..ROWS {
                let e = e[r][j / LANES][j % LANES];
                for lane in 0..LANES {
                    sums[r][lane] += e * m[lane];
                }
            }
        }
        for r in 0..ROWS {
            for lane in 0..LANES {
                losses[r][lane] += sums[r][lane] * e[r][strip][lane];
            }
        }
    }
    losses.map(|lanes| lanes.into_iter().sum())
}
