//! `tilekiln emit`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tilekiln_codegen::{Generated, generate};
use tilekiln_dsl::target::{TARGETS, Target};

use super::{Failure, SetArgs, print, print_json, selected, target};

/// Write the CUDA and HIP source of kernels
#[derive(Args)]
pub struct Emit {
    /// Kernel to write; all when left out
    kernel: Option<String>,
    /// Target to write for, may be given several times [default: sm_90 to stdout, all targets with --out]
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    target: Vec<String>,
    #[command(flatten)]
    settings: SetArgs,
    /// Folder to write files into, one subfolder per target; stdout when left out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print texts and facts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Emitted<'a> {
    kernel: &'a str,
    symbol: &'a str,
    target: &'a str,
    file: &'a str,
    threads: usize,
    dynamic_shared_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    text: &'a str,
}

impl Emit {
    pub fn run(self) -> Result<(), Failure> {
        if self.kernel.is_none() && !self.settings.set.is_empty() {
            return Err(Failure::Usage(
                "--set belongs to one kernel; name it: tilekiln emit KERNEL --set …".to_string(),
            ));
        }
        let targets: Vec<&Target> = match (self.target.is_empty(), &self.out) {
            (true, Some(_)) => TARGETS.iter().collect(),
            (true, None) => vec![target("sm_90")?],
            (false, _) => self.target.iter().map(|name| target(name)).collect::<Result<_, _>>()?,
        };
        let mut all = Vec::new();
        let mut failed = Vec::new();
        for entry in selected(self.kernel.as_deref())? {
            let def = (entry.build)(&self.settings.settings(entry)?)?;
            for target in &targets {
                let text = def.record(target).map_err(|e| e.to_string());
                let text = text
                    .and_then(|kernel| generate(&kernel).map_err(|e| format!("error: {}\n  --> {}", e.message, e.at)));
                match text {
                    Ok(generated) => all.push((entry.name, generated)),
                    Err(message) => failed.push(format!("{} for {}:\n{message}", entry.name, target.name)),
                }
            }
        }
        self.write(&all)?;
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Failure::Failed(failed.join("\n\n"))),
        }
    }

    fn write(&self, all: &[(&str, Generated)]) -> Result<(), Failure> {
        let mut emitted = Vec::new();
        for (index, (name, generated)) in all.iter().enumerate() {
            let mut path = None;
            if let Some(out) = &self.out {
                let folder = out.join(generated.target.name);
                let file = folder.join(&generated.file_name);
                let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &generated.text));
                written.map_err(|e| Failure::Failed(format!("cannot write {}: {e}", file.display())))?;
                path = Some(file.display().to_string());
            }
            if !self.json {
                match &path {
                    Some(path) => print(&format!("{path}\n"))?,
                    None if index > 0 => print(&format!("\n{}", generated.text))?,
                    None => print(&generated.text)?,
                }
            }
            emitted.push(Emitted {
                kernel: name,
                symbol: &generated.symbol,
                target: generated.target.name,
                file: &generated.file_name,
                threads: generated.threads,
                dynamic_shared_bytes: generated.dynamic_shared_bytes,
                path,
                text: &generated.text,
            });
        }
        if self.json { print_json(&emitted) } else { Ok(()) }
    }
}
