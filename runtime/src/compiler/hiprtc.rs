//! AMD's run-time compiler.
//!
//! Looked for in the folder `TILEKILN_ROCM_DIR` when that is set, and nowhere else then; otherwise by its
//! usual names where the loader looks, and under `ROCM_PATH`, `HIP_PATH` and `/opt/rocm`. Up to ROCm 5 its
//! functions are in `libamdhip64` itself.

use std::time::Instant;

use tilekiln_codegen::Generated;

use super::rtc::{Outcome, Rtc};
use super::{CompileError, Compiled, Compiler, code_object};
use crate::device::Resources;
use crate::error::DeviceError;
use crate::hip::api;
use crate::library::{self, Opened};

/// Names of the library, the newest first.
pub(crate) const NAMES: &[&str] = if cfg!(windows) {
    &["hiprtc0702.dll", "hiprtc0604.dll", "amdhip64_7.dll", "amdhip64_6.dll"]
} else {
    &[
        "libhiprtc.so.7",
        "libhiprtc.so.6",
        "libhiprtc.so",
        "libamdhip64.so.7",
        "libamdhip64.so.6",
        "libamdhip64.so.5",
        "libamdhip64.so",
    ]
};

/// Instructions stay in the order of the text. LLVM otherwise moves them with an estimate of the registers that they will
/// take, and where the estimate is a few below what a lane has, those few are spilled: of the attention kernels for gfx1150
/// one in a hundred. All of these take 40 to 60 registers less in the order of the text. Only an option that every LLVM
/// knows can be given: one that it does not know ends the process.
pub const UNSCHEDULED: [&str; 2] = ["-mllvm", "-enable-misched=0"];

/// hipRTC.
pub struct Hiprtc {
    rtc: Rtc,
    name: String,
    fingerprint: String,
    file: String,
    /// `hipRuntimeGetVersion` of the runtime beside it, 0 when there is none.
    version: i32,
}

impl Hiprtc {
    /// Opens the library. Fails with [`DeviceError::MissingLibrary`].
    pub fn open() -> Result<Self, DeviceError> {
        let candidates = library::candidates(api::DIR_VARIABLE, NAMES, &api::rocm_folders());
        let missing = |tried: &[String]| library::missing(NAMES, tried, api::REMEDY.to_string());
        let opened = library::open_first(&candidates).map_err(|tried| missing(&tried))?;
        let rtc = Rtc::load(&opened, "hiprtc", "GetCode").map_err(|reason| missing(&[reason]))?;
        Ok(Self::describe(rtc, &opened))
    }

    fn describe(rtc: Rtc, opened: &Opened) -> Self {
        // hiprtcVersion says 9.0 for ROCm 5 and 7 alike, so the runtime is asked.
        let version = api::runtime_version().unwrap_or(0);
        let name = match api::version_words(version) {
            Some(words) => format!("hipRTC of ROCm {words}"),
            None => "hipRTC".to_string(),
        };
        let file = opened.file_of("hiprtcVersion");
        let size = file
            .as_deref()
            .and_then(|path| path.metadata().ok())
            .map_or(0, |meta| meta.len());
        Self {
            rtc,
            fingerprint: format!("{name}, {size} bytes, unscheduled where it spills"),
            name,
            file: file
                .as_ref()
                .map_or_else(|| opened.name.clone(), |path| path.display().to_string()),
            version,
        }
    }

    /// The file it was loaded from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What `hipRuntimeGetVersion` of the runtime beside it says (71460850 is 7.14.60850), 0 when unknown.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// Why this library must not be asked for an architecture.
    fn refusal(&self, architecture: &str) -> Option<String> {
        let separate = !self.file.contains("amdhip64");
        let least = first_version(architecture);
        let known = match (self.version, separate) {
            // A libhiprtc without a runtime beside it is of ROCm 6 or later.
            (0, true) => true,
            (0, false) => false,
            (version, _) => version >= least,
        };
        (!known).then(|| {
            let least = api::version_words(least).unwrap_or_default();
            format!(
                "this version does not know {architecture} and would end the process; ROCm {least} or later is needed"
            )
        })
    }
}

/// The first ROCm (as `hipRuntimeGetVersion` counts) that is asked for an architecture. Versions before 6 kill
/// the process for one they do not know instead of returning an error, so the table errs on the late side.
fn first_version(architecture: &str) -> i32 {
    match architecture {
        "gfx1030" | "gfx1031" | "gfx1032" => 50_200_000,
        "gfx1100" | "gfx1101" | "gfx1102" => 50_400_000,
        "gfx1200" | "gfx1201" => 60_300_000,
        _ => 60_100_000,
    }
}

impl Compiler for Hiprtc {
    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn options(&self, architecture: &str) -> Vec<String> {
        vec![
            // Without it hipRTC asks the driver which GPU there is, and fails where there is none.
            format!("--offload-arch={architecture}"),
            "-std=c++17".to_string(),
            // A block runs on one compute unit. In the default mode it may be spread over two, which makes
            // each barrier invalidate the first-level cache, and the compiler then allocates registers worse:
            // flash attention with head_dim 128 takes 256 registers and spills, 209 and no spills with this.
            // A block gets at most 64 KiB of shared memory in either mode. The price: the waves of a block
            // share two SIMDs instead of four, so one of 1024 threads has 64 registers a thread, not 128.
            "-mcumode".to_string(),
        ]
    }

    fn build(&self, generated: &Generated, architecture: &str) -> Result<Compiled, Box<CompileError>> {
        let start = Instant::now();
        let fail = |reason: String, log: String| CompileError::new(&self.name, generated, architecture, reason, log);
        if let Some(reason) = self.refusal(architecture) {
            return Err(fail(reason, String::new()));
        }
        let options = self.options(architecture);
        let spills = |outcome: &Outcome| {
            let binary = outcome.binary.as_deref().ok();
            let resources = binary.and_then(|binary| code_object::resources(binary, &generated.symbol).ok());
            resources.is_some_and(|resources| resources.spills > 0)
        };
        let outcome = self.rtc.build_without_spills(generated, &options, &UNSCHEDULED, spills);
        let mut log = outcome.log;
        let binary = match outcome.binary {
            Ok(binary) => binary,
            Err(reason) => {
                // An architecture that clang does not know gives an error code and not a word.
                let hint = log.trim().is_empty().then(|| {
                    format!(
                        "an empty log usually means that {} does not know {architecture}",
                        self.name
                    )
                });
                return Err(fail(reason, log).with_hint(hint));
            }
        };
        let resources = match code_object::resources(&binary, &generated.symbol) {
            Ok(resources) => resources,
            // The kernel can still be launched; the warning is for those who look at the numbers.
            Err(reason) => {
                log.push_str(&format!("\nwarning: registers and spills are unknown: {reason}\n"));
                Resources::default()
            }
        };
        Ok(Compiled {
            binary,
            resources: Resources {
                shared_bytes: resources.shared_bytes + generated.dynamic_shared_bytes as u32,
                ..resources
            },
            log,
            time: start.elapsed(),
            from_cache: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::testing::{self, WMMA_HIP};
    use crate::compiler::{compile, compile_all};

    fn hiprtc() -> Option<Hiprtc> {
        match Hiprtc::open() {
            Ok(hiprtc) => Some(hiprtc),
            Err(error) => {
                testing::skip("hiprtc", error);
                None
            }
        }
    }

    /// The architecture, or none when the installed ROCm would end the process for it.
    fn for_gfx1150() -> Option<Hiprtc> {
        let hiprtc = hiprtc()?;
        match hiprtc.refusal("gfx1150") {
            None => Some(hiprtc),
            Some(reason) => {
                let generated = testing::generated("wmma_probe.hip", "gfx1150", WMMA_HIP);
                let error = compile(&hiprtc, &generated).expect_err("an old library must be refused");
                assert!(error.to_string().contains("would end the process"), "{error}");
                testing::skip("hiprtc", format!("{}: {reason}", hiprtc.name()));
                None
            }
        }
    }

    #[test]
    fn compiles_for_gfx1150_without_a_word() {
        let Some(hiprtc) = for_gfx1150() else { return };
        let mut generated = testing::generated("wmma_probe.hip", "gfx1150", WMMA_HIP);
        generated.dynamic_shared_bytes = 4096;
        let compiled = compile(&hiprtc, &generated).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(&compiled.binary[..4], b"\x7fELF");
        assert_eq!(compiled.warnings(), [], "{}", compiled.log);
        let Resources {
            registers,
            shared_bytes,
            spills,
            scratch_bytes,
        } = compiled.resources;
        assert!((16..=128).contains(&registers), "{registers}");
        assert_eq!((shared_bytes, spills, scratch_bytes), (256 + 4096, 0, 0));
    }

    #[test]
    fn a_rejection_shows_the_authors_line() {
        let Some(hiprtc) = for_gfx1150() else { return };
        let text = WMMA_HIP.replace("partial[threadIdx.x] = c[0]", "partial[threadIdx.x] = cc[0]");
        let generated = testing::generated("planted_hip.hip", "gfx1150", &text);
        let error = compile(&hiprtc, &generated).expect_err("cc is not declared");
        let line = 1 + text.lines().position(|line| line.contains("cc[0]")).expect("planted");
        assert_eq!(error.errors[0].diagnostic.line, Some(line), "{error}");
        let shown = error.to_string();
        assert!(
            shown.contains(&format!("--> kernels/testing.rs:{}:5", 100 + line)),
            "{shown}"
        );
        assert!(
            shown.contains(&format!("> {line} |     partial[threadIdx.x] = cc[0]")),
            "{shown}"
        );
        eprintln!("{shown}");
    }

    #[test]
    fn unknown_architectures_have_a_way_out() {
        let Some(hiprtc) = for_gfx1150() else { return };
        let generated = testing::generated("wmma_probe.hip", "gfx1150", WMMA_HIP);
        let error = hiprtc.build(&generated, "gfx4242").expect_err("no such chip");
        assert!(error.to_string().contains("gfx4242"), "{error}");
        assert!(error.hint.is_some(), "{error}");
    }

    #[test]
    fn many_at_once() {
        let Some(hiprtc) = for_gfx1150() else { return };
        let sources: Vec<_> = (0..4)
            .map(|at| {
                let name = format!("wave_{at}");
                let text = WMMA_HIP
                    .replace("wmma_probe", &name)
                    .replace("* 64", &format!("* {}", 64 + at));
                testing::generated(&format!("{name}.hip"), "gfx1150", &text)
            })
            .collect();
        let together = compile_all(&hiprtc, None, &sources, None);
        for (source, together) in sources.iter().zip(together) {
            let alone = compile(&hiprtc, source).expect("compiles");
            let together = together.expect("compiles");
            assert_eq!(alone.binary, together.binary, "{}", source.symbol);
            assert!(!alone.warnings().iter().any(|_| true), "{}", alone.log);
        }
    }

    #[test]
    fn spills_are_counted() {
        let Some(hiprtc) = for_gfx1150() else { return };
        // More live values than registers, all at constant places.
        let text = r#"extern "C" __global__ void __launch_bounds__(1024) spilled(float* __restrict__ y) {
    float many[300];
    #pragma unroll
    for (int i = 0; i < 300; ++i)
        many[i] = y[threadIdx.x + i * 64];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 300; ++i)
        y[threadIdx.x + i * 64] = many[299 - i] * many[(i * 7 + 1) % 300];
}
"#;
        let compiled = compile(&hiprtc, &testing::generated("spilled.hip", "gfx1150", text)).expect("compiles");
        let Resources {
            registers,
            spills,
            scratch_bytes,
            ..
        } = compiled.resources;
        assert!(
            registers >= 64 && spills > 0 && scratch_bytes > 0,
            "{:?}",
            compiled.resources
        );
    }
}
