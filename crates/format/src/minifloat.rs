//! Floating-point numbers of 8 and 4 bits, as the OCP 8-bit and Microscaling formats define them.
//!
//! | encoding | sign, exponent, mantissa bits | bias | largest | smallest normal, subnormal | not numbers |
//! |---|---|---|---|---|---|
//! | E4M3 | 1, 4, 3 | 7 | 448 | 2^−6, 2^−9 | NaN 0x7f, 0xff; no infinity |
//! | E5M2 | 1, 5, 2 | 15 | 57344 | 2^−14, 2^−16 | infinity 0x7c, 0xfc; NaN above |
//! | E2M1 | 1, 2, 1 | 1 | 6 | 1, 0.5 | none |
//! | E8M0 | 0, 8, 0 | 127 | 2^127 | 2^−127, none | NaN 0xff |

use crate::round::round_ties_even;

/// An 8-bit floating-point encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Float8 {
    /// 4 exponent and 3 mantissa bits, the "FN" kind: no infinity, one NaN of each sign.
    E4M3,
    /// 5 exponent and 2 mantissa bits, with infinities and NaN as in IEEE 754.
    E5M2,
}

impl Float8 {
    /// Both.
    pub const ALL: [Self; 2] = [Self::E4M3, Self::E5M2];

    /// A word for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::E4M3 => "fp8 e4m3",
            Self::E5M2 => "fp8 e5m2",
        }
    }

    /// The largest finite value.
    pub const fn max(self) -> f32 {
        match self {
            Self::E4M3 => 448.0,
            Self::E5M2 => 57344.0,
        }
    }

    const fn mantissa_bits(self) -> u32 {
        match self {
            Self::E4M3 => 3,
            Self::E5M2 => 2,
        }
    }

    const fn bias(self) -> u32 {
        match self {
            Self::E4M3 => 7,
            Self::E5M2 => 15,
        }
    }

    /// The value of every code; NaN and infinity where the code is no number.
    pub const fn values(self) -> &'static [f32; 256] {
        static E4M3: [f32; 256] = Float8::E4M3.table();
        static E5M2: [f32; 256] = Float8::E5M2.table();
        match self {
            Self::E4M3 => &E4M3,
            Self::E5M2 => &E5M2,
        }
    }

    /// The value of a code; NaN or infinity if it is no number.
    pub fn decode(self, code: u8) -> f32 {
        self.values()[usize::from(code)]
    }

    /// The code whose value is nearest, ties to the even code, beyond the largest that with the sign kept. `value` is not NaN.
    #[inline]
    pub fn encode(self, value: f32) -> u8 {
        let (mantissa, bias) = (self.mantissa_bits(), self.bias());
        let sign = ((value.to_bits() >> 24) & 0x80) as u8;
        let magnitude = value.abs().min(self.max());
        let least_normal = f32::from_bits((128 - bias) << 23);
        let code = if magnitude < least_normal {
            // In steps of the smallest subnormal; the largest of them carries into the first normal by itself.
            let steps = f32::from_bits((127 + bias - 1 + mantissa) << 23);
            round_ties_even(magnitude * steps) as u32
        } else {
            let (bits, shift) = (magnitude.to_bits(), 23 - mantissa);
            let rounded = bits + ((1 << (shift - 1)) - 1) + (bits >> shift & 1);
            (rounded >> shift) - ((127 - bias) << mantissa)
        };
        sign | code as u8
    }

    const fn table(self) -> [f32; 256] {
        let (mantissa, bias) = (self.mantissa_bits(), self.bias());
        let exponents = 1 << (7 - mantissa);
        let mut values = [0.0; 256];
        let mut code = 0;
        while code < 256 {
            let sign = (code as u32 & 0x80) << 24;
            let exponent = (code as u32 & 0x7f) >> mantissa;
            let fraction = code as u32 & ((1 << mantissa) - 1);
            let special = match self {
                Self::E4M3 => code as u32 & 0x7f == 0x7f,
                Self::E5M2 => exponent == exponents - 1,
            };
            let magnitude = if special {
                let infinite = matches!(self, Self::E5M2) && fraction == 0;
                if infinite { f32::INFINITY } else { f32::NAN }
            } else if exponent == 0 {
                fraction as f32 * f32::from_bits((128 - bias - mantissa) << 23)
            } else {
                f32::from_bits((exponent + 127 - bias) << 23 | fraction << (23 - mantissa))
            };
            values[code] = f32::from_bits(magnitude.to_bits() | sign);
            code += 1;
        }
        values
    }
}

/// Values of the 4-bit codes: sign in bit 3, two exponent bits, one mantissa bit.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The E2M1 code whose value is nearest, ties to the even code, beyond ±6 that. Zero of either sign gives code 0; a negative value that rounds to
/// zero gives code 8, as in compressed-tensors. `value` is not NaN.
#[inline]
pub fn encode_e2m1(value: f32) -> u8 {
    let x = value.abs();
    // A midpoint counts as passed where the code above it is even.
    let steps = [x > 0.25, x >= 0.75, x > 1.25, x >= 1.75, x > 2.5, x >= 3.5, x > 5.0];
    let code: u8 = steps.into_iter().map(u8::from).sum();
    code | u8::from(value < 0.0) << 3
}

/// The power of two that an E8M0 code stands for; NaN for 0xff.
#[inline]
pub const fn decode_e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits((code as u32) << 23),
    }
}
