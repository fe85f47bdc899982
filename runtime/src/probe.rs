//! What is installed: the facts behind `tilekiln doctor`.
//!
//! Nothing here fails: what is missing is a fact like any other.

use serde::Serialize;

use crate::compiler::cache::{self, CacheState};
use crate::compiler::hiprtc::Hiprtc;
use crate::compiler::nvrtc::Nvrtc;
use crate::cuda::{driver, target as cuda_target};
use crate::error::DeviceError;
use crate::hip::api::{self, Api};
use crate::hip::target as hip_target;

/// Vendor libraries, GPUs and the cache folder of this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// NVIDIA's compiler.
    pub nvrtc: LibraryFacts,
    /// NVIDIA's driver and its GPUs.
    pub libcuda: LibraryFacts,
    /// AMD's compiler.
    pub hiprtc: LibraryFacts,
    /// AMD's runtime and its GPUs.
    pub amdhip: LibraryFacts,
    /// Where compiled kernels are kept.
    pub cache: CacheState,
}

/// One vendor library.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LibraryFacts {
    /// It is installed and has the functions we call.
    pub found: bool,
    /// The file it was loaded from.
    pub file: Option<String>,
    /// Its version in words.
    pub version: Option<String>,
    /// GPUs it counts. Compilers count none.
    pub devices: Vec<DeviceFacts>,
    /// Why it was not found, or why there are no GPUs, in the words of loader or driver.
    pub reason: Option<String>,
    /// What to install or set.
    pub remedy: Option<String>,
}

/// One GPU.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceFacts {
    /// Its number, as `--device` takes it.
    pub ordinal: usize,
    /// Its marketing name.
    pub name: String,
    /// `sm_90`, `gfx1150`.
    pub architecture: String,
    /// The target kernels are generated for; nothing when none exist for this GPU.
    pub target: Option<String>,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Why it cannot be used, or that it uses the kernels of a neighbouring target.
    pub note: Option<String>,
}

/// Looks at everything.
pub fn probe() -> Probe {
    Probe {
        nvrtc: nvrtc(),
        libcuda: libcuda(),
        hiprtc: hiprtc(),
        amdhip: amdhip(),
        cache: cache::state(),
    }
}

impl LibraryFacts {
    fn missing(error: DeviceError) -> Self {
        match error {
            DeviceError::MissingLibrary { reason, remedy, .. } => Self {
                reason: Some(reason),
                remedy: Some(remedy),
                ..Self::default()
            },
            other => Self {
                reason: Some(other.to_string()),
                ..Self::default()
            },
        }
    }
}

fn nvrtc() -> LibraryFacts {
    match Nvrtc::open() {
        Err(error) => LibraryFacts::missing(error),
        Ok(nvrtc) => LibraryFacts {
            found: true,
            file: Some(nvrtc.file().to_string()),
            version: Some(format!("{}.{}", nvrtc.version().0, nvrtc.version().1)),
            reason: nvrtc
                .include()
                .is_none()
                .then(|| "no folder with cuda_fp16.h was found".to_string()),
            remedy: nvrtc
                .include()
                .is_none()
                .then(|| "set TILEKILN_CUDA_INCLUDE to the CUDA include folder".to_string()),
            ..LibraryFacts::default()
        },
    }
}

fn hiprtc() -> LibraryFacts {
    match Hiprtc::open() {
        Err(error) => LibraryFacts::missing(error),
        Ok(hiprtc) => LibraryFacts {
            found: true,
            file: Some(hiprtc.file().to_string()),
            version: api::version_words(hiprtc.version()).map(|words| format!("ROCm {words}")),
            ..LibraryFacts::default()
        },
    }
}

fn libcuda() -> LibraryFacts {
    let version = match driver::version() {
        Ok(version) => version,
        Err(error) => return LibraryFacts::missing(error),
    };
    let mut facts = LibraryFacts {
        found: true,
        file: driver::file(),
        version: Some(format!("CUDA {}.{}", version / 1000, version % 1000 / 10)),
        ..LibraryFacts::default()
    };
    let count = match driver::devices() {
        Ok(count) => count,
        Err(error) => {
            facts.reason = Some(error.to_string());
            return facts;
        }
    };
    for number in 0..count {
        match driver::describe(number) {
            Err(error) => facts.reason = Some(format!("device {number}: {error}")),
            Ok(described) => {
                let (major, minor) = described.capability;
                let (target, note) = match cuda_target::for_capability(described.capability) {
                    Ok(choice) => (Some(choice.target.name.to_string()), choice.note),
                    Err(error) => (None, Some(error.to_string())),
                };
                facts.devices.push(DeviceFacts {
                    ordinal: number as usize,
                    name: described.name,
                    architecture: format!("sm_{major}{minor}"),
                    target,
                    memory_bytes: described.memory_bytes,
                    note,
                });
            }
        }
    }
    facts
}

fn amdhip() -> LibraryFacts {
    let api = match Api::open() {
        Ok(api) => api,
        Err(error) => return LibraryFacts::missing(error),
    };
    let mut facts = LibraryFacts {
        found: true,
        file: Some(api.file.clone()),
        version: api
            .version()
            .and_then(api::version_words)
            .map(|words| format!("ROCm {words}")),
        ..LibraryFacts::default()
    };
    let count = match api.devices() {
        Ok(count) => count,
        Err(error) => {
            facts.reason = Some(error.to_string());
            return facts;
        }
    };
    for number in 0..count {
        match describe_hip(&api, number) {
            Ok(device) => facts.devices.push(device),
            Err(error) => facts.reason = Some(format!("device {number}: {error}")),
        }
    }
    facts
}

fn describe_hip(api: &Api, number: i32) -> Result<DeviceFacts, DeviceError> {
    let architecture = api.architecture(number)?;
    let (target, note) = match hip_target::for_architecture(&architecture) {
        Ok((target, note)) => (Some(target.name.to_string()), note),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(DeviceFacts {
        ordinal: number as usize,
        name: api.device_name(number)?,
        architecture,
        target,
        memory_bytes: api.memory_bytes(number)?,
        note,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "TILEKILN_TEST_PROBE";

    /// The probe of a process with another environment, as a script would read it.
    fn probe_with(environment: &[(&str, &str)]) -> serde_json::Value {
        let output = Command::new(std::env::current_exe().expect("a test knows its program"))
            .args(["--exact", "probe::tests::print_the_probe", "--nocapture"])
            .env(CHILD, "1")
            .envs(environment.iter().copied())
            .output()
            .expect("the same program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let json = text
            .lines()
            .find_map(|line| line.split_once("PROBE "))
            .expect("it was printed")
            .1;
        serde_json::from_str(json).expect("JSON")
    }

    #[test]
    fn print_the_probe() {
        if std::env::var_os(CHILD).is_some() {
            println!("\nPROBE {}", serde_json::to_string(&probe()).expect("plain data"));
        }
    }

    #[test]
    fn without_any_compiler() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let empty = folder.path().to_str().expect("plain name");
        let facts = probe_with(&[
            ("TILEKILN_NVRTC_DIR", empty),
            ("TILEKILN_ROCM_DIR", empty),
            ("TILEKILN_CACHE_DIR", empty),
        ]);
        for library in ["nvrtc", "hiprtc", "amdhip"] {
            let facts = &facts[library];
            assert_eq!(facts["found"], false, "{facts}");
            assert!(
                facts["reason"].as_str().is_some_and(|reason| reason.contains("lib")),
                "{facts}"
            );
            assert!(
                facts["remedy"]
                    .as_str()
                    .is_some_and(|remedy| remedy.contains("TILEKILN_")),
                "{facts}"
            );
            assert_eq!(facts["devices"].as_array().map(Vec::len), Some(0));
        }
        let cache = &facts["cache"];
        assert_eq!(
            (&cache["writable"], &cache["entries"]),
            (&true.into(), &0.into()),
            "{cache}"
        );
    }

    #[test]
    fn a_cache_folder_that_cannot_be_written_is_a_fact() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("occupied");
        std::fs::write(&file, "x").expect("written");
        let facts = probe_with(&[("TILEKILN_CACHE_DIR", file.to_str().expect("plain name"))]);
        assert_eq!(facts["cache"]["writable"], false, "{}", facts["cache"]);
        assert!(facts["cache"]["reason"].is_string());
    }

    #[test]
    fn here() {
        let facts = probe();
        eprintln!("{}", serde_json::to_string_pretty(&facts).expect("plain data"));
        for library in [&facts.nvrtc, &facts.libcuda, &facts.hiprtc, &facts.amdhip] {
            assert!(library.found || library.reason.is_some(), "{library:?}");
            assert!(
                !library.found || (library.file.is_some() && library.version.is_some()),
                "{library:?}"
            );
        }
        for driver in [&facts.libcuda, &facts.amdhip] {
            assert!(!driver.devices.is_empty() || driver.reason.is_some(), "{driver:?}");
            for device in &driver.devices {
                assert!(
                    device.memory_bytes > 0 && (device.target.is_some() || device.note.is_some()),
                    "{device:?}"
                );
            }
        }
    }
}
