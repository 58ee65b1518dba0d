//! The choices a caller has.

/// In which order columns are rounded. Errors of early columns are compensated by later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// As stored.
    Natural,
    /// Descending diagonal of the Hessian (GPTQ's "act-order"): columns that matter most are rounded while there are still many left to
    /// compensate. Ties keep their order.
    #[default]
    ActOrder,
}

/// Which columns share parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Groups {
    /// Neighbouring columns, whatever the order of rounding.
    #[default]
    Static,
    /// Columns that are rounded one after another; the solution then has a group map, which a reader must follow.
    Ordered,
}

/// From which weights the parameters of a group are fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum FitFrom {
    /// The weights as given.
    #[default]
    Original,
    /// The weights as compensated for the errors of all columns rounded before the first one of the group (of the original GPTQ code). Weights of
    /// the group that are rounded already count as they were when they were rounded.
    Updated,
}

/// In which precision inputs enter the Hessian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum InputPrecision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16 first, ties to even: 8 bits of significand, a relative error of at most 2⁻⁹ in each input (the format: Kalamkar et al., arXiv
    /// 1905.12322). Products of two such numbers are exact in f32, which is what the bf16 dot products of newer processors compute; their sums stay in f32 and
    /// f64. Here the products are those of f32 with any precision: it shows what such a Hessian is worth, and saves no time.
    BF16,
}

/// How to round. The default is the best setting measured; see the crate documentation for the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqSpec {
    /// Order of the columns.
    pub order: Order,
    /// Columns that share parameters.
    pub groups: Groups,
    /// Weights that parameters are fitted from.
    pub fit: FitFrom,
    /// What is added to the diagonal of the Hessian, as a fraction of its mean; between 0 and 1. Raised if the Hessian is singular with it.
    pub damping: f64,
    /// Precision of the Hessian's inputs: for whoever makes the Hessian, by [`Hessian::with_inputs`](crate::Hessian::with_inputs).
    pub inputs: InputPrecision,
    /// Passes of coordinate descent over codes and scales after the column loop; 0 for GPTQ alone.
    pub refine_passes: u32,
}

impl Default for GptqSpec {
    fn default() -> Self {
        Self {
            order: Order::ActOrder,
            groups: Groups::Static,
            fit: FitFrom::Original,
            damping: 0.05,
            inputs: InputPrecision::F32,
            refine_passes: 2,
        }
    }
}
