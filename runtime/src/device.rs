//! What every device can do.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use tilekiln_dsl::ir::Kernel;
use tilekiln_dsl::target::Target;

use crate::error::DeviceError;

/// Memory of a device. Clones share it; it is freed with the last one.
#[derive(Clone)]
pub struct Buffer {
    /// Size in bytes.
    pub bytes: usize,
    /// The device's own handle.
    pub(crate) handle: Arc<dyn Any + Send + Sync>,
}

/// One launch argument, in the order of the kernel's parameters.
#[derive(Clone)]
pub enum Argument {
    /// A memory parameter: a buffer from a byte offset on.
    Buffer(Buffer, usize),
    /// A scalar parameter of that type.
    U32(u32),
    /// A scalar parameter of that type.
    I32(i32),
    /// A scalar parameter of that type.
    U64(u64),
    /// A scalar parameter of that type.
    F32(f32),
}

/// Blocks along x, y, z.
pub type Grid = [u32; 3];

/// How to launch a loaded kernel.
#[derive(Clone)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: Grid,
    /// One per parameter.
    pub arguments: Vec<Argument>,
    /// May start before the launch in front of it has ended (programmatic dependent launch); the kernel waits
    /// itself. Ignored where the target has no such thing.
    pub dependent: bool,
}

/// What a vendor compiler said about one kernel. Zeroes on the host device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers per thread (VGPRs on AMD).
    pub registers: u32,
    /// Bytes of static plus dynamic shared memory per block.
    pub shared_bytes: u32,
    /// Bytes (NVIDIA: spill stores + loads) or registers (AMD: SGPRs + VGPRs) spilled.
    pub spills: u32,
    /// Bytes of local (scratch) memory per thread.
    pub scratch_bytes: u32,
}

/// A kernel ready to be launched on the device that loaded it.
#[derive(Clone)]
pub struct Loaded {
    /// The kernel's symbol.
    pub symbol: String,
    /// What it costs.
    pub resources: Resources,
    /// How long compiling took.
    pub compile_time: Duration,
    /// The compiled module came from the disk cache.
    pub from_cache: bool,
    /// The recorded kernel, to check arguments against.
    pub kernel: Arc<Kernel>,
    /// The device's own handle.
    pub(crate) handle: Arc<dyn Any + Send + Sync>,
}

/// A recorded sequence of launches.
#[derive(Clone)]
pub struct Graph {
    /// Launches in it.
    pub launches: usize,
    /// The device's own handle.
    pub(crate) handle: Arc<dyn Any + Send + Sync>,
}

/// A point in a device's stream of work.
#[derive(Clone)]
pub struct Event {
    /// The device's own handle.
    pub(crate) handle: Arc<dyn Any + Send + Sync>,
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct Properties {
    /// `NVIDIA H100 80GB HBM3`, or the CPU.
    pub name: String,
    /// The target kernels must be recorded for. (`host` runs kernels recorded for any target.)
    pub target: Target,
    /// Multiprocessors, compute units or worker threads.
    pub units: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Memory is shared with the CPU (an APU).
    pub unified_memory: bool,
}

/// A device: memory, kernels, one in-order stream of work.
///
/// All methods may be called from any thread. Uploads, launches and replays are enqueued in call order;
/// `download` and `synchronize` wait for what is enqueued. A failed launch is reported by the call that
/// notices it.
pub trait Device: Send + Sync {
    /// What it is.
    fn properties(&self) -> &Properties;
    /// Memory with undefined contents.
    fn allocate(&self, bytes: usize) -> Result<Buffer, DeviceError>;
    /// Copies into a buffer from byte `offset` on.
    fn upload(&self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<(), DeviceError>;
    /// Copies out of a buffer from byte `offset` on.
    fn download(&self, buffer: &Buffer, offset: usize, data: &mut [u8]) -> Result<(), DeviceError>;
    /// Sets every byte.
    fn fill(&self, buffer: &Buffer, byte: u8) -> Result<(), DeviceError>;
    /// Compiles (in parallel) and loads kernels; results in the order asked.
    fn load(&self, kernels: Vec<Arc<Kernel>>) -> Result<Vec<Loaded>, DeviceError>;
    /// Enqueues a launch, or adds it to the graph being recorded.
    fn launch(&self, kernel: &Loaded, launch: &Launch) -> Result<(), DeviceError>;
    /// Starts recording launches into a graph instead of running them.
    fn begin_graph(&self) -> Result<(), DeviceError>;
    /// Ends recording.
    fn end_graph(&self) -> Result<Graph, DeviceError>;
    /// Enqueues all launches of a graph.
    fn replay(&self, graph: &Graph) -> Result<(), DeviceError>;
    /// Waits for everything enqueued.
    fn synchronize(&self) -> Result<(), DeviceError>;
    /// Marks this point of the stream.
    fn mark(&self) -> Result<Event, DeviceError>;
    /// Time between two marks; waits for the later one.
    fn elapsed(&self, start: &Event, end: &Event) -> Result<Duration, DeviceError>;
}
