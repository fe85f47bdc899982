//! NVIDIA's run-time compiler.
//!
//! Looked for in the folder `TILEKILN_NVRTC_DIR` when that is set, and nowhere else then; otherwise by its
//! usual names where the loader looks, and under `CUDA_HOME`, `CUDA_PATH` and `/usr/local/cuda`.
//! Headers (`cuda_fp16.h`) come from `TILEKILN_CUDA_INCLUDE`, else from beside the library, else from those
//! same toolkits.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tilekiln_codegen::Generated;

use super::rtc::Rtc;
use super::{CompileError, Compiled, Compiler, ptxas};
use crate::device::Resources;
use crate::error::DeviceError;
use crate::library::{self, Opened};

/// Names of the library, the newest first.
pub(crate) const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};
/// The folder that holds the library.
pub(crate) const DIR_VARIABLE: &str = "TILEKILN_NVRTC_DIR";
const INCLUDE_VARIABLE: &str = "TILEKILN_CUDA_INCLUDE";
const REMEDY: &str =
    "install the CUDA toolkit's NVRTC (libnvrtc), or set TILEKILN_NVRTC_DIR to the folder that holds it";

/// Where a driver is installed, newer versions answer from the driver's own cache, and then without the lines
/// about registers and spills. Our cache keeps those with the binary.
const NO_CACHE: &str = "--no-cache";
/// Of an experimental scale of how willingly registers are used, the lower end: kernels that fill their registers to the
/// last one spill a few or none, depending on nothing that could be known beforehand, and these do not with it.
const FEWER_REGISTERS: [&str; 1] = ["--ptxas-options=--register-usage-level=0"];

/// NVRTC.
pub struct Nvrtc {
    rtc: Rtc,
    name: String,
    fingerprint: String,
    file: String,
    version: (i32, i32),
    include: Option<PathBuf>,
    no_cache: bool,
}

impl Nvrtc {
    /// Opens the library. Fails with [`DeviceError::MissingLibrary`].
    pub fn open() -> Result<Self, DeviceError> {
        let toolkits: Vec<PathBuf> = toolkits()
            .iter()
            .flat_map(|home| [home.join("lib64"), home.join("lib")])
            .collect();
        let candidates = library::candidates(DIR_VARIABLE, NAMES, &toolkits);
        if let Some(folder) = library::env_path(DIR_VARIABLE) {
            preload_builtins(&folder);
        }
        let missing = |tried: &[String]| library::missing(NAMES, tried, REMEDY.to_string());
        let opened = library::open_first(&candidates).map_err(|tried| missing(&tried))?;
        let rtc = Rtc::load(&opened, "nvrtc", "GetCUBIN").map_err(|reason| missing(&[reason]))?;
        let version = rtc.version().map_err(|reason| missing(&[reason]))?;
        Ok(Self::describe(rtc, &opened, version))
    }

    fn describe(rtc: Rtc, opened: &Opened, version: (i32, i32)) -> Self {
        let file = opened.file_of("nvrtcVersion");
        // Patch releases share the version number, never the size.
        let size = file
            .as_deref()
            .and_then(|path| path.metadata().ok())
            .map_or(0, |meta| meta.len());
        let name = format!("NVRTC {}.{}", version.0, version.1);
        // Its words may change; that an option is not known must be told apart from everything else.
        let probe = rtc.build("", "probe.cu", &[NO_CACHE.to_string()]);
        let no_cache = !matches!(&probe.binary, Err(reason) if reason.contains("INVALID_OPTION"));
        let beside = file.as_deref().and_then(Path::parent);
        Self {
            rtc,
            fingerprint: format!("{name}, {size} bytes, fewer registers where it spills"),
            name,
            version,
            no_cache,
            include: include_folder(beside),
            file: file
                .as_ref()
                .map_or_else(|| opened.name.clone(), |path| path.display().to_string()),
        }
    }

    /// The file it was loaded from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// `(13, 0)`.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The folder `cuda_fp16.h` is taken from.
    pub fn include(&self) -> Option<&Path> {
        self.include.as_deref()
    }

    fn hint(&self, log: &str) -> Option<String> {
        if log.contains("could not open source file") || log.contains("cannot open source file") {
            return Some(match &self.include {
                Some(folder) => format!(
                    "headers are taken from {}; set {INCLUDE_VARIABLE} to another CUDA include folder",
                    folder.display()
                ),
                None => {
                    format!("no CUDA headers were found; set {INCLUDE_VARIABLE} to the folder that holds cuda_fp16.h")
                }
            });
        }
        if log.contains("invalid value for --gpu-architecture") {
            return Some(format!(
                "{} does not know this architecture; install another NVRTC",
                self.name
            ));
        }
        log.contains("nvrtc-builtins").then(|| {
            format!(
                "libnvrtc-builtins must be where the loader finds it; set {DIR_VARIABLE} to the folder that holds both"
            )
        })
    }
}

impl Compiler for Nvrtc {
    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn options(&self, architecture: &str) -> Vec<String> {
        let mut options = vec![
            // A real architecture gives a cubin: no PTX for the driver to compile at load time, and PTX of a
            // newer NVRTC than the driver would not load at all.
            format!("--gpu-architecture={architecture}"),
            "-std=c++17".to_string(),
            // Registers and spills into the log.
            "--ptxas-options=-v".to_string(),
        ];
        options.extend(self.no_cache.then(|| NO_CACHE.to_string()));
        options.extend(
            self.include
                .as_ref()
                .map(|folder| format!("--include-path={}", folder.display())),
        );
        options
    }

    fn build(&self, generated: &Generated, architecture: &str) -> Result<Compiled, Box<CompileError>> {
        let start = Instant::now();
        let outcome =
            self.rtc
                .build_without_spills(generated, &self.options(architecture), &FEWER_REGISTERS, |outcome| {
                    let resources = ptxas::resources(&outcome.log, &generated.symbol);
                    outcome.binary.is_ok() && resources.is_some_and(|resources| resources.spills > 0)
                });
        let fail = |reason: String, log: String| {
            let hint = self.hint(&log);
            CompileError::new(&self.name, generated, architecture, reason, log).with_hint(hint)
        };
        let binary = match outcome.binary {
            Ok(binary) => binary,
            Err(reason) => return Err(fail(reason, outcome.log)),
        };
        if !defines(&binary, &generated.symbol) {
            let reason = format!("the text has no kernel {}", generated.symbol);
            return Err(fail(reason, outcome.log));
        }
        let mut log = outcome.log;
        let resources = match ptxas::resources(&log, &generated.symbol) {
            Some(resources) => resources,
            // The kernel can still be launched; the warning is for those who look at the numbers.
            None => {
                log.push_str("\nwarning: registers and spills are unknown: the log does not name them\n");
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

/// The cubin has code of this name.
fn defines(binary: &[u8], symbol: &str) -> bool {
    let section = format!(".text.{symbol}\0");
    binary.windows(section.len()).any(|window| window == section.as_bytes())
}

/// NVRTC 13.0 opens `libnvrtc-builtins` by name and has no search path of its own. A library with that name
/// that is already open satisfies it.
fn preload_builtins(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("libnvrtc-builtins.so") || name.starts_with("nvrtc-builtins64_")
        })
        .collect();
    found.sort();
    found.iter().for_each(|path| library::preload(path));
}

fn toolkits() -> Vec<PathBuf> {
    ["CUDA_HOME", "CUDA_PATH"]
        .iter()
        .filter_map(|variable| library::env_path(variable))
        .chain([PathBuf::from("/usr/local/cuda")])
        .collect()
}

/// The first folder that holds `cuda_fp16.h`.
fn include_folder(beside: Option<&Path>) -> Option<PathBuf> {
    let near = beside
        .into_iter()
        // lib/ or lib64/ beside include/, and a toolkit's targets/x86_64-linux/lib.
        .flat_map(|folder| {
            [
                folder.join("../include"),
                folder.join("../../include"),
                folder.join("../../../include"),
            ]
        });
    library::env_path(INCLUDE_VARIABLE)
        .into_iter()
        .chain(near)
        .chain(toolkits().iter().map(|home| home.join("include")))
        .find(|folder| folder.join("cuda_fp16.h").is_file())
        .map(|folder| std::fs::canonicalize(&folder).unwrap_or(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::testing::{self, MMA_CU};
    use crate::compiler::{Severity, cache::Cache, compile, compile_all};

    fn nvrtc() -> Option<Nvrtc> {
        match Nvrtc::open() {
            Ok(nvrtc) => Some(nvrtc),
            Err(error) => {
                testing::skip("nvrtc", error);
                None
            }
        }
    }

    #[test]
    fn compiles_for_every_target_without_a_word() {
        let Some(nvrtc) = nvrtc() else { return };
        for target in ["sm_80", "sm_90", "sm_120"] {
            let mut generated = testing::generated("mma_probe.cu", target, MMA_CU);
            generated.dynamic_shared_bytes = 4096;
            let compiled = compile(&nvrtc, &generated).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(&compiled.binary[..4], b"\x7fELF");
            assert_eq!(compiled.warnings(), []);
            let Resources {
                registers,
                shared_bytes,
                spills,
                scratch_bytes,
            } = compiled.resources;
            assert!((8..=64).contains(&registers), "{registers}");
            assert!((4096 + 8..=4096 + 2048).contains(&shared_bytes), "{shared_bytes}");
            assert_eq!((spills, scratch_bytes), (0, 0));
        }
    }

    #[test]
    fn a_rejection_shows_the_authors_line() {
        let Some(nvrtc) = nvrtc() else { return };
        let text = MMA_CU
            .replace("sum += __shfl", "summ += __shfl")
            .replace("mma_probe", "planted_cuda");
        let generated = testing::generated("planted_cuda.cu", "sm_90", &text);
        let error = compile(&nvrtc, &generated).expect_err("summ is not declared");
        let line = 1 + text.lines().position(|line| line.contains("summ +=")).expect("planted");
        assert_eq!(error.errors.len(), 1, "{error}");
        assert_eq!(error.errors[0].diagnostic.line, Some(line));
        let shown = error.to_string();
        assert!(
            shown.contains(&format!("--> kernels/testing.rs:{}:5", 100 + line)),
            "{shown}"
        );
        assert!(shown.contains(&format!("> {line} |         summ +=")), "{shown}");
        assert!(shown.contains("identifier \"summ\" is undefined"), "{shown}");
        eprintln!("{shown}");
    }

    #[test]
    fn unknown_architectures_and_headers_have_a_way_out() {
        let Some(nvrtc) = nvrtc() else { return };
        let generated = testing::generated("mma_probe.cu", "sm_90", MMA_CU);
        let error = nvrtc.build(&generated, "sm_999").expect_err("no such chip");
        assert!(error.hint.is_some(), "{error}");
        let generated = testing::generated("no_header.cu", "sm_90", "#include \"no_such_header.h\"\n");
        let error = compile(&nvrtc, &generated).expect_err("no such header");
        assert!(error.hint.is_some(), "{error}");
        assert!(error.errors[0].at.is_some(), "{error}");
        let generated = testing::generated("no_kernel.cu", "sm_90", "__device__ int nothing;\n");
        let error = compile(&nvrtc, &generated).expect_err("no kernel in it");
        assert!(error.reason.contains("no kernel no_kernel"), "{error}");
    }

    #[test]
    fn a_second_compile_still_tells_registers() {
        let Some(nvrtc) = nvrtc() else { return };
        let generated = testing::generated("mma_probe.cu", "sm_90", MMA_CU);
        let first = compile(&nvrtc, &generated).expect("compiles");
        let second = compile(&nvrtc, &generated).expect("compiles");
        assert!(first.resources.registers > 0);
        assert_eq!(first.resources, second.resources, "{}", second.log);
    }

    #[test]
    fn warnings_are_exposed() {
        let Some(nvrtc) = nvrtc() else { return };
        let text = "extern \"C\" __global__ void warned(int* y) {\n    int unused = 3;\n    y[0] = 1;\n}\n";
        let compiled = compile(&nvrtc, &testing::generated("warned.cu", "sm_90", text)).expect("only a warning");
        let warnings = compiled.warnings();
        assert_eq!(warnings.len(), 1, "{}", compiled.log);
        assert_eq!((warnings[0].severity, warnings[0].line), (Severity::Warning, Some(2)));
    }

    #[test]
    fn many_at_once_and_from_the_cache() {
        let Some(nvrtc) = nvrtc() else { return };
        let sources: Vec<_> = (0..6)
            .map(|at| {
                let name = format!("probe_{at}");
                let text = MMA_CU
                    .replace("mma_probe", &name)
                    .replace("* 64", &format!("* {}", 64 + at));
                testing::generated(&format!("{name}.cu"), "sm_90", &text)
            })
            .collect();
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = Cache::at(folder.path());
        let first = compile_all(&nvrtc, Some(&cache), &sources, None);
        let second = compile_all(&nvrtc, Some(&cache), &sources, None);
        let other = compile_all(&nvrtc, Some(&cache), &sources[..1], Some("sm_80"));
        assert!(
            !other[0].as_ref().expect("compiles").from_cache,
            "another architecture is another entry"
        );
        for ((first, second), source) in first.iter().zip(&second).zip(&sources) {
            let first = first.as_ref().expect("compiles");
            let second = second.as_ref().expect("compiles");
            assert!(!first.from_cache && second.from_cache);
            assert_eq!(
                (&first.binary, &first.log, &first.resources),
                (&second.binary, &second.log, &second.resources)
            );
            assert!(first.log.contains(&source.symbol), "results are in the order asked");
        }
    }
}
