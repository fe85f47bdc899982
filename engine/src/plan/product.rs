//! Which product with packed weights a launch is, and how it was decided how it is divided.

use std::fmt;

use serde::{Deserialize, Serialize};
use tilekiln_kernels::registry;

use super::KernelSpec;

/// A product with packed weights: all that a good division of it depends on, beside the chip and the column tiles.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Product {
    /// Name in the registry.
    pub kernel: String,
    /// The settings that name formats, one for each matrix: `weight=q4_k`.
    pub settings: Vec<String>,
    /// Rows of each matrix.
    pub rows: Vec<usize>,
    /// Values along k.
    pub cols: usize,
    /// Groups of rows that a block takes together.
    pub groups_of_unit: usize,
    /// Whether whoever takes the results adds parts of k, into which it is split by rule.
    #[serde(default)]
    pub may_be_split: bool,
}

impl Product {
    /// Its kernel with what the other settings are when nothing is said. None where the library has no such kernel.
    pub fn usual_kernel(&self) -> Option<KernelSpec> {
        let entry = registry::find(&self.kernel)?;
        Some(KernelSpec::new(entry.name, &self.settings))
    }

    /// Formats of the matrices, as the kernels spell them.
    pub fn formats(&self) -> impl Iterator<Item = &str> {
        self.settings
            .iter()
            .map(|setting| setting.split_once('=').map_or(setting.as_str(), |(_, format)| format))
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let formats: Vec<&str> = self.formats().collect();
        let rows: Vec<String> = self.rows.iter().map(usize::to_string).collect();
        write!(
            f,
            "{} {} {} x {}",
            self.kernel,
            formats.join("+"),
            rows.join("+"),
            self.cols
        )
    }
}

/// Where the division of a launch comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divided {
    /// The product.
    pub product: Product,
    /// Column tiles of the launch.
    pub columns: usize,
    /// Whether it was measured on the device; else it follows from the rule.
    pub tuned: bool,
}

impl Divided {
    /// `tuned` or `rule`.
    pub fn by(&self) -> &'static str {
        if self.tuned { "tuned" } else { "rule" }
    }
}
