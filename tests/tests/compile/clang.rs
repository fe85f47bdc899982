//! clang for AMD targets, with no ROCm on the machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tilekiln_codegen::Generated;
use tilekiln_runtime::compiler::hiprtc::UNSCHEDULED;

use super::ratchet::Cost;

/// As the runtime asks hipRTC (`-mcumode`), with no headers or libraries beside the text itself.
const FLAGS: &str = "-x hip -nogpuinc -nogpulib --cuda-device-only --no-gpu-bundle-output -O3 -std=c++17 -mcumode \
                     -Wall -Wextra -Rpass-analysis=kernel-resource-usage -S";
const NAMES: &[&str] = &["clang++-19", "clang++"];

pub struct Clang {
    command: &'static str,
    version: String,
}

/// A text that clang took without a word about it.
pub struct Accepted {
    pub assembly: String,
    pub cost: Cost,
}

impl Clang {
    /// The first that knows AMD GPUs.
    pub fn find() -> Result<Self, String> {
        for command in NAMES {
            let targets = Command::new(command).arg("--print-targets").output();
            let knows = |text: &[u8]| String::from_utf8_lossy(text).contains("amdgcn");
            if !targets.is_ok_and(|output| output.status.success() && knows(&output.stdout)) {
                continue;
            }
            let output = Command::new(command)
                .arg("-dumpversion")
                .output()
                .map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&output.stdout);
            let major = text.trim().split('.').next().unwrap_or_default();
            return Ok(Self {
                command,
                version: format!("clang {major}"),
            });
        }
        Err(format!("no clang with AMD targets: tried {}", NAMES.join(", ")))
    }

    /// `clang 19`
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The assembly of a text.
    pub fn assembly(&self, target: &str, name: &str, text: &str) -> Result<String, String> {
        self.run(target, &format!("{name}.hip"), text, &[])
            .map(|(assembly, _)| assembly)
    }

    /// Compiles many, as many at a time as there are cores; results in the order given.
    pub fn compile_all(&self, sources: &[Generated]) -> Vec<Result<Accepted, String>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(source) = sources.get(at) else { return };
                        let result = self.compile(source);
                        done.lock().expect("no worker panics").push((at, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().expect("no worker panics");
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// As the loader for hipRTC does: what spills is compiled once more, in the order of the text.
    fn compile(&self, source: &Generated) -> Result<Accepted, String> {
        let first = self.compile_with(source, &[])?;
        if first.cost.spills == 0 {
            return Ok(first);
        }
        let again = self.compile_with(source, &UNSCHEDULED)?;
        Ok(if again.cost.spills == 0 { again } else { first })
    }

    fn compile_with(&self, source: &Generated, flags: &[&str]) -> Result<Accepted, String> {
        let (assembly, said) = self.run(source.target.name, &source.file_name, &source.text, flags)?;
        if said.contains("warning:") {
            return Err(said);
        }
        let number = |label: &str| {
            let missing = || format!("clang does not say `{label}`:\n{said}");
            let at = said.find(label).ok_or_else(missing)? + label.len();
            let word = said[at..].split_whitespace().next().ok_or_else(missing)?;
            word.parse::<u32>().map_err(|_| missing())
        };
        let cost = Cost {
            compiler: self.version.clone(),
            target: source.target.name.to_string(),
            kernel: source.symbol.clone(),
            registers: number(" VGPRs: ")?,
            shared_bytes: number("LDS Size [bytes/block]: ")? + source.dynamic_shared_bytes as u32,
            spills: number("SGPRs Spill: ")? + number("VGPRs Spill: ")?,
            scratch_bytes: number("ScratchSize [bytes/lane]: ")?,
        };
        Ok(Accepted { assembly, cost })
    }

    /// Assembly, and what was said on the way.
    fn run(&self, target: &str, file_name: &str, text: &str, flags: &[&str]) -> Result<(String, String), String> {
        let folder: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clang").join(target);
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let source = folder.join(file_name);
        let assembly = source.with_extension("s");
        std::fs::write(&source, text).map_err(|e| e.to_string())?;
        let output = Command::new(self.command)
            .args(FLAGS.split_whitespace())
            .args(flags)
            .arg(format!("--offload-arch={target}"))
            .args([source.as_os_str(), "-o".as_ref(), assembly.as_os_str()])
            .output()
            .map_err(|e| format!("{}: {e}", self.command))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(said);
        }
        let assembly = std::fs::read_to_string(&assembly).map_err(|e| e.to_string())?;
        Ok((assembly, said))
    }
}
