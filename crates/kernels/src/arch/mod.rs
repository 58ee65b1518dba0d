//! The vector units: of each, its float half and its integer half.

/// An intrinsic without a pointer.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! value {
    ($call:expr) => {
        // SAFETY: the intrinsic works on values alone and needs only CPU features, which `self`, a token made after detection, proves.
        unsafe { $call }
    };
}

/// A load or store through a pointer.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! memory {
    ($call:expr) => {
        // SAFETY: the token proves the features. The pointer comes from a reference to an array, or to the part of it that the access begins with, that is
        // live for this expression; the access has the size of the array or part and need not be aligned.
        unsafe { $call }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2_int;
#[cfg(target_arch = "x86_64")]
mod avx512_int;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
#[cfg(target_arch = "aarch64")]
mod neon_int;
mod scalar;
mod scalar_int;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm_int;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, NeonDot, NeonI8mm};
pub(crate) use scalar::Scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(crate) use wasm::Simd128;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};
