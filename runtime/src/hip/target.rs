//! Which target's kernels an AMD GPU runs.

use tilekiln_dsl::target::{TARGETS, Target, Vendor};

use crate::error::DeviceError;

/// The target for an architecture, and what to tell people when it is not its own.
///
/// The text of a neighbour with the same first digits (`gfx11`) uses the same instructions and is compiled for
/// the architecture at hand; other generations have another matrix layout.
pub(crate) fn for_architecture(architecture: &str) -> Result<(&'static Target, Option<String>), DeviceError> {
    let ours = || TARGETS.iter().filter(|target| target.vendor == Vendor::Amd);
    if let Some(target) = ours().find(|target| target.name == architecture) {
        return Ok((target, None));
    }
    let number = number(architecture);
    let neighbour = ours()
        .filter(|target| generation(target.name).is_some() && generation(target.name) == generation(architecture))
        .min_by_key(|target| {
            number
                .zip(self::number(target.name))
                .map_or(u32::MAX, |(a, b)| a.abs_diff(b))
        });
    match neighbour {
        Some(target) => Ok((
            target,
            Some(format!(
                "{architecture} has no entry of its own; kernels are generated for {} and compiled for {architecture}",
                target.name
            )),
        )),
        None => {
            let names: Vec<&str> = ours().map(|target| target.name).collect();
            Err(DeviceError::NoDevice {
                vendor: "AMD",
                reason: format!(
                    "the GPU is a {architecture}; kernels exist for {} and their generation",
                    names.join(", ")
                ),
            })
        }
    }
}

/// The digits behind `gfx`, the last two of which are stepping and variant.
fn number(architecture: &str) -> Option<u32> {
    u32::from_str_radix(architecture.strip_prefix("gfx")?, 16).ok()
}

fn generation(architecture: &str) -> Option<&str> {
    let digits = architecture.strip_prefix("gfx")?;
    digits.get(..digits.len().checked_sub(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_entry_neighbour_or_an_error_with_names() {
        let (target, note) = for_architecture("gfx1150").expect("in the table");
        assert_eq!((target.name, note), ("gfx1150", None));
        for architecture in ["gfx1103", "gfx1152"] {
            let (target, note) = for_architecture(architecture).expect("the same generation");
            assert!(target.name.starts_with("gfx11"), "{}", target.name);
            assert!(note.expect("told").contains(architecture));
        }
        for architecture in ["gfx90a", "gfx942", "gfx1036", "", "gfx"] {
            let error = for_architecture(architecture)
                .expect_err("another generation")
                .to_string();
            assert!(error.contains("gfx1150"), "{error}");
        }
    }
}
