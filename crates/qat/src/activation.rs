//! The activation between the matrices of the MLP, behind a gate or alone, and its gradient.
//!
//! All of them are `f(x) = x·σ` with `σ = sigmoid(s(x))`, so `f′(x) = σ·(1 + x·(1 − σ)·s′(x))`.

use fewbit_kernels::{Level, vectorize};
use fewbit_model::{
    Activation,
    math::{exp, gelu_argument, gelu_tanh, silu},
};
use rayon::prelude::*;

/// Values that a thread takes at a time.
const PIECE: usize = 1 << 14;

/// `act = f(gate) · up`, or without a gate `act = f(up)`.
pub(crate) fn forward(kind: Activation, act: &mut [f32], gate: Option<&[f32]>, up: &[f32]) {
    match kind {
        Activation::Silu => forward_by(act, gate, up, silu),
        Activation::GeluTanh => forward_by(act, gate, up, gelu_tanh),
    }
}

fn forward_by(act: &mut [f32], gate: Option<&[f32]>, up: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    let level = Level::detect();
    let pieces = act.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE)).enumerate();
    pieces.for_each(|(i, (act, up))| {
        let gate = gate.map(|gate| &gate[i * PIECE..][..up.len()]);
        vectorize(
            level,
            #[inline(always)]
            || match gate {
                Some(gate) => {
                    for ((act, gate), up) in act.iter_mut().zip(gate).zip(up) {
                        *act = f(*gate) * up;
                    }
                }
                None => act.iter_mut().zip(up).for_each(|(act, up)| *act = f(*up)),
            },
        );
    });
}

/// Gradients by gate and up from that by their product, in their places.
pub(crate) fn backward(kind: Activation, gate: Option<&mut [f32]>, up: &mut [f32], d_act: &[f32]) {
    match kind {
        Activation::Silu => backward_by(
            gate,
            up,
            d_act,
            #[inline(always)]
            |x| (x, 1.0),
        ),
        Activation::GeluTanh => backward_by(gate, up, d_act, gelu_argument),
    }
}

/// `σ` and `s′` of `s` and `s′`.
#[inline(always)]
fn sigmoid((s, slope): (f32, f32)) -> (f32, f32) {
    (1.0 / (1.0 + exp(-s)), slope)
}

/// `inner` is `s` and `s′`.
fn backward_by(
    gate: Option<&mut [f32]>,
    up: &mut [f32],
    d_act: &[f32],
    inner: impl Fn(f32) -> (f32, f32) + Sync,
) {
    let level = Level::detect();
    let pieces = up.par_chunks_mut(PIECE).zip(d_act.par_chunks(PIECE));
    match gate {
        Some(gate) => {
            pieces.zip(gate.par_chunks_mut(PIECE)).for_each(|((up, d), gate)| {
                vectorize(
                    level,
                    #[inline(always)]
                    || {
                        for ((gate, up), d) in gate.iter_mut().zip(up).zip(d) {
                            let (g, u) = (*gate, *up);
                            let (sigmoid, slope) = sigmoid(inner(g));
                            *gate = d * u * sigmoid * (1.0 + g * (1.0 - sigmoid) * slope);
                            *up = d * g * sigmoid;
                        }
                    },
                );
            });
        }
        None => pieces.for_each(|(up, d)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (up, d) in up.iter_mut().zip(d) {
                        let (sigmoid, slope) = sigmoid(inner(*up));
                        *up = d * sigmoid * (1.0 + *up * (1.0 - sigmoid) * slope);
                    }
                },
            );
        }),
    }
}
