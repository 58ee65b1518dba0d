//! Activations, rearranged for the loops that read them.

use alloc::{vec, vec::Vec};

use crate::{
    parallel::for_each_chunk,
    rows::Rows,
    simd::{LANES, Lanes},
};

/// One token's activations in the order that weights are stored in, padded with zeros to whole vectors.
pub(crate) fn gathered<R: Rows>(x: &[f32], rows: &R) -> Vec<Lanes> {
    let mut lanes = vec![Lanes::ZERO; rows.width().div_ceil(LANES)];
    let places = lanes.iter_mut().flat_map(|lanes| &mut lanes.0);
    match rows.gather() {
        None => places.zip(x).for_each(|(to, &x)| *to = x),
        Some(gather) => {
            for (to, &column) in places.zip(gather) {
                *to = x.get(column as usize).copied().unwrap_or(0.0);
            }
        }
    }
    lanes
}

/// Many tokens' activations in panels of sixteen tokens: `[token / 16][column as stored][token % 16]`, zeros where there is no token or no
/// column. `x` is `(n_tokens, in_features)`.
pub(crate) fn panels<R: Rows>(
    x: &[f32],
    in_features: usize,
    rows: &R,
    parallel: bool,
) -> Vec<Lanes> {
    let width = rows.width();
    let n_panels = (x.len() / in_features).div_ceil(LANES);
    let mut panels = vec![Lanes::ZERO; n_panels * width];
    for_each_chunk(&mut panels, width, parallel, |p, panel| {
        let tokens = &x[p * LANES * in_features..];
        // A square of columns and tokens at a time, so that every cache line is used while it is near.
        for (i, square) in panel.chunks_mut(LANES).enumerate() {
            let start = i * LANES;
            for (t, x) in tokens.chunks_exact(in_features).take(LANES).enumerate() {
                match rows.gather() {
                    None => {
                        let end = x.len().min(start + LANES);
                        for (to, &x) in square.iter_mut().zip(x.get(start..end).unwrap_or(&[])) {
                            to.0[t] = x;
                        }
                    }
                    Some(gather) => {
                        for (to, &column) in square.iter_mut().zip(&gather[start..]) {
                            to.0[t] = x.get(column as usize).copied().unwrap_or(0.0);
                        }
                    }
                }
            }
        }
    });
    panels
}
