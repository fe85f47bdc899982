//! What a cache holds, value by value, in the domain it is stored in.

use half::f16;
use tilekiln_kernels::attention::codec::UnitShape;
use tilekiln_kernels::attention::formats::Format;
use tilekiln_kernels::attention::pages::{PAGE, UNIT, UNITS};

use crate::reference::cache::CacheFormat;
use crate::reference::turbo::rotation::{Direction, rotate_fast};
use crate::reference::turbo::{Codec, GROUP};

/// Keys or values of a slot.
pub struct Decoded {
    /// Position of the first one.
    pub first: usize,
    /// Values of a head, padding included.
    pub stored: usize,
    /// As the format says: of each KV head [positions, stored].
    pub exact: Vec<Vec<f64>>,
    /// As matrix instructions are fed with them.
    pub fed: Vec<Vec<f64>>,
}

impl Decoded {
    /// From what cache_read gives, `[positions, kv_heads, stored]`, in the domain that keys come in; `page` are the bytes
    /// from a position's page on.
    ///
    /// Turbo values are rotated back by cache_read. Here they are rotated again, and snapped to the codeword times the
    /// scale that the page holds, which is exact.
    ///
    /// # Panics
    /// Where what is read is no multiple of a codeword by far.
    pub fn new<'a>(
        format: &Format,
        unit: &UnitShape,
        first: usize,
        kv_heads: usize,
        values: &[f32],
        page: impl Fn(usize, usize) -> &'a [u8],
    ) -> Self {
        let stored = unit.groups * unit.places.dims;
        let mut decoded = Self {
            first,
            stored,
            exact: vec![Vec::with_capacity(values.len() / kv_heads); kv_heads],
            fed: vec![Vec::with_capacity(values.len() / kv_heads); kv_heads],
        };
        let reference = CacheFormat::named(format.name);
        for (at, head) in values.chunks_exact(stored).enumerate() {
            let (position, kv_head) = (first + at / kv_heads, at % kv_heads);
            let exact = head.iter().map(|&value| f64::from(value));
            match reference {
                Some(CacheFormat::Turbo(codec)) => {
                    let mut rotated: Vec<f64> = exact.collect();
                    rotate_fast(&mut rotated, Direction::Forward);
                    let bytes = page(position, kv_head);
                    for (group, values) in rotated.chunks_exact(GROUP).enumerate() {
                        let in_page = (group * UNITS + position % PAGE / UNIT) * unit.bytes;
                        let scale = in_page + unit.scales + 2 * unit.scale_index(position % UNIT);
                        let scale = f16::from_le_bytes([bytes[scale], bytes[scale + 1]]).to_f64();
                        for &value in values {
                            let codeword = snap(codec, value, scale);
                            decoded.exact[kv_head].push(f64::from(codeword) * scale);
                            decoded.fed[kv_head].push(f16::from_f32(codeword).to_f64() * scale);
                        }
                    }
                }
                Some(CacheFormat::Q8 | CacheFormat::Q4) => {
                    // a quant times its scale, rounded to f16 once
                    decoded.fed[kv_head].extend(exact.clone().map(|value| f16::from_f64(value).to_f64()));
                    decoded.exact[kv_head].extend(exact);
                }
                _ => {
                    decoded.fed[kv_head].extend(exact.clone());
                    decoded.exact[kv_head].extend(exact);
                }
            }
        }
        decoded
    }
}

/// The codeword that a decoded value is the multiple of.
fn snap(codec: &Codec, value: f64, scale: f64) -> f32 {
    let distance = |codeword: &f32| (f64::from(*codeword) * scale - value).abs();
    let found = codec
        .codewords()
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)));
    let codeword = found.unwrap_or(f32::NAN);
    assert!(
        distance(&codeword) <= 1e-4 * scale,
        "cache_read gives {value}, which is no codeword of {} times {scale}",
        codec.name
    );
    codeword
}
