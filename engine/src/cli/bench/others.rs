//! Flags of llama-bench that have no effect here or are refused.

use clap::Args;

use super::usage;
use crate::cli::Failure;
use crate::cli::engine_args::layer_limit;
use crate::schedule::{DeviceChoice, LayerLimit};

/// Flags of llama-bench that change nothing here, or are refused.
#[derive(Args, Default)]
#[command(next_help_heading = "Accepted from llama-bench command lines")]
pub struct Others {
    /// Layers on the GPU: all (99) or none (0) [short: -ngl]
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", allow_hyphen_values = true)]
    n_gpu_layers: Option<String>,
    /// Flash attention: it is always on [short: -fa]
    #[arg(long, value_name = "0|1", value_delimiter = ',')]
    flash_attn: Vec<String>,
    /// Threads of the host device
    #[arg(short = 't', long, value_name = "N")]
    threads: Option<String>,
    /// Weights are copied to the device either way [short: -mmp]
    #[arg(long, value_name = "0|1", value_delimiter = ',')]
    mmap: Vec<String>,
    /// The cache is where the model is: 1 is refused [short: -nkvo]
    #[arg(long, value_name = "0|1", value_delimiter = ',')]
    no_kv_offload: Vec<String>,
    /// There is one device: none, or what says the same of one [short: -sm]
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    split_mode: Vec<String>,
    /// The first device is used: 0 [short: -mg]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    main_gpu: Vec<String>,
    /// Embeddings are not measured: 1 is refused [short: -embd]
    #[arg(long, value_name = "0|1", value_delimiter = ',')]
    embeddings: Vec<String>,
    /// Priority of the process: left as it is
    #[arg(long, value_name = "N")]
    prio: Option<String>,
    /// How the CPU waits: left as it is
    #[arg(long, value_name = "N")]
    poll: Option<String>,
    /// Progress is shown unless -q is given
    #[arg(long)]
    progress: bool,
}

impl Others {
    /// Where to run, with what `-ngl` says of it.
    pub fn placement(
        &self,
        device: DeviceChoice,
        notes: &mut Vec<String>,
    ) -> Result<(DeviceChoice, LayerLimit), Failure> {
        let Some(given) = &self.n_gpu_layers else {
            return Ok((device, LayerLimit::All));
        };
        if given.contains(',') {
            return Err(usage(format!(
                "-ngl {given}: a model is not split, so there is nothing to compare; run once with -ngl 99 and once with \
                 --device host"
            )));
        }
        let limit = layer_limit("-ngl", given)?;
        match (limit, device) {
            (LayerLimit::AtMost(0), DeviceChoice::Auto | DeviceChoice::Host) => {
                notes.push("-ngl 0: no layer on a GPU, so the host device is measured".to_owned());
                Ok((DeviceChoice::Host, LayerLimit::All))
            }
            (LayerLimit::AtMost(0), _) => Err(usage(format!(
                "-ngl 0 keeps the model off the GPU and --device {device} puts it there; drop one of them"
            ))),
            (_, DeviceChoice::Host) => {
                notes.push(format!(
                    "-ngl {given}: --device host runs all layers on this CPU, so it has no effect"
                ));
                Ok((device, LayerLimit::All))
            }
            _ => Ok((device, limit)),
        }
    }

    /// Notes what has no effect and refuses what would change what is measured.
    pub fn check(&self, device: DeviceChoice, notes: &mut Vec<String>) -> Result<(), Failure> {
        let is_off = |value: &str| matches!(value, "0" | "off" | "false");
        let is_on = |value: &str| matches!(value, "1" | "on" | "true" | "auto");
        for value in &self.flash_attn {
            match value.as_str() {
                value if is_on(value) => {}
                value if is_off(value) => {
                    notes.push(format!(
                        "-fa {value}: --exact and the cache's formats decide how attention is computed, so it has no effect"
                    ));
                }
                other => return Err(usage(format!("-fa {other}: it is one of 0, 1"))),
            }
        }
        if let Some(value) = self.no_kv_offload.iter().find(|value| !is_off(value)) {
            return Err(usage(format!(
                "-nkvo {value}: the cache is in the memory of the device that runs the model; use --device host to have both \
                 on the CPU"
            )));
        }
        if let Some(value) = self.embeddings.iter().find(|value| !is_off(value)) {
            return Err(usage(format!(
                "-embd {value}: embeddings are not measured; tests are pp, tg, -pg and --rows"
            )));
        }
        if let Some(value) = self.main_gpu.iter().find(|value| *value != "0") {
            return Err(usage(format!(
                "-mg {value}: the first device is used; choose another with CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES"
            )));
        }
        for mode in &self.split_mode {
            if !matches!(mode.as_str(), "none" | "layer" | "row") {
                return Err(usage(format!("-sm {mode}: it is one of none, layer, row")));
            }
            if mode != "none" {
                notes.push(format!("-sm {mode}: a model is on one device, so it has no effect"));
            }
        }
        if let Some(value) = self.mmap.first() {
            notes.push(format!(
                "-mmp {value}: weights are copied to the device either way, so it has no effect"
            ));
        }
        let given = [("--prio", &self.prio), ("--poll", &self.poll)];
        notes.extend(given.into_iter().filter_map(|(flag, value)| {
            let value = value.as_ref()?;
            Some(format!(
                "{flag} {value}: the system schedules the process as it is, so it has no effect"
            ))
        }));
        self.threads(device, notes)
    }

    fn threads(&self, device: DeviceChoice, notes: &mut Vec<String>) -> Result<(), Failure> {
        let Some(given) = &self.threads else { return Ok(()) };
        let count = given
            .parse::<usize>()
            .ok()
            .filter(|threads| *threads > 0)
            .ok_or_else(|| {
                usage(format!(
                    "-t {given}: one number from 1 up; run once for each number of threads"
                ))
            })?;
        if matches!(device, DeviceChoice::Cuda | DeviceChoice::Hip) {
            notes.push(format!("-t {count}: the model runs on the GPU, so it has no effect"));
            return Ok(());
        }
        // A pool that exists already keeps its size; only a second engine in one process sees that.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
        Ok(())
    }
}
