//! Options for the formats of cached keys and values.

use clap::Args;

use super::Failure;
use crate::kv::{CacheTypes, KvPreset, KvType, KvTypes};

/// In which formats keys and values are cached.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Formats by what matters: quality (f16), balanced, small; the flags below change parts of it
    #[arg(long, value_name = "PRESET")]
    pub kv_preset: Option<KvPreset>,
    /// Format of cached keys: f16, bf16, q8_0, q4_0, turbo2, turbo3, turbo4, turbo4_first, f32 [default: f16] [short: -ctk]
    #[arg(long, value_name = "TYPE")]
    pub cache_type_k: Option<String>,
    /// Format of cached values, as for keys [short: -ctv]
    #[arg(long, value_name = "TYPE")]
    pub cache_type_v: Option<String>,
    /// Format of keys in layers with a sliding window, where it is another one [short: -ctk-swa]
    #[arg(long, value_name = "TYPE")]
    pub cache_type_k_swa: Option<String>,
    /// Format of values in layers with a sliding window, where it is another one [short: -ctv-swa]
    #[arg(long, value_name = "TYPE")]
    pub cache_type_v_swa: Option<String>,
}

impl CacheArgs {
    /// What was asked for; nothing if nothing was.
    ///
    /// # Errors
    /// Words that name no format, and formats that do not go together.
    pub fn types(&self) -> Result<Option<KvTypes>, Failure> {
        let kind =
            |flag: &str, given: &Option<String>| given.as_deref().map(|given| cache_type(flag, given)).transpose();
        let keys = kind("-ctk", &self.cache_type_k)?;
        let values = kind("-ctv", &self.cache_type_v)?;
        let sliding_keys = kind("--cache-type-k-swa", &self.cache_type_k_swa)?;
        let sliding_values = kind("--cache-type-v-swa", &self.cache_type_v_swa)?;
        let given = [keys, values, sliding_keys, sliding_values];
        if self.kv_preset.is_none() && given.iter().all(Option::is_none) {
            return Ok(None);
        }
        let preset = self.kv_preset.unwrap_or_default().types();
        let types = KvTypes {
            full: CacheTypes {
                keys: keys.unwrap_or(preset.full.keys),
                values: values.unwrap_or(preset.full.values),
            },
            sliding: CacheTypes {
                keys: sliding_keys.or(keys).unwrap_or(preset.sliding.keys),
                values: sliding_values.or(values).unwrap_or(preset.sliding.values),
            },
        };
        types.check().map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(Some(types))
    }
}

/// A format of cached keys or values.
pub(super) fn cache_type(flag: &str, given: &str) -> Result<KvType, Failure> {
    given
        .parse()
        .map_err(|error| Failure::Usage(format!("{flag}: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cache: CacheArgs,
    }

    fn types(line: &str) -> Result<Option<KvTypes>, Failure> {
        Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace()))
            .expect(line)
            .cache
            .types()
    }

    #[test]
    fn flags_change_parts_of_a_preset() {
        let both = CacheTypes::both;
        let pair = |keys, values| CacheTypes { keys, values };
        let balanced = KvPreset::Balanced.types();
        for (line, full, sliding) in [
            (
                "--cache-type-k turbo3",
                pair(KvType::TURBO3, KvType::F16),
                pair(KvType::TURBO3, KvType::F16),
            ),
            (
                "--cache-type-k q8_0 --cache-type-v TURBO3 --cache-type-k-swa f16 --cache-type-v-swa f16",
                pair(KvType::Q8_0, KvType::TURBO3),
                both(KvType::F16),
            ),
            (
                "--cache-type-k f32 --cache-type-v f32",
                both(KvType::F32),
                both(KvType::F32),
            ),
            ("--kv-preset quality", both(KvType::F16), both(KvType::F16)),
            ("--kv-preset balanced", balanced.full, balanced.sliding),
            (
                "--kv-preset balanced --cache-type-v-swa bf16",
                balanced.full,
                pair(balanced.sliding.keys, KvType::BF16),
            ),
        ] {
            assert_eq!(types(line).ok(), Some(Some(KvTypes { full, sliding })), "{line}");
        }
        assert_eq!(types("").ok(), Some(None));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for (line, wanted) in [
            ("--cache-type-k turbo5", "there are f32, f16"),
            ("--cache-type-v f32", "nearest choices are f32 for both"),
            (
                "--cache-type-k f32 --cache-type-v f32 --cache-type-v-swa q8_0",
                "f32 for both",
            ),
        ] {
            match types(line) {
                Err(Failure::Usage(text)) => assert!(text.contains(wanted), "{line}: {text}"),
                other => panic!("{line}: {:?}", other.is_ok()),
            }
        }
    }
}
