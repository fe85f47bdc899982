//! Which target's kernels an NVIDIA GPU runs.

use tilekiln_dsl::target::{TARGETS, Target, Vendor};

use crate::error::DeviceError;

/// What to generate and compile for.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Kernels are recorded for this.
    pub target: &'static Target,
    /// NVRTC compiles for this: the GPU's own architecture, whatever the text was generated for.
    pub architecture: String,
    /// What to tell people when the GPU has no entry of its own.
    pub note: Option<String>,
}

/// The entry for a compute capability: its own, else the newest that is not above it. Text for an older
/// architecture compiles for every newer one.
pub(crate) fn for_capability((major, minor): (u32, u32)) -> Result<Choice, DeviceError> {
    let ours = || TARGETS.iter().filter(|target| target.vendor == Vendor::Nvidia);
    let wanted = major * 10 + minor;
    let architecture = format!("sm_{wanted}");
    let best = ours()
        .filter_map(|target| Some((number(target.name)?, target)))
        .filter(|(number, _)| *number <= wanted)
        .max_by_key(|(number, _)| *number);
    match best {
        Some((number, target)) => Ok(Choice {
            target,
            note: (number != wanted).then(|| {
                format!(
                    "{architecture} has no entry of its own; kernels are generated for {} and compiled for {architecture}",
                    target.name
                )
            }),
            architecture,
        }),
        None => {
            let names: Vec<&str> = ours().map(|target| target.name).collect();
            Err(DeviceError::NoDevice {
                vendor: "NVIDIA",
                reason: format!("the GPU is a {architecture}, older than all that kernels exist for: {}", names.join(", ")),
            })
        }
    }
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix("sm_")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_entry_older_neighbour_or_an_error_with_names() {
        for (capability, target, own) in [
            ((8, 0), "sm_80", true),
            ((8, 9), "sm_80", false),
            ((9, 0), "sm_90", true),
            ((12, 0), "sm_120", true),
            ((12, 1), "sm_120", false),
        ] {
            let choice = for_capability(capability).expect("there is one");
            assert_eq!(choice.target.name, target);
            assert_eq!(choice.architecture, format!("sm_{}{}", capability.0, capability.1));
            assert_eq!(choice.note.is_none(), own);
            assert!(choice.note.is_none_or(|note| note.contains(target)));
        }
        let error = for_capability((7, 5)).expect_err("too old").to_string();
        assert!(error.contains("sm_75") && error.contains("sm_80"), "{error}");
    }
}
