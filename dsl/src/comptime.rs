//! Kernels before they are recorded, and their comptime arguments.

use std::fmt;
use std::rc::Rc;

use crate::ir::{Kernel, Location, Setting};
use crate::record::{self, Rejected};
use crate::target::Target;
use crate::value::Named;

/// A kernel with its comptime arguments: record it for any target, any number of times.
#[derive(Clone)]
pub struct KernelDef {
    pub(crate) family: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) at: Location,
    pub(crate) settings: Vec<Setting>,
    pub(crate) threads: usize,
    pub(crate) blocks: usize,
    pub(crate) body: Rc<dyn Fn()>,
}

impl fmt::Debug for KernelDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelDef({})", self.symbol())
    }
}

impl KernelDef {
    /// Made by `#[kernel]`.
    #[doc(hidden)]
    pub fn new(
        family: &'static str,
        doc: &'static [&'static str],
        at: Location,
        settings: Vec<Setting>,
        [threads, blocks]: [usize; 2],
        body: Rc<dyn Fn()>,
    ) -> Self {
        Self {
            family,
            doc,
            at,
            settings,
            threads,
            blocks,
            body,
        }
    }

    /// The kernel function's name.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// Comptime arguments as the command line spells them.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Threads per block.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Name of the compiled function: family, type arguments, then initials and values of the others
    /// (`rms_norm_f16_t256`).
    pub fn symbol(&self) -> String {
        let mut symbol = self.family.to_string();
        for setting in &self.settings {
            symbol.push('_');
            if !setting.is_type {
                symbol.extend(setting.key.split('_').filter_map(|word| word.chars().next()));
            }
            symbol.extend(
                setting
                    .value
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }),
            );
        }
        symbol
    }

    /// Runs the author's function once and checks what it recorded.
    ///
    /// # Errors
    /// Every mistake of the kernel, each at its author's line.
    pub fn record(&self, target: &Target) -> Result<Kernel, Rejected> {
        record::record(self, target)
    }
}

/// A comptime argument: plain Rust, spelled on the command line as `key=value`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a comptime parameter",
    label = "has no spelling on the command line",
    note = "supported: usize, u32, i32, bool, f32, &'static str, and structs and unit enums with #[derive(Comptime)]"
)]
pub trait Comptime: Clone + 'static {
    /// Appends one setting, or one per field.
    fn settings(&self, key: &str, out: &mut Vec<Setting>);
}

macro_rules! plain {
    ($($t:ty),*) => {$(
        impl Comptime for $t {
            fn settings(&self, key: &str, out: &mut Vec<Setting>) {
                out.push(Setting {
                    key: key.to_string(),
                    value: self.to_string(),
                    is_type: false,
                });
            }
        }
    )*};
}
plain!(usize, u32, i32, bool, f32, &'static str);

impl<T: Comptime> Comptime for Option<T> {
    fn settings(&self, key: &str, out: &mut Vec<Setting>) {
        match self {
            Some(value) => value.settings(key, out),
            None => "none".settings(key, out),
        }
    }
}

/// The setting of a type parameter.
#[doc(hidden)]
pub fn type_setting<T: Named>(key: &str) -> Setting {
    Setting {
        key: key.to_string(),
        value: T::NAME.to_string(),
        is_type: true,
    }
}
