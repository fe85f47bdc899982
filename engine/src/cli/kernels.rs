//! `tilekiln kernels`

use clap::Args;
use serde::Serialize;
use tilekiln_dsl::target::HOST;
use tilekiln_kernels::planted::PLANTED;
use tilekiln_kernels::registry::{Entry, KERNELS, Settings};

use super::{Failure, print, print_json};

/// List the kernels and what can be set
#[derive(Args)]
pub struct Kernels {
    /// List the kernels with planted defects instead
    #[arg(long)]
    planted: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    summary: String,
    source: &'static str,
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    key: &'static str,
    default: &'static str,
    help: &'static str,
}

fn listed(entry: &Entry) -> Result<Listed, Failure> {
    let def = (entry.build)(&Settings::parse(entry, [])?)?;
    let kernel = def.record(&HOST).map_err(|e| Failure::Failed(e.to_string()))?;
    Ok(Listed {
        name: entry.name,
        summary: kernel.doc.first().cloned().unwrap_or_default(),
        source: kernel.at.file,
        settings: entry
            .parameters
            .iter()
            .map(|p| Setting {
                key: p.key,
                default: p.default,
                help: p.help,
            })
            .collect(),
    })
}

impl Kernels {
    pub fn run(self) -> Result<(), Failure> {
        let entries: Vec<&Entry> = match self.planted {
            true => PLANTED.iter().map(|planted| planted.entry).collect(),
            false => KERNELS.to_vec(),
        };
        let all = entries.into_iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        if self.json {
            return print_json(&all);
        }
        let mut text = String::new();
        for kernel in &all {
            text.push_str(&format!(
                "{}  {}\n    source   {}\n",
                kernel.name, kernel.summary, kernel.source
            ));
            for setting in &kernel.settings {
                text.push_str(&format!(
                    "    --set {}={}   {}\n",
                    setting.key, setting.default, setting.help
                ));
            }
        }
        print(&text)
    }
}
