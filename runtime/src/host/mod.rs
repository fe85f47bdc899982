//! The host device: runs kernel IR on the CPU.
//!
//! It is the oracle (the same kernel, no vendor compiler), the sanitizer (defects reported at the author's
//! line) and the engine's device where there is no GPU. A kernel is lowered once to a compact program
//! (`lower`, `operations`, `analysis`), which is executed for all lanes of a block in lock step (`machine`,
//! `memory`, `warp`, with the tight loops in `lanes`) and for the blocks of a launch in parallel. Kernels
//! recorded for any target run here, with that target's fragment layout.

mod analysis;
mod buffer;
mod finding;
mod lanes;
mod lower;
mod machine;
mod memory;
mod operations;
mod program;
mod sanitizer;
mod warp;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tilekiln_dsl::ir::{Kernel, ParameterKind, Scalar};
use tilekiln_dsl::target::HOST;

pub use finding::{Finding, FindingKind, Other, Report};

use crate::device::{Argument, Buffer, Device, Event, Graph, Launch, Loaded, Properties, Resources};
use crate::error::DeviceError;
use buffer::HostBuffer;
use lower::lower;
use machine::{Bound, Context, GlobalMemory, Machine};
use program::Program;
use sanitizer::Sanitizer;

/// Instructions one block may execute under the sanitizer before it counts as endless.
pub const DEFAULT_STEP_LIMIT: u64 = 100_000_000;

/// Word indices are 32 bits wide.
const LARGEST_BUFFER: usize = 1 << 34;

/// The CPU as a device.
pub struct HostDevice {
    properties: Properties,
    sanitize: bool,
    step_limit: u64,
    stream: Mutex<Stream>,
}

#[derive(Default)]
struct Stream {
    recording: Option<Vec<Recorded>>,
}

#[derive(Clone)]
struct Recorded {
    kernel: Loaded,
    launch: Launch,
}

struct HostKernel {
    program: Program,
    checked: OnceLock<Result<Program, Arc<str>>>,
    /// Machines of earlier launches, to be used again.
    machines: Mutex<Vec<Machine>>,
}

impl Default for HostDevice {
    fn default() -> Self {
        Self::new()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed by a panic while these are held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn total_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

impl HostDevice {
    /// The CPU at full speed: accesses are checked against bounds, nothing else.
    pub fn new() -> Self {
        let units = rayon::current_num_threads();
        Self {
            properties: Properties {
                name: format!("host CPU, {units} thread{}", if units == 1 { "" } else { "s" }),
                target: HOST,
                units,
                memory_bytes: total_memory(),
                unified_memory: true,
            },
            sanitize: false,
            step_limit: DEFAULT_STEP_LIMIT,
            stream: Mutex::default(),
        }
    }

    /// The CPU as a sanitizer: every launch is checked and fails with a report of what was found. Blocks run
    /// one after the other, so that reports are the same every time.
    pub fn sanitizing() -> Self {
        Self {
            sanitize: true,
            ..Self::new()
        }
    }

    /// Sets how many instructions a block may execute under the sanitizer.
    pub fn with_step_limit(mut self, instructions: u64) -> Self {
        self.step_limit = instructions;
        self
    }

    /// Runs one launch under the sanitizer and says what it found. The launch's stores are done.
    ///
    /// Reads of memory that was allocated but never written are only found in buffers of a
    /// [`Self::sanitizing`] device.
    ///
    /// # Errors
    /// [`DeviceError::BadLaunch`] when the arguments do not fit the kernel.
    pub fn check(&self, kernel: &Loaded, launch: &Launch) -> Result<Report, DeviceError> {
        let _in_order = locked(&self.stream);
        self.check_now(kernel, launch)
    }

    fn check_now(&self, loaded: &Loaded, launch: &Launch) -> Result<Report, DeviceError> {
        let host = host_kernel(loaded)?;
        let program = host.checked.get_or_init(|| {
            lower(&loaded.kernel, true).map_err(|error| format!("{}: {}", error.at, error.message).into())
        });
        let program = program
            .as_ref()
            .map_err(|reason| bad_launch(&loaded.kernel, reason.to_string()))?;
        let context = Context {
            program,
            grid: launch.grid,
            arguments: bind(&loaded.kernel, launch)?,
        };
        let sanitizer = Box::new(Sanitizer::new(program, launch.grid, self.step_limit));
        let mut machine = Machine::new(program, Some(sanitizer));
        machine.enter_launch(&context);
        for block in 0..blocks(launch) {
            if let Err(finding) = machine.run_block(&context, block) {
                let finding = *finding;
                if let Some(sanitizer) = &mut machine.sanitizer {
                    sanitizer.findings.add(finding.kind, finding.at, None, || finding);
                }
            }
        }
        let (findings, lane_operations) = match &mut machine.sanitizer {
            Some(sanitizer) => (sanitizer.findings.take(), sanitizer.operations),
            None => Default::default(),
        };
        Ok(Report {
            kernel: loaded.symbol.clone(),
            findings,
            lane_operations,
        })
    }

    fn run_now(&self, loaded: &Loaded, launch: &Launch) -> Result<(), DeviceError> {
        if self.sanitize {
            let report = self.check_now(loaded, launch)?;
            return if report.is_clean() {
                Ok(())
            } else {
                Err(DeviceError::Fault(report.to_string()))
            };
        }
        let host = host_kernel(loaded)?;
        let context = Context {
            program: &host.program,
            grid: launch.grid,
            arguments: bind(&loaded.kernel, launch)?,
        };
        let total = blocks(launch);
        let tasks = total.min(4 * rayon::current_num_threads() as u64);
        let stop = AtomicBool::new(false);
        let run_part = |part: u64| {
            let mut machine = locked(&host.machines)
                .pop()
                .unwrap_or_else(|| Machine::new(&host.program, None));
            machine.enter_launch(&context);
            let mut result = Ok(());
            for block in part * total / tasks..(part + 1) * total / tasks {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(finding) = machine.run_block(&context, block) {
                    stop.store(true, Ordering::Relaxed);
                    result = Err(finding);
                    break;
                }
            }
            locked(&host.machines).push(machine);
            result
        };
        let results: Vec<_> = if tasks <= 1 {
            (0..tasks).map(run_part).collect()
        } else {
            (0..tasks).into_par_iter().map(run_part).collect()
        };
        match results.into_iter().find_map(Result::err) {
            Some(finding) => Err(DeviceError::Fault(format!("{}: {finding}", loaded.symbol))),
            None => Ok(()),
        }
    }
}

fn blocks(launch: &Launch) -> u64 {
    launch.grid.iter().map(|size| u64::from(*size)).product()
}

fn bad_launch(kernel: &Kernel, reason: String) -> DeviceError {
    DeviceError::BadLaunch {
        kernel: kernel.symbol.clone(),
        reason,
    }
}

fn host_kernel(loaded: &Loaded) -> Result<&HostKernel, DeviceError> {
    loaded.handle.downcast_ref().ok_or_else(|| {
        bad_launch(
            &loaded.kernel,
            "it was loaded by another device; load it on this one".to_owned(),
        )
    })
}

fn host_buffer(buffer: &Buffer) -> Result<Arc<HostBuffer>, DeviceError> {
    buffer.handle.clone().downcast().map_err(|_| DeviceError::Driver {
        call: "host buffer",
        reason: "the buffer belongs to another device; allocate it on this one and copy".to_owned(),
    })
}

/// Checks the arguments of a launch against the kernel's parameters.
fn bind(kernel: &Kernel, launch: &Launch) -> Result<Vec<Bound>, DeviceError> {
    let bad = |reason: String| Err(bad_launch(kernel, reason));
    let [x, y, z] = launch.grid;
    if launch.grid.contains(&0) || y > 65_535 || z > 65_535 || x > i32::MAX as u32 {
        return bad(format!(
            "a grid of ({x},{y},{z}) blocks; at least 1, at most 2147483647 × 65535 × 65535 are possible"
        ));
    }
    if launch.arguments.len() != kernel.parameters.len() {
        let names: Vec<_> = kernel
            .parameters
            .iter()
            .map(|parameter| parameter.name.as_str())
            .collect();
        return bad(format!(
            "{} arguments are given, it takes {} ({})",
            launch.arguments.len(),
            names.len(),
            names.join(", ")
        ));
    }
    let mut bound = Vec::with_capacity(kernel.parameters.len());
    for (index, (parameter, argument)) in kernel.parameters.iter().zip(&launch.arguments).enumerate() {
        let name = &parameter.name;
        let given = match argument {
            Argument::Buffer(..) => "a buffer",
            Argument::U32(_) => "a u32",
            Argument::I32(_) => "an i32",
            Argument::U64(_) => "a u64",
            Argument::F32(_) => "an f32",
        };
        bound.push(match (&parameter.kind, argument) {
            (ParameterKind::Memory { element, access, .. }, Argument::Buffer(buffer, offset)) => {
                if *offset > buffer.bytes {
                    return bad(format!("argument {index} (`{name}`) starts at byte {offset} of a buffer of {} bytes", buffer.bytes));
                }
                if offset % element.bytes() != 0 {
                    return bad(format!(
                        "argument {index} (`{name}`) starts at byte {offset}, which is not a multiple of the {} bytes of {element}",
                        element.bytes()
                    ));
                }
                Bound::Memory(GlobalMemory {
                    name: name.clone(),
                    buffer: host_buffer(buffer)?,
                    offset: *offset,
                    end: buffer.bytes,
                    element: *element,
                    access: *access,
                })
            }
            (ParameterKind::Scalar(Scalar::U32), Argument::U32(value)) => Bound::Scalar([*value, 0]),
            (ParameterKind::Scalar(Scalar::I32), Argument::I32(value)) => Bound::Scalar([*value as u32, 0]),
            (ParameterKind::Scalar(Scalar::U64), Argument::U64(value)) => Bound::Scalar([*value as u32, (*value >> 32) as u32]),
            (ParameterKind::Scalar(Scalar::F32), Argument::F32(value)) => Bound::Scalar([value.to_bits(), 0]),
            (ParameterKind::Memory { element, .. }, _) => {
                return bad(format!("argument {index} (`{name}`) is {given}; a buffer of {element} is needed"));
            }
            (ParameterKind::Scalar(scalar), _) => {
                return bad(format!("argument {index} (`{name}`) is {given}; a scalar of type {scalar} is needed"));
            }
        });
    }
    Ok(bound)
}

fn in_range(buffer: &Buffer, offset: usize, bytes: usize) -> Result<Arc<HostBuffer>, DeviceError> {
    if offset.checked_add(bytes).is_none_or(|end| end > buffer.bytes) {
        return Err(DeviceError::OutOfBuffer {
            bytes,
            offset,
            size: buffer.bytes,
        });
    }
    host_buffer(buffer)
}

impl Device for HostDevice {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        if bytes > LARGEST_BUFFER {
            return Err(DeviceError::OutOfMemory {
                bytes,
                free: LARGEST_BUFFER as u64,
            });
        }
        Ok(Buffer {
            bytes,
            handle: Arc::new(HostBuffer::new(bytes, self.sanitize)?),
        })
    }

    fn upload(&self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<(), DeviceError> {
        let _in_order = locked(&self.stream);
        in_range(buffer, offset, data.len())?.write(offset, data);
        Ok(())
    }

    fn download(&self, buffer: &Buffer, offset: usize, data: &mut [u8]) -> Result<(), DeviceError> {
        let _in_order = locked(&self.stream);
        in_range(buffer, offset, data.len())?.read(offset, data);
        Ok(())
    }

    fn fill(&self, buffer: &Buffer, byte: u8) -> Result<(), DeviceError> {
        let _in_order = locked(&self.stream);
        let host = host_buffer(buffer)?;
        for word in &host.words {
            word.store(u32::from_ne_bytes([byte; 4]), Ordering::Relaxed);
        }
        host.mark(0, buffer.bytes);
        Ok(())
    }

    fn load(&self, kernels: Vec<Arc<Kernel>>) -> Result<Vec<Loaded>, DeviceError> {
        kernels
            .into_par_iter()
            .map(|kernel| {
                let start = Instant::now();
                let program = lower(&kernel, false).map_err(|error| DeviceError::Unsupported {
                    message: error.message,
                    at: error.at,
                })?;
                Ok(Loaded {
                    symbol: kernel.symbol.clone(),
                    resources: Resources::default(),
                    compile_time: start.elapsed(),
                    from_cache: false,
                    kernel,
                    handle: Arc::new(HostKernel {
                        program,
                        checked: OnceLock::new(),
                        machines: Mutex::default(),
                    }),
                })
            })
            .collect()
    }

    fn launch(&self, kernel: &Loaded, launch: &Launch) -> Result<(), DeviceError> {
        let mut stream = locked(&self.stream);
        match &mut stream.recording {
            Some(launches) => {
                host_kernel(kernel)?;
                bind(&kernel.kernel, launch)?;
                launches.push(Recorded {
                    kernel: kernel.clone(),
                    launch: launch.clone(),
                });
                Ok(())
            }
            None => self.run_now(kernel, launch),
        }
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        let mut stream = locked(&self.stream);
        if stream.recording.is_some() {
            return Err(DeviceError::Driver {
                call: "begin_graph",
                reason: "a graph is being recorded already; end it first".to_owned(),
            });
        }
        stream.recording = Some(Vec::new());
        Ok(())
    }

    fn end_graph(&self) -> Result<Graph, DeviceError> {
        match locked(&self.stream).recording.take() {
            Some(launches) => Ok(Graph {
                launches: launches.len(),
                handle: Arc::new(launches),
            }),
            None => Err(DeviceError::Driver {
                call: "end_graph",
                reason: "no graph is being recorded; begin one first".to_owned(),
            }),
        }
    }

    fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        let launches: &Vec<Recorded> = graph.handle.downcast_ref().ok_or_else(|| DeviceError::Driver {
            call: "replay",
            reason: "the graph was recorded by another device".to_owned(),
        })?;
        let _in_order = locked(&self.stream);
        launches
            .iter()
            .try_for_each(|recorded| self.run_now(&recorded.kernel, &recorded.launch))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        drop(locked(&self.stream));
        Ok(())
    }

    fn mark(&self) -> Result<Event, DeviceError> {
        let _in_order = locked(&self.stream);
        Ok(Event {
            handle: Arc::new(Instant::now()),
        })
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<Duration, DeviceError> {
        match (
            start.handle.downcast_ref::<Instant>(),
            end.handle.downcast_ref::<Instant>(),
        ) {
            (Some(start), Some(end)) => Ok(end.duration_since(*start)),
            _ => Err(DeviceError::Driver {
                call: "elapsed",
                reason: "an event belongs to another device".to_owned(),
            }),
        }
    }
}
