//! The kernel variants under review: whose generated text is kept in `snapshots/`, and compiled by every compiler.
//!
//! A kernel of the library gets one row for each set of settings whose text differs in kind: element types and
//! codecs (other conversions), shapes (other tiles), stages (other pipelines).

use std::path::{Path, PathBuf};

use tilekiln_codegen::{Generated, generate};
use tilekiln_dsl::ir::Kernel;
use tilekiln_dsl::target::{TARGETS, Target};
use tilekiln_kernels::registry::{self, Settings};

/// One reviewed set of settings of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Name of the registered kernel.
    pub entry: &'static str,
    /// Its settings as the command line spells them; the rest are defaults.
    pub settings: &'static str,
    /// The target it is meant for, if it is made for one chip alone.
    pub target: Option<&'static str>,
}

impl Variant {
    /// Whether it is meant for a target.
    pub fn is_for(&self, target: &Target) -> bool {
        self.target.is_none_or(|only| only == target.name)
    }
}

const fn variant(entry: &'static str, settings: &'static str) -> Variant {
    Variant {
        entry,
        settings,
        target: None,
    }
}

/// Settings that only one target has the shared memory for.
const fn only(target: &'static str, entry: &'static str, settings: &'static str) -> Variant {
    Variant {
        entry,
        settings,
        target: Some(target),
    }
}

/// All of them. Each is written for each of [`TARGETS`] that it is meant for.
pub const VARIANTS: &[Variant] = &[
    variant("rms_norm", "element=f16"),
    variant("rms_norm", "element=bf16"),
    variant("rms_norm", "element=f32"),
    variant("residual_norm", ""),
    variant("ple_combine", ""),
    variant("rope", "head_dim=256"),
    variant("rope", "head_dim=512"),
    variant("head_norm_rope", "head_dim=256"),
    variant("gather", "element=f16"),
    variant("copy_rows", ""),
    variant("scatter_rows", ""),
    variant("embed", "weight=q6_k"),
    variant("embed", "weight=packed_q6_k"),
    variant("gated", ""),
    variant("softcap", ""),
    variant("quantise_rows", ""),
    variant("row_product", "weight=q4_0"),
    variant("row_product", "weight=q5_0"),
    variant("row_product", "weight=q8_0"),
    variant("row_product", "weight=q4_k"),
    variant("row_product", "weight=q4_k,tile=4"),
    variant("row_product", "weight=q5_k,tile=8"),
    variant("row_product", "weight=q6_k"),
    variant("linear", "weight=bf16"),
    variant("linear", "weight=f16,tile=8"),
    variant("linear", "weight=q4_k,tile=4"),
    variant("candidate_scores", "weight=f32"),
    variant("candidate_scores", "weight=packed_q4_k"),
    variant("packed_product", "weight=q4_k"),
    variant("packed_product", "weight=q4_k,columns=2"),
    variant("packed_product", "weight=q4_k,columns=0"),
    variant("packed_product", "weight=q5_0"),
    variant("packed_product", "weight=q6_k"),
    variant("packed_product", "weight=q8_0"),
    variant("packed_product", "weight=q4_k,parts=4"),
    only("sm_90", "packed_product", "weight=q4_k,warps=10,slots=2,blocks=2"),
    only("sm_90", "packed_product", "weight=q4_k,warps=10,slots=1,columns=4"),
    only("sm_90", "packed_product", "weight=q6_k,warps=10,slots=2,blocks=2"),
    only("sm_90", "packed_product", "weight=q6_k,warps=8,slots=1,columns=4"),
    only(
        "sm_90",
        "packed_product",
        "weight=q6_k,warps=10,slots=2,columns=0,parts=4",
    ),
    variant("packed_pair", "first=q4_k"),
    variant("packed_gated", "weight=q4_k"),
    only("sm_90", "packed_gated", "weight=q4_k,warps=10,teams=2"),
    only("sm_90", "packed_gated", "weight=q4_k,warps=10,columns=0,teams=2"),
    variant("packed_gate", "weight=q4_k"),
    variant("split_rows", "half=f16"),
    variant("split_rows", "half=bf16"),
    variant("packed_halves", "half=f16"),
    variant("packed_halves", "half=bf16"),
    variant("prepare_rows", ""),
    variant("prepare_norm", ""),
    variant("prepare_residual", ""),
    variant("prepare_residual_norm", "threads=640,chunks=1,keep=true"),
    variant("matmul", "element=f16,stages=2"),
    variant("matmul", "element=bf16,stages=3"),
    variant("cache_write", "k=turbo3,v=turbo3,head_dim=256"),
    variant("cache_write", "k=f16,v=q8_0,head_dim=64"),
    variant("cache_read", "format=turbo4,head_dim=256"),
    variant("prepare_attention", "k=turbo3,v=turbo3,head_dim=512"),
    variant("prepare_queries", "k=f16,head_dim=256"),
    variant("prepare_queries", "k=turbo3,head_dim=512"),
    only("sm_90", "flash_decode", "k=f16,v=f16,head_dim=512,pages=2"),
    only("sm_90", "flash_decode", "k=turbo3,v=turbo3,head_dim=512,pages=2"),
    only(
        "sm_90",
        "flash_decode",
        "k=turbo3,v=turbo3,head_dim=512,tiles=2,pages=2",
    ),
    only("gfx1150", "flash_decode", "k=f16,v=f16,head_dim=512"),
    only("gfx1150", "flash_decode", "k=turbo3,v=turbo3,head_dim=512"),
    variant("flash_decode", "k=q8_0,v=turbo3,head_dim=256,pages=2"),
    variant("flash_decode", "k=q4_0,v=bf16,head_dim=128,pages=2"),
    only("sm_90", "flash_prefill", "k=f16,v=f16,head_dim=256,tiles=2,teams=2"),
    only(
        "sm_90",
        "flash_prefill",
        "k=turbo3,v=turbo3,head_dim=512,tiles=2,teams=2",
    ),
    only("gfx1150", "flash_prefill", "k=f16,v=f16,head_dim=256"),
    only("gfx1150", "flash_prefill", "k=turbo3,v=turbo3,head_dim=512,teams=2"),
    variant("flash_combine", ""),
    variant("flash_combine", "rotated=true"),
    variant("flash_combine_int8", "rotated=true"),
    variant("attend_exact", "k=f32,v=f32,head_dim=256"),
    variant("attend_exact", "k=turbo3,v=turbo3,head_dim=256"),
    variant("turbo_encode", "format=turbo2"),
    variant("turbo_encode", "format=turbo3"),
    variant("turbo_encode", "format=turbo4"),
    variant("turbo_decode", "format=turbo2"),
    variant("turbo_decode", "format=turbo3"),
    variant("turbo_decode", "format=turbo4"),
    variant("argmax", ""),
    variant("top_k", ""),
    variant("take", ""),
    variant("confidence", ""),
    variant("stream_read", ""),
    variant("note_tokens", ""),
    variant("adjust_logits", ""),
    variant("chunk_best", ""),
    variant("chunk_best", "chunk=1024,vector=1"),
    variant("best_token", ""),
    variant("chunk_histogram", ""),
    variant("chunk_candidates", ""),
    variant("sampling_cut", ""),
    variant("chunk_mass", ""),
    variant("draw_token", ""),
];

impl Variant {
    /// Records the kernel for a target.
    ///
    /// # Panics
    /// When the kernel does not exist, or is rejected: both are mistakes in the library or in [`VARIANTS`].
    pub fn record(&self, target: &Target) -> Kernel {
        let entry = registry::find(self.entry).unwrap_or_else(|| panic!("there is no kernel {}", self.entry));
        let settings = Settings::parse(entry, self.settings.split(',').filter(|pair| !pair.is_empty()));
        let def = settings.and_then(|settings| (entry.build)(&settings));
        let def = def.unwrap_or_else(|error| panic!("{} {}: {error}", self.entry, self.settings));
        def.record(target)
            .unwrap_or_else(|error| panic!("{} {} for {}:\n{error}", self.entry, self.settings, target.name))
    }

    /// Writes its text for a target.
    ///
    /// # Panics
    /// As [`record`](Self::record), and when the target cannot express the kernel.
    pub fn generate(&self, target: &Target) -> Generated {
        generate(&self.record(target))
            .unwrap_or_else(|error| panic!("{} {} for {}: {error}", self.entry, self.settings, target.name))
    }
}

/// Every variant for every target, in the order of the tables.
pub fn all() -> impl Iterator<Item = (&'static Target, &'static Variant)> {
    TARGETS
        .iter()
        .flat_map(|target| VARIANTS.iter().map(move |variant| (target, variant)))
        .filter(|(target, variant)| variant.is_for(target))
}

/// The folder of reviewed texts.
pub fn snapshots_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("snapshots")
}

/// Where the reviewed text of a generated file is kept: `snapshots/<target>/<symbol>.cu.snap`.
pub fn snapshot_path(generated: &Generated) -> PathBuf {
    snapshots_folder()
        .join(generated.target.name)
        .join(format!("{}.snap", generated.file_name))
}

/// The reviewed text as it is on disk, without insta's header.
///
/// # Errors
/// The file cannot be read or is no text snapshot; the message names it and how to make it.
pub fn reviewed_text(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = std::fs::read_to_string(path)
        .map_err(|error| format!("{shown}: {error}; write it with `cargo insta test --accept --test snapshots`"))?;
    let text = file
        .replace("\r\n", "\n")
        .strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---\n").map(|(_, text)| text.to_string()));
    text.ok_or_else(|| format!("{shown}: the header between two lines of --- is missing"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kernel_of_the_library_is_reviewed() {
        for entry in registry::KERNELS {
            let reviewed = VARIANTS.iter().any(|variant| variant.entry == entry.name);
            assert!(
                reviewed,
                "no variant of {} is reviewed; add one to VARIANTS",
                entry.name
            );
        }
    }

    #[test]
    fn no_variant_twice() {
        let paths: BTreeSet<_> = all()
            .map(|(target, variant)| snapshot_path(&variant.generate(target)))
            .collect();
        assert_eq!(paths.len(), all().count());
    }
}
