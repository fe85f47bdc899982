//! Types of IR values.

use std::fmt;

/// Scalar types. Integers below 32 bits and `BF16` exist in memory only: a load converts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Scalar {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    U64,
    F16,
    BF16,
    F32,
}

impl Scalar {
    /// Size in memory. A `bool` takes one byte.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::U64 => 8,
        }
    }

    /// Name in the DSL and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// Floating point.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32)
    }

    /// Signed integer.
    pub const fn is_signed_integer(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I32)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Type of a value: a scalar, or a short vector that is loaded and stored whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// One scalar.
    Scalar(Scalar),
    /// 2, 4 or 8 scalars, at most 16 bytes.
    Vector(Scalar, u8),
}

impl Type {
    /// Size in memory.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Scalar(scalar) => scalar.bytes(),
            Self::Vector(scalar, lanes) => scalar.bytes() * lanes as usize,
        }
    }

    /// Scalar type of the components.
    pub const fn scalar(self) -> Scalar {
        match self {
            Self::Scalar(scalar) | Self::Vector(scalar, _) => scalar,
        }
    }

    /// The type a value has after it was loaded: small integers become 32 bits wide, `bf16` becomes `f32`.
    pub const fn widened(self) -> Self {
        match self {
            Self::Scalar(Scalar::I8 | Scalar::I16) => Self::Scalar(Scalar::I32),
            Self::Scalar(Scalar::U8 | Scalar::U16) => Self::Scalar(Scalar::U32),
            Self::Scalar(Scalar::BF16) => Self::Scalar(Scalar::F32),
            other => other,
        }
    }

    /// Number of components.
    pub const fn components(self) -> usize {
        match self {
            Self::Scalar(_) => 1,
            Self::Vector(_, lanes) => lanes as usize,
        }
    }
}

impl From<Scalar> for Type {
    fn from(scalar: Scalar) -> Self {
        Self::Scalar(scalar)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(scalar) => scalar.fmt(f),
            Self::Vector(scalar, lanes) => write!(f, "{lanes}x{scalar}"),
        }
    }
}
