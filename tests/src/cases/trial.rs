//! One case at work: buffers with inputs and poisoned outputs, the launch, the comparisons.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};
use half::{bf16, f16};
use tilekiln_dsl::target::{Target, Vendor};
use tilekiln_runtime::device::{Argument, Buffer, Device, Grid, Launch, Loaded};
use tilekiln_runtime::error::DeviceError;

use super::{CaseError, Equality, Extent, Outcome};
use crate::random::Random;
use crate::tolerance::{Comparison, Element};

/// Bytes in front of and behind an output that a kernel must leave alone.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xb7;

/// What outputs hold before a launch.
pub trait Word: NoUninit + AnyBitPattern {
    /// A pattern that is unlikely as a result.
    const POISON: Self;
}
impl Word for f32 {
    const POISON: Self = <Self as Element>::POISON;
}
impl Word for f16 {
    const POISON: Self = <Self as Element>::POISON;
}
impl Word for bf16 {
    const POISON: Self = <Self as Element>::POISON;
}
impl Word for u32 {
    const POISON: Self = 0x7fc0_dead;
}
impl Word for u64 {
    const POISON: Self = 0x7fc0_dead_7fc0_dead;
}
impl Word for u16 {
    const POISON: Self = 0x7fc5;
}
impl Word for u8 {
    const POISON: Self = 0xa5;
}

/// A buffer that a kernel writes.
pub struct Output<T> {
    buffer: Buffer,
    len: usize,
    guard: usize,
    element: PhantomData<T>,
}

impl<T> Output<T> {
    /// The launch argument.
    pub fn argument(&self) -> Argument {
        Argument::Buffer(self.buffer.clone(), self.guard)
    }
}

/// One case at work.
pub struct Trial<'a> {
    device: &'a dyn Device,
    family: &'static str,
    kernel: &'a Loaded,
    /// How large the inputs are to be.
    pub extent: Extent,
    /// The case's inputs.
    pub random: Random,
    outcomes: Vec<Outcome>,
    shape: String,
}

impl<'a> Trial<'a> {
    /// A trial of a loaded kernel of the library's `family`, with a stream of inputs named after it: all devices get the same inputs.
    pub fn new(device: &'a dyn Device, family: &'static str, kernel: &'a Loaded, extent: Extent) -> Self {
        Self {
            device,
            family,
            kernel,
            extent,
            random: Random::new(&kernel.symbol),
            outcomes: Vec::new(),
            shape: String::new(),
        }
    }

    /// Kernel and shape, for tables and messages.
    pub fn title(&self) -> String {
        if self.shape.is_empty() {
            self.kernel.symbol.clone()
        } else {
            format!("{}: {}", self.kernel.symbol, self.shape)
        }
    }

    /// What the kernel was recorded for.
    pub fn target(&self) -> &Target {
        &self.kernel.kernel.target
    }

    /// Names the inputs that follow.
    pub fn shape(&mut self, shape: String) {
        self.shape = shape;
    }

    /// What was compared.
    pub fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }

    /// A buffer with exactly these values.
    ///
    /// # Errors
    /// Those of the device.
    pub fn input<T: NoUninit>(&self, values: &[T]) -> Result<Argument, DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.device.allocate(bytes.len())?;
        self.device.upload(&buffer, 0, bytes)?;
        Ok(Argument::Buffer(buffer, 0))
    }

    /// A buffer of `len` poisoned elements.
    ///
    /// # Errors
    /// Those of the device.
    pub fn output<T: Word>(&self, len: usize) -> Result<Output<T>, DeviceError> {
        self.in_out(&vec![T::POISON; len])
    }

    /// A buffer with these values that the kernel overwrites.
    ///
    /// # Errors
    /// Those of the device.
    pub fn in_out<T: Word>(&self, values: &[T]) -> Result<Output<T>, DeviceError> {
        // The host device knows where a buffer ends; elsewhere a guard has to tell.
        let guard = if self.device.properties().target.vendor == Vendor::Host {
            0
        } else {
            GUARD
        };
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.device.allocate(bytes.len() + 2 * guard)?;
        let edge = vec![GUARD_BYTE; guard];
        self.device.upload(&buffer, 0, &[&edge, bytes, &edge].concat())?;
        Ok(Output {
            buffer,
            len: values.len(),
            guard,
            element: PhantomData,
        })
    }

    /// The kernel with other settings, loaded, to compare results with.
    ///
    /// # Errors
    /// The kernel cannot have them, or those of the device.
    pub fn variant(&self, settings: &[&str]) -> Result<Loaded, CaseError> {
        self.other(self.family, settings)
    }

    /// Another kernel of the library for the same target, loaded.
    ///
    /// # Errors
    /// There is none, it cannot have the settings, or those of the device.
    pub fn other(&self, family: &'static str, settings: &[&str]) -> Result<Loaded, CaseError> {
        let kernel = super::record(family, settings, &self.kernel.kernel.target)?;
        let loaded = self.device.load(vec![Arc::new(kernel)])?;
        loaded.into_iter().next().ok_or(CaseError::UnknownKernel(family))
    }

    /// Where the kernel runs.
    pub fn device(&self) -> &'a dyn Device {
        self.device
    }

    /// The kernel runs on the CPU, where every operation is rounded as written.
    pub fn is_on_host(&self) -> bool {
        self.device.properties().target.vendor == Vendor::Host
    }

    /// Launches the kernel and waits for it.
    ///
    /// # Errors
    /// Those of the device, findings of the sanitizer included.
    pub fn launch(&self, grid: [usize; 3], arguments: Vec<Argument>) -> Result<(), DeviceError> {
        self.launch_variant(self.kernel, grid, arguments)
    }

    /// Launches what [`variant`](Self::variant) gave and waits for it.
    ///
    /// # Errors
    /// Those of the device, findings of the sanitizer included.
    pub fn launch_variant(
        &self,
        kernel: &Loaded,
        grid: [usize; 3],
        arguments: Vec<Argument>,
    ) -> Result<(), DeviceError> {
        let grid: Grid = grid.map(|size| size as u32);
        self.device.launch(
            kernel,
            &Launch {
                grid,
                arguments,
                dependent: false,
            },
        )?;
        self.device.synchronize()
    }

    /// What the kernel wrote.
    ///
    /// # Errors
    /// Those of the device.
    pub fn result<T: Word>(&mut self, output: &Output<T>) -> Result<Vec<T>, DeviceError> {
        let mut bytes = vec![0; output.buffer.bytes];
        self.device.download(&output.buffer, 0, &mut bytes)?;
        let end = output.guard + output.len * size_of::<T>();
        let guards = [&bytes[..output.guard], &bytes[end..]].concat();
        if guards.iter().any(|&byte| byte != GUARD_BYTE) {
            let name = format!("{}: bytes around an output", self.title());
            self.outcomes.push(Outcome::Equal(Equality::new(
                name,
                &guards,
                &vec![GUARD_BYTE; guards.len()],
            )));
        }
        let words = bytes[output.guard..end].chunks_exact(size_of::<T>());
        Ok(words.map(bytemuck::pod_read_unaligned).collect())
    }

    /// Compares, each element with a bound of its own.
    pub fn within<T: Element>(&mut self, got: &[T], want: &[f64], bounds: &[f64]) {
        let comparison = Comparison::new(self.title(), got, want, bounds);
        self.outcomes.push(Outcome::Within(comparison));
    }

    /// A comparison that was made elsewhere; `fault` is empty where nothing is wrong.
    pub fn note(&mut self, what: &str, fault: &str) {
        self.equal(what, &[fault], &[""]);
    }

    /// Compares exactly.
    pub fn equal<T: PartialEq + Debug>(&mut self, what: &str, got: &[T], want: &[T]) {
        let name = format!("{}, {what}", self.title());
        self.outcomes.push(Outcome::Equal(Equality::new(name, got, want)));
    }
}

/// A scalar argument.
pub fn number(value: usize) -> Argument {
    Argument::U32(value as u32)
}

/// Runs the body of a check for each shape of a table.
pub fn for_each<S>(
    trial: &mut Trial<'_>,
    shapes: Vec<S>,
    check: impl Fn(&mut Trial<'_>, S) -> Result<(), CaseError>,
) -> Result<(), CaseError> {
    shapes.into_iter().try_for_each(|shape| check(trial, shape))
}
