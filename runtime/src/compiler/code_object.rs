//! Registers, shared memory and spills from the notes of an AMD code object.
//!
//! A code object is an ELF file; a note of type 32 by `AMDGPU` holds a MessagePack map whose entry
//! `amdhsa.kernels` lists every kernel (LLVM's AMDGPU usage guide, "code object V3 and above metadata").
//! The bytes come from a vendor library or from a cache file: every read is checked.

use crate::device::Resources;

const PT_NOTE: u32 = 4;
const NT_AMDGPU_METADATA: u32 = 32;
/// Containers within containers that are followed; the real ones have five.
const DEPTH: usize = 16;

/// The costs of one kernel of a code object.
pub(super) fn resources(binary: &[u8], symbol: &str) -> Result<Resources, String> {
    let note = metadata(binary)?;
    let root = Reader { bytes: note, at: 0 }
        .value(DEPTH)
        .ok_or("its metadata is damaged")?;
    let Some(Value::Array(kernels)) = root.get("amdhsa.kernels") else {
        return Err("its metadata lists no kernels".to_string());
    };
    let kernel = kernels
        .iter()
        .find(|kernel| matches!(kernel.get(".name"), Some(Value::Text(name)) if *name == symbol))
        .ok_or_else(|| format!("it holds no kernel {symbol}"))?;
    let number = |key: &str| match kernel.get(key) {
        Some(Value::Number(number)) => Ok(*number),
        _ => Err(format!("its metadata has no {key}")),
    };
    Ok(Resources {
        registers: number(".vgpr_count")?,
        shared_bytes: number(".group_segment_fixed_size")?,
        spills: number(".vgpr_spill_count")?.saturating_add(number(".sgpr_spill_count")?),
        scratch_bytes: number(".private_segment_fixed_size")?,
    })
}

/// The bytes of the metadata note.
fn metadata(binary: &[u8]) -> Result<&[u8], String> {
    // 64-bit, little endian.
    if binary.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("it is no 64-bit ELF file".to_string());
    }
    find_note(binary).ok_or_else(|| "it has no metadata note".to_string())
}

fn find_note(binary: &[u8]) -> Option<&[u8]> {
    let headers = number::<8>(binary, 32)? as usize;
    let size = number::<2>(binary, 54)? as usize;
    let count = number::<2>(binary, 56)? as usize;
    for at in 0..count {
        let header = headers.checked_add(size.checked_mul(at)?)?;
        if number::<4>(binary, header)? as u32 != PT_NOTE {
            continue;
        }
        let offset = number::<8>(binary, header.checked_add(8)?)? as usize;
        let length = number::<8>(binary, header.checked_add(32)?)? as usize;
        let segment = binary.get(offset..offset.checked_add(length)?)?;
        if let Some(found) = note_in(segment) {
            return Some(found);
        }
    }
    None
}

/// Walks the notes of a segment: name size, description size, type, then both padded to 4 bytes.
fn note_in(segment: &[u8]) -> Option<&[u8]> {
    let mut at = 0usize;
    loop {
        let name_size = number::<4>(segment, at)? as usize;
        let size = number::<4>(segment, at.checked_add(4)?)? as usize;
        let kind = number::<4>(segment, at.checked_add(8)?)? as u32;
        let name_at = at.checked_add(12)?;
        let name = segment.get(name_at..name_at.checked_add(name_size)?)?;
        let start = name_at.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let description = segment.get(start..start.checked_add(size)?)?;
        if kind == NT_AMDGPU_METADATA && name == b"AMDGPU\0" {
            return Some(description);
        }
        at = start.checked_add(size.checked_next_multiple_of(4)?)?;
    }
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let slice = bytes.get(at..at.checked_add(N)?)?;
    Some(slice.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// The part of MessagePack that the metadata needs; other values are skipped.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Array(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
    Other,
}

impl<'a> Value<'a> {
    fn get(&self, key: &str) -> Option<&Value<'a>> {
        let Self::Map(entries) = self else {
            return None;
        };
        entries
            .iter()
            .find(|(name, _)| *name == Value::Text(key))
            .map(|(_, value)| value)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        let depth = depth.checked_sub(1)?;
        let tag = self.number(1)?;
        Some(match tag {
            0x00..=0x7f => Value::Number(tag as u32),
            0x80..=0x8f => self.map(tag & 0x0f, depth)?,
            0x90..=0x9f => self.array(tag & 0x0f, depth)?,
            0xa0..=0xbf => self.text(tag & 0x1f)?,
            // nil, false, true, negative numbers of 5 bits
            0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Value::Other,
            // binary
            0xc4..=0xc6 => {
                let length = self.number(1 << (tag - 0xc4))?;
                self.skip(length)?
            }
            // extensions have one more byte, their type
            0xc7..=0xc9 => {
                let length = self.number(1 << (tag - 0xc7))?;
                self.skip(length.checked_add(1)?)?
            }
            0xca => self.skip(4)?,
            0xcb => self.skip(8)?,
            0xcc..=0xcf => match u32::try_from(self.number(1 << (tag - 0xcc))?) {
                Ok(number) => Value::Number(number),
                Err(_) => Value::Other,
            },
            // Signed numbers; a writer may choose them for positive ones.
            0xd0..=0xd3 => {
                let size = 1 << (tag - 0xd0);
                let number = self.number(size)?;
                let negative = number >> (8 * size - 1) & 1 == 1;
                match u32::try_from(number) {
                    Ok(number) if !negative => Value::Number(number),
                    _ => Value::Other,
                }
            }
            0xd4..=0xd8 => self.skip((1 << (tag - 0xd4)) + 1)?,
            0xd9..=0xdb => {
                let length = self.number(1 << (tag - 0xd9))?;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let length = self.number(2 << (tag - 0xdc))?;
                self.array(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.number(2 << (tag - 0xde))?;
                self.map(length, depth)?
            }
            _ => return None,
        })
    }

    /// A big-endian number.
    fn number(&mut self, size: usize) -> Option<u64> {
        let bytes = self.take(size as u64)?;
        Some(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn skip(&mut self, length: u64) -> Option<Value<'a>> {
        self.take(length).map(|_| Value::Other)
    }

    fn text(&mut self, length: u64) -> Option<Value<'a>> {
        std::str::from_utf8(self.take(length)?).ok().map(Value::Text)
    }

    // Nothing is reserved from a length that was read: an entry takes at least one byte, so a wrong length
    // ends with the bytes.
    fn array(&mut self, length: u64, depth: usize) -> Option<Value<'a>> {
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(self.value(depth)?);
        }
        Some(Value::Array(items))
    }

    fn map(&mut self, length: u64, depth: usize) -> Option<Value<'a>> {
        let mut entries = Vec::new();
        for _ in 0..length {
            entries.push((self.value(depth)?, self.value(depth)?));
        }
        Some(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(0xd9);
        out.push(text.len() as u8);
        out.extend(text.bytes());
    }

    /// An ELF file with nothing in it but a note about two kernels.
    fn object() -> Vec<u8> {
        let mut note = vec![0x82];
        text(&mut note, "amdhsa.version");
        note.extend([0x92, 1, 2]);
        text(&mut note, "amdhsa.kernels");
        note.extend([0xdc, 0, 2]);
        for (name, vgprs) in [("first", 40u16), ("second", 300)] {
            note.extend([0xde, 0, 8]);
            text(&mut note, ".name");
            text(&mut note, name);
            text(&mut note, ".vgpr_count");
            note.push(0xcd);
            note.extend(vgprs.to_be_bytes());
            text(&mut note, ".group_segment_fixed_size");
            note.push(0xce);
            note.extend(65536u32.to_be_bytes());
            text(&mut note, ".vgpr_spill_count");
            note.push(7);
            text(&mut note, ".sgpr_spill_count");
            note.extend([0xd1, 0, 2]);
            text(&mut note, ".private_segment_fixed_size");
            note.extend([0xcc, 200]);
            text(&mut note, ".uses_dynamic_stack");
            note.push(0xc2);
            text(&mut note, ".weight");
            note.push(0xcb);
            note.extend(1.5f64.to_be_bytes());
        }
        let mut segment = Vec::new();
        // a note by somebody else in front
        for number in [3u32, 5, 1] {
            segment.extend(number.to_le_bytes());
        }
        segment.extend(b"GNU\0hello\0\0\0");
        for number in [7u32, note.len() as u32, NT_AMDGPU_METADATA] {
            segment.extend(number.to_le_bytes());
        }
        segment.extend(b"AMDGPU\0\0");
        segment.extend(&note);

        let mut file = vec![0u8; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = PT_NOTE as u8;
        file[64 + 8] = 120;
        file[64 + 32..64 + 40].copy_from_slice(&(segment.len() as u64).to_le_bytes());
        file.extend(segment);
        file
    }

    #[test]
    fn each_kernel_its_own_numbers() {
        let expected = |registers| Resources {
            registers,
            shared_bytes: 65536,
            spills: 9,
            scratch_bytes: 200,
        };
        assert_eq!(resources(&object(), "first"), Ok(expected(40)));
        assert_eq!(resources(&object(), "second"), Ok(expected(300)));
        assert!(resources(&object(), "third").unwrap_err().contains("third"));
        assert!(resources(b"BC\xc0\xde", "first").unwrap_err().contains("ELF"));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let whole = object();
        for end in 0..whole.len() {
            assert!(resources(&whole[..end], "second").is_err(), "cut at {end}");
        }
        let mut random = StdRng::seed_from_u64(11);
        for _ in 0..20_000 {
            let mut damaged = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..damaged.len());
                damaged[at] = random.random();
            }
            let _ = resources(&damaged, "second");
        }
        // nested deeper than anything real
        let nested = vec![0x91; 100_000];
        assert!(Reader { bytes: &nested, at: 0 }.value(DEPTH).is_none());
    }
}
