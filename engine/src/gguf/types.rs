//! Types of tensors and of metadata values.

use std::fmt;

/// Type of a tensor: how its values are stored.
///
/// Block types hold a fixed number of values in a fixed number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs)]
pub enum TensorType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    /// An id that this reader does not know. A file with such a tensor can be read; the tensor's data cannot.
    Unknown(u32),
}

use TensorType::*;

/// Every known type: its id in files, its name, values of a block, bytes of a block.
const TYPES: &[(u32, TensorType, &str, usize, usize)] = &[
    (0, F32, "F32", 1, 4),
    (1, F16, "F16", 1, 2),
    (2, Q4_0, "Q4_0", 32, 18),
    (3, Q4_1, "Q4_1", 32, 20),
    (6, Q5_0, "Q5_0", 32, 22),
    (7, Q5_1, "Q5_1", 32, 24),
    (8, Q8_0, "Q8_0", 32, 34),
    (9, Q8_1, "Q8_1", 32, 36),
    (10, Q2_K, "Q2_K", 256, 84),
    (11, Q3_K, "Q3_K", 256, 110),
    (12, Q4_K, "Q4_K", 256, 144),
    (13, Q5_K, "Q5_K", 256, 176),
    (14, Q6_K, "Q6_K", 256, 210),
    (15, Q8_K, "Q8_K", 256, 292),
    (16, IQ2_XXS, "IQ2_XXS", 256, 66),
    (17, IQ2_XS, "IQ2_XS", 256, 74),
    (18, IQ3_XXS, "IQ3_XXS", 256, 98),
    (19, IQ1_S, "IQ1_S", 256, 50),
    (20, IQ4_NL, "IQ4_NL", 32, 18),
    (21, IQ3_S, "IQ3_S", 256, 110),
    (22, IQ2_S, "IQ2_S", 256, 82),
    (23, IQ4_XS, "IQ4_XS", 256, 136),
    (24, I8, "I8", 1, 1),
    (25, I16, "I16", 1, 2),
    (26, I32, "I32", 1, 4),
    (27, I64, "I64", 1, 8),
    (28, F64, "F64", 1, 8),
    (29, IQ1_M, "IQ1_M", 256, 56),
    (30, BF16, "BF16", 1, 2),
    (34, TQ1_0, "TQ1_0", 256, 54),
    (35, TQ2_0, "TQ2_0", 256, 66),
    (39, MXFP4, "MXFP4", 32, 17),
];

impl TensorType {
    /// Every type that this reader knows.
    pub fn known() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|row| row.1)
    }

    /// The type with this id in files.
    pub fn from_id(id: u32) -> Self {
        TYPES.iter().find(|row| row.0 == id).map_or(Unknown(id), |row| row.1)
    }

    /// The type of that name, upper or lower case.
    pub fn named(name: &str) -> Option<Self> {
        TYPES
            .iter()
            .find(|row| row.2.eq_ignore_ascii_case(name))
            .map(|row| row.1)
    }

    fn row(self) -> Option<&'static (u32, TensorType, &'static str, usize, usize)> {
        TYPES.iter().find(|row| row.1 == self)
    }

    /// Its id in files.
    pub fn id(self) -> u32 {
        match self {
            Unknown(id) => id,
            _ => self.row().map_or(u32::MAX, |row| row.0),
        }
    }

    /// Its name as file tools write it; `unknown` for an unknown id (`Display` adds the id).
    pub fn name(self) -> &'static str {
        self.row().map_or("unknown", |row| row.2)
    }

    /// Values of a block: 1 for plain numbers. None when the type is unknown.
    pub fn block_values(self) -> Option<usize> {
        self.row().map(|row| row.3)
    }

    /// Bytes of a block. None when the type is unknown.
    pub fn block_bytes(self) -> Option<usize> {
        self.row().map(|row| row.4)
    }

    /// Bytes of `values` values. None when the type is unknown, when they are no whole number of blocks, or when it
    /// is more than memory can address.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let (_, _, _, block, size) = *self.row()?;
        values
            .is_multiple_of(block)
            .then_some(values / block)?
            .checked_mul(size)
    }

    /// Bits that one value takes. None when the type is unknown.
    pub fn bits_per_value(self) -> Option<f64> {
        self.row().map(|row| row.4 as f64 * 8.0 / row.3 as f64)
    }

    /// Name of the weight codec in the kernel library. None when the engine cannot compute with the type.
    pub fn codec(self) -> Option<&'static str> {
        Some(match self {
            F32 => "f32",
            F16 => "f16",
            BF16 => "bf16",
            Q8_0 => "q8_0",
            Q4_0 => "q4_0",
            Q5_0 => "q5_0",
            Q4_K => "q4_k",
            Q5_K => "q5_k",
            Q6_K => "q6_k",
            _ => return None,
        })
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown(id) => write!(f, "unknown type {id}"),
            known => f.pad(known.name()),
        }
    }
}

/// Type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// Every type, at its id in files.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this id in files.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Its id in files.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; None for strings and arrays.
    pub fn bytes(self) -> Option<usize> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String | Self::Array => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_names_and_sizes_agree() {
        for kind in TensorType::known() {
            assert_eq!(TensorType::from_id(kind.id()), kind);
            assert_eq!(TensorType::named(&kind.name().to_lowercase()), Some(kind));
            let (block, bytes) = (kind.block_values().unwrap(), kind.block_bytes().unwrap());
            assert_eq!(kind.bytes(3 * block), Some(3 * bytes));
            assert_eq!(kind.bytes(3 * block + 1).is_some(), block == 1, "{kind}");
        }
        assert_eq!(TensorType::from_id(4), Unknown(4));
        assert_eq!(Unknown(4).id(), 4);
        assert_eq!(Unknown(4).to_string(), "unknown type 4");
        assert_eq!((Unknown(4).bytes(32), Unknown(4).block_bytes()), (None, None));
        assert_eq!(F64.bytes(usize::MAX), None);
        for (id, kind) in ValueType::ALL.into_iter().enumerate() {
            assert_eq!(kind.id() as usize, id);
            assert_eq!(ValueType::from_id(kind.id()), Some(kind));
        }
        assert_eq!(ValueType::from_id(13), None);
    }

    /// Sizes of the types with a decoder are those of the decoder.
    #[test]
    fn block_sizes_are_those_of_the_reference_decoder() {
        for format in tilekiln_tests::reference::quant::BlockFormat::ALL {
            let kind = TensorType::named(format.name()).unwrap();
            let sizes = (kind.block_values().unwrap(), kind.block_bytes().unwrap());
            assert_eq!(sizes, (format.elements(), format.bytes()), "{kind}");
            assert_eq!(kind.codec().unwrap().to_uppercase(), kind.name());
        }
    }
}
