//! From cheap errors to measured losses.

use crate::PlannerError;

/// Rounds of proportional fitting.
const ROUNDS: usize = 100;

/// Factors that turn errors into losses, from few measurements: one with each row disturbed as a whole, one with each column.
///
/// `errors` is `(n_rows, n_columns)` row-major, not negative: blocks by roles, say. `row_losses` and `column_losses` are what the
/// model loses with all units of a row, or column, in error. The result `f`, of the same shape, is a product of a factor per row and one per
/// column, such that `Σ f·errors` over each row and each column is what was measured, as nearly as the two agree (iterative proportional fitting). A
/// measurement that is not positive counts as a millionth of the mean.
///
/// # Errors
/// If lengths do not agree.
pub fn factors_from_sums(
    errors: &[f64],
    row_losses: &[f64],
    column_losses: &[f64],
) -> Result<Vec<f64>, PlannerError> {
    let (n_rows, n_columns) = (row_losses.len(), column_losses.len());
    if errors.len() != n_rows * n_columns {
        let (got, expected) = (errors.len(), n_rows * n_columns);
        return Err(PlannerError::Length { what: "errors", got, expected });
    }
    let rows = positive(row_losses);
    let columns = positive(column_losses);
    // The two sets of measurements rarely have the same sum; the mean of both stands for it.
    let (row_sum, column_sum) = (rows.iter().sum::<f64>(), columns.iter().sum::<f64>());
    let mean = 0.5 * (row_sum + column_sum);
    let (mut by_row, mut by_column) = (vec![1.0; n_rows], vec![1.0; n_columns]);
    for _ in 0..ROUNDS {
        for r in 0..n_rows {
            let sum: f64 = (0..n_columns).map(|c| errors[r * n_columns + c] * by_column[c]).sum();
            by_row[r] = quotient(rows[r] * mean / row_sum, sum);
        }
        for c in 0..n_columns {
            let sum: f64 = (0..n_rows).map(|r| errors[r * n_columns + c] * by_row[r]).sum();
            by_column[c] = quotient(columns[c] * mean / column_sum, sum);
        }
    }
    Ok((0..errors.len()).map(|i| by_row[i / n_columns] * by_column[i % n_columns]).collect())
}

fn positive(losses: &[f64]) -> Vec<f64> {
    let positive = losses.iter().filter(|l| **l > 0.0);
    let floor = 1e-6 * positive.clone().sum::<f64>() / positive.count().max(1) as f64;
    losses.iter().map(|l| l.max(floor).max(f64::MIN_POSITIVE)).collect()
}

fn quotient(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}
