//! The abstraction that solvers stand on.

use core::fmt::Debug;

/// The values that the weights of one group can take.
///
/// A group is a run of weights of one row that share parameters. A grid *fits* parameters to a group under importance
/// weights, *encodes* a value to a code under those parameters, and *decodes* a code. Parameters are always what a file
/// stores (scales rounded to their storage type), so what a solver minimises is what a reader sees.
///
/// `index` is the position of a weight within its group; integer grids ignore it, block formats whose sub-blocks have scales
/// of their own use it.
pub trait Grid: Sync {
    /// Parameters of one group, as stored.
    type Params: Copy + Debug + PartialEq + Send + Sync;

    /// Parameters for a group of finite weights. `importance` (same length, finite, not negative) weights the squared error of each; all
    /// zeros count as all equal.
    fn fit(&self, weights: &[f32], importance: &[f32]) -> Self::Params;

    /// Parameters of plain rounding: from the range of the weights alone. What every solver has to beat.
    fn fit_plain(&self, weights: &[f32]) -> Self::Params;

    /// The code whose value is nearest to `value`, ties as the format defines.
    fn encode(&self, params: Self::Params, index: usize, value: f32) -> u8;

    /// The value of a code.
    fn decode(&self, params: Self::Params, index: usize, code: u8) -> f32;

    /// Parameters whose decoded values are `ratio` times those of `params`, as nearly as storage allows.
    fn scaled(&self, params: Self::Params, ratio: f32) -> Self::Params;

    /// The nearest value on the grid.
    fn nearest(&self, params: Self::Params, index: usize, value: f32) -> f32 {
        self.decode(params, index, self.encode(params, index, value))
    }

    /// The largest code, by which callers count codes at the ends of the range.
    fn max_code(&self) -> u8;
}
