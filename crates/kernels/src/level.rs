//! What the CPU can do. The only file that names CPU features.
//!
//! A level is a proof: values exist only for levels that the running machine has, so no caller can ask for instructions that are not
//! there.

use core::fmt;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use crate::arch::Simd128;
#[cfg(target_arch = "x86_64")]
use crate::arch::{Avx2, Avx512};
#[cfg(target_arch = "aarch64")]
use crate::arch::{Neon, NeonDot, NeonI8mm};
use crate::{arch::Scalar, int::simd::IntSimd};

/// The set of vector instructions that a kernel uses.
///
/// A value exists only for a level that this machine has. [`detect`](Self::detect) is the one to use; the others are for tests and
/// bug reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Level(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    #[cfg(target_arch = "aarch64")]
    NeonDot(NeonDot),
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(NeonI8mm),
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128(Simd128),
}

/// Every level that this crate knows, on whatever machine, lowest first: what [`Level::available`] leaves out is absent here.
pub const LEVEL_NAMES: [&str; 7] =
    ["scalar", "simd128", "neon", "neon-dotprod", "neon-i8mm", "avx2", "avx512"];

impl Level {
    /// Plain loops, on every machine: the oracle that the other levels are tested against.
    pub const SCALAR: Self = Self(Kind::Scalar(Scalar));

    /// The best level of this machine. The environment variable `FEWBIT_LEVEL` (a name of [`LEVEL_NAMES`]) lowers it, never
    /// raises it; a name that this machine lacks, or that does not exist, changes nothing. Read once.
    pub fn detect() -> Self {
        #[cfg(feature = "std")]
        {
            static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
            *BEST.get_or_init(|| {
                let wanted = std::env::var("FEWBIT_LEVEL").ok().and_then(|name| Self::named(&name));
                wanted.unwrap_or_else(Self::best)
            })
        }
        #[cfg(not(feature = "std"))]
        Self::best()
    }

    /// The levels of this machine, lowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let levels = [
            Some(Self::SCALAR),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(|token| Self(Kind::Avx2(token))),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(|token| Self(Kind::Avx512(token))),
            #[cfg(target_arch = "aarch64")]
            Neon::detect().map(|token| Self(Kind::Neon(token))),
            #[cfg(target_arch = "aarch64")]
            NeonDot::detect().map(|token| Self(Kind::NeonDot(token))),
            #[cfg(target_arch = "aarch64")]
            NeonI8mm::detect().map(|token| Self(Kind::NeonI8mm(token))),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Simd128::detect().map(|token| Self(Kind::Simd128(token))),
        ];
        levels.into_iter().flatten()
    }

    /// The level of this name, if this machine has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|level| level.name() == name)
    }

    /// Its name: one of [`LEVEL_NAMES`].
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDot(_) => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonI8mm(_) => "neon-i8mm",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Simd128(_) => "simd128",
        }
    }

    /// Floats of a vector register: a loop that is compiled for the level keeps as many sums as registers hold. 1 for plain loops.
    pub const fn f32_lanes(self) -> usize {
        match self.0 {
            Kind::Scalar(_) => 1,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => 8,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => 16,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) | Kind::NeonDot(_) | Kind::NeonI8mm(_) => 4,
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Simd128(_) => 4,
        }
    }

    fn best() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// Runs a kernel compiled for this level.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Kind::Scalar(token) => kernel.run(token),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(token) => token.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(token) => token.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDot(token) => token.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Kind::NeonI8mm(token) => token.run(kernel),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Simd128(token) => token.run(kernel),
        }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Code that is generic over the vector unit. `run` has to be `#[inline(always)]`, to be compiled with the level's features.
pub(crate) trait Kernel {
    type Output;
    fn run<S: IntSimd>(self, simd: S) -> Self::Output;
}

/// Runs ordinary code compiled with the vector instructions of a level, for loops that the compiler vectorizes by itself.
///
/// The closure, and every function that it calls, has to be `#[inline(always)]`: what is not inlined keeps the instructions of the build's
/// target. Results are the same bits at every level, because the compiler neither contracts nor reassociates floating-point operations.
///
/// ```
/// use fewbit_kernels::{Level, vectorize};
///
/// let mut x: Vec<f32> = (0..100).map(|i| i as f32).collect();
/// vectorize(
///     Level::detect(),
///     #[inline(always)]
///     || x.iter_mut().for_each(|x| *x *= *x),
/// );
/// assert_eq!(x[7], 49.0);
/// ```
#[inline]
pub fn vectorize<R>(level: Level, f: impl FnOnce() -> R) -> R {
    struct Call<F>(F);
    impl<R, F: FnOnce() -> R> Kernel for Call<F> {
        type Output = R;
        #[inline(always)]
        fn run<S: IntSimd>(self, _: S) -> R {
            (self.0)()
        }
    }
    level.dispatch(Call(f))
}

/// Defines a token whose existence proves CPU features, from one list of them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $detected:ident, [$($feature:tt),+]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) struct $name(());

        impl $name {
            /// The token, if the CPU has all the features.
            #[inline]
            pub(crate) fn detect() -> Option<Self> {
                #[cfg(feature = "std")]
                let found = $(std::arch::$detected!($feature))&&+;
                #[cfg(not(feature = "std"))]
                let found = $(cfg!(target_feature = $feature))&&+;
                found.then_some(Self(()))
            }

            /// Runs a kernel compiled with the features.
            #[inline]
            pub(crate) fn run<K: $crate::level::Kernel>(self, kernel: K) -> K::Output {
                $(#[target_feature(enable = $feature)])+
                fn featured<K: $crate::level::Kernel>(kernel: K, token: $name) -> K::Output {
                    kernel.run(token)
                }
                // SAFETY: a token is made only by `detect`, which found every feature of the same list.
                unsafe { featured(kernel, self) }
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use token;
