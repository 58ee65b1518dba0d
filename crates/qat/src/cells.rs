//! What the weights of one group can become, and how gradients pass.
//!
//! ```text
//! u = (w − o)/s + v      ŵ = level(u)·s + o
//! ```
//!
//! `level` takes the nearest whole number of a range, or the nearest value of a table. Rounding counts as the identity when gradients pass
//! (straight-through, Bengio et al., 2013):
//!
//! ```text
//!            inside the range         clipped
//! ∂ŵ/∂w      1                        0
//! ∂ŵ/∂v      s                        0
//! ∂ŵ/∂s      level(u) − (w − o)/s     level(u)       LSQ (Esser et al., arXiv 1902.08153)
//! ∂ŵ/∂o      0                        1              LSQ+ (Bhalgat et al., arXiv 2004.09576)
//! ```
//!
//! LSQ's factor `1/√(N·max)` on the gradient of `s` is left out: the optimizers here do not depend on the scale of a gradient.

use fewbit_format::TableGrid;
use fewbit_model::math::dot;

/// The cells of one group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells {
    /// The step, as stored.
    pub(crate) scale: f32,
    /// What weights are divided by: the step, or infinity where it is 0 and all weights of the group are the offset.
    divisor: f32,
    /// The value of level 0, as stored. Where there is none −0, whose addition changes no bit.
    offset: f32,
    /// Least and largest level.
    pub(crate) range: [f32; 2],
    /// Weights outside, in steps, are clipped.
    inside: [f32; 2],
    /// Where levels are no whole numbers.
    table: Option<TableGrid>,
}

/// Gradients by step and offset of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BySteps {
    pub(crate) scale: f32,
    pub(crate) offset: f32,
}

/// An offset that is none.
pub(crate) const NO_OFFSET: f32 = -0.0;

impl Cells {
    /// Whole levels between two.
    #[inline(always)]
    pub(crate) fn whole(scale: f32, offset: f32, range: [f32; 2]) -> Self {
        // What rounds to a level of the range is not clipped.
        let inside = [range[0] - 0.5, range[1] + 0.5];
        Self { scale, divisor: divisor(scale), offset, range, inside, table: None }
    }

    /// The values of a table between these.
    #[inline(always)]
    pub(crate) fn table(scale: f32, table: TableGrid, range: [f32; 2]) -> Self {
        let (divisor, offset) = (divisor(scale), NO_OFFSET);
        Self { scale, divisor, offset, range, inside: range, table: Some(table) }
    }

    /// A weight in steps.
    #[inline(always)]
    fn steps(self, w: f32) -> f32 {
        (w - self.offset) / self.divisor
    }

    /// The level of a weight in steps: the nearest, ties to the even one.
    #[inline(always)]
    fn level(self, u: f32) -> f32 {
        /// Adding it leaves no fraction bits, and clamped values are small.
        const ROUND: f32 = 12_582_912.0;
        match self.table {
            None => (u.clamp(self.range[0], self.range[1]) + ROUND) - ROUND,
            Some(table) => table.value(table.nearest_code(u)),
        }
    }

    /// The level that a weight takes under a rounding offset.
    #[inline(always)]
    pub(crate) fn level_of(self, w: f32, v: f32) -> f32 {
        self.level(self.steps(w) + v)
    }

    /// The value of a level.
    #[inline(always)]
    pub(crate) fn value(self, level: f32) -> f32 {
        level * self.scale + self.offset
    }

    /// The code of a level.
    #[inline(always)]
    pub(crate) fn code(self, level: f32) -> u8 {
        match self.table {
            None => (level - self.range[0]) as u8,
            Some(table) => table.nearest_code(level),
        }
    }

    /// The level of a code.
    #[inline(always)]
    pub(crate) fn level_of_code(self, code: u8) -> f32 {
        match self.table {
            None => f32::from(code) + self.range[0],
            Some(table) => table.value(code),
        }
    }

    /// The weight nearest to `w` that takes a level, well within its cell; `w` itself, to the bit, if it takes it already.
    pub(crate) fn within(self, w: f32, level: f32) -> f32 {
        /// Of the way to the border.
        const SHARE: f32 = 0.98;
        let u = self.steps(w);
        if self.scale == 0.0 || self.level(u) == level {
            return w;
        }
        // The border towards `u`: whole levels have theirs half-way, those of a table where another value is nearer.
        let border = match self.table {
            None => level + 0.5f32.copysign(u - level),
            Some(_) => {
                let (mut near, mut far) = (level, u);
                for _ in 0..24 {
                    let middle = 0.5 * (near + far);
                    let same = self.level(middle) == level;
                    *(if same { &mut near } else { &mut far }) = middle;
                }
                near
            }
        };
        (level + SHARE * (border - level)) * self.scale + self.offset
    }

    /// Gradients by step and offset; `d` becomes that by the weights, or by their rounding offsets `v`.
    #[inline(always)]
    pub(crate) fn backward(
        self,
        d: &mut [f32],
        w: &[f32],
        v: Option<&[f32]>,
        by_rounding: bool,
    ) -> BySteps {
        const LANES: usize = 16;
        let (mut scale, mut offset) = ([0.0f32; LANES], [0.0f32; LANES]);
        let factor = if by_rounding { self.scale } else { 1.0 };
        let mut lane = |d: &mut f32, w: f32, v: f32, lane: usize| {
            let ratio = self.steps(w);
            let u = ratio + v;
            let level = self.level(u);
            let inside = u >= self.inside[0] && u <= self.inside[1];
            scale[lane] += *d * if inside { level - ratio } else { level };
            offset[lane] += if inside { 0.0 } else { *d };
            *d = if inside { *d * factor } else { 0.0 };
        };
        match v {
            None => {
                for (d, w) in d.chunks_mut(LANES).zip(w.chunks(LANES)) {
                    for (i, (d, w)) in d.iter_mut().zip(w).enumerate() {
                        lane(d, *w, 0.0, i);
                    }
                }
            }
            Some(v) => {
                let pieces = d.chunks_mut(LANES).zip(w.chunks(LANES)).zip(v.chunks(LANES));
                for ((d, w), v) in pieces {
                    for (i, ((d, w), v)) in d.iter_mut().zip(w).zip(v).enumerate() {
                        lane(d, *w, *v, i);
                    }
                }
            }
        }
        BySteps { scale: scale.iter().sum(), offset: offset.iter().sum() }
    }

    /// The same where levels are fixed: true derivatives.
    #[inline(always)]
    pub(crate) fn backward_fixed(d: &[f32], levels: &[f32]) -> BySteps {
        BySteps { scale: dot(d, levels), offset: d.iter().sum() }
    }
}

#[inline(always)]
fn divisor(scale: f32) -> f32 {
    if scale == 0.0 { f32::INFINITY } else { scale }
}
