//! Memory, loaded kernels, and steps.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rayon::prelude::*;
use tilekiln_dsl::ir::Kernel;
use tilekiln_dsl::record::Rejected;
use tilekiln_dsl::target::Target;
use tilekiln_kernels::registry::{self, SettingError, Settings};
use tilekiln_runtime::device::{Argument, Buffer, Device, Graph, Launch, Loaded};
use tilekiln_runtime::error::DeviceError;

use super::inputs::Inputs;
use super::{BufferId, BufferKind, BufferTable, KernelSpec, Operand, Plan, Size, Stage};

/// Steps of at most so many rows are recorded as graphs when they come again: decoding and verification. The row
/// counts of prompts vary too much.
const GRAPH_ROWS: usize = 160;
/// Graphs that are kept; the one that was not used for longest goes first.
const GRAPHS: usize = 96;

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The library has no such kernel.
    #[error("the kernel library has no `{0}`")]
    UnknownKernel(String),
    /// A kernel cannot be made for this model.
    #[error("{kernel}: {source}")]
    Setting {
        /// The kernel and its settings.
        kernel: String,
        /// What is wrong.
        source: SettingError,
    },
    /// A kernel cannot be made for this device.
    #[error("{kernel}: {source}")]
    Rejected {
        /// The kernel and its settings.
        kernel: String,
        /// What is wrong.
        source: Rejected,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model and its caches do not fit into the device's memory.
    #[error(
        "{what} needs {needed_mib} MiB and the device has {have_mib} MiB; use a smaller context (-c), fewer slots (-np), \
         or a file with smaller weights"
    )]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Needed.
        needed_mib: usize,
        /// There.
        have_mib: usize,
    },
    /// A step has more rows than its buffers.
    #[error("a step of {rows} rows; buffers hold {limit}")]
    TooManyRows {
        /// Asked.
        rows: usize,
        /// Possible.
        limit: usize,
    },
}

/// What loading is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Copying weights: bytes done of all.
    Weights {
        /// Bytes copied.
        done: usize,
        /// All bytes.
        total: usize,
    },
    /// Compiling kernels: so many.
    Compiling {
        /// Kernels.
        kernels: usize,
    },
    /// Kernels are ready.
    Compiled {
        /// Kernels.
        kernels: usize,
        /// Of these, taken from the cache on disk.
        cached: usize,
        /// How long it took.
        time: Duration,
    },
}

impl KernelSpec {
    /// The kernel as it is compiled for a target.
    ///
    /// # Errors
    /// The library has no such kernel, or the target cannot have it.
    pub fn record(&self, target: &Target) -> Result<Kernel, PlanError> {
        let entry = registry::find(self.name).ok_or_else(|| PlanError::UnknownKernel(self.name.to_owned()))?;
        let setting = |source| PlanError::Setting {
            kernel: self.to_string(),
            source,
        };
        let settings = Settings::parse(entry, self.settings.iter().map(String::as_str)).map_err(setting)?;
        let kernel = (entry.build)(&settings).map_err(setting)?;
        kernel.record(target).map_err(|source| PlanError::Rejected {
            kernel: self.to_string(),
            source,
        })
    }
}

/// The memory and the kernels of a model on a device.
pub struct Machine {
    device: Arc<dyn Device>,
    table: BufferTable,
    buffers: Vec<Option<Buffer>>,
    /// What the host has to say, and where it goes.
    inputs: Mutex<Inputs>,
    input_buffer: Buffer,
    kernels: BTreeMap<KernelSpec, Loaded>,
    graphs: HashMap<GraphKey, Recorded>,
    /// Steps so far.
    clock: u64,
}

/// What launches of a step are decided by: title of each plan and all counts of its launches.
type GraphKey = Vec<(String, Vec<u32>)>;

/// A step that may come again.
struct Recorded {
    /// Not yet, after the first step of that kind.
    graph: Option<Graph>,
    /// When it was last done.
    used: u64,
}

impl Machine {
    /// Memory for everything in the table except constants, which come with [`Machine::reserve_constant`].
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(device: Arc<dyn Device>, table: BufferTable) -> Result<Self, PlanError> {
        let needed: usize = table.specs().iter().map(|spec| spec.bytes).sum();
        let have = device.properties().memory_bytes;
        if have > 0 && needed as u64 > have {
            return Err(PlanError::Memory {
                what: "the model with its cache".to_owned(),
                needed_mib: needed >> 20,
                have_mib: (have >> 20) as usize,
            });
        }
        let inputs = Inputs::of(&table);
        let input_buffer = device.allocate(inputs.size().max(4))?;
        device.fill(&input_buffer, 0)?;
        let mut buffers = Vec::new();
        for (index, spec) in table.specs().iter().enumerate() {
            buffers.push(match spec.kind {
                BufferKind::Input if inputs.start(BufferId::at(index)).is_some() => None,
                BufferKind::Constant => None,
                _ => {
                    let buffer = device.allocate(spec.bytes.max(4))?;
                    // stale cache entries are masked, not skipped: they must be numbers
                    device.fill(&buffer, 0)?;
                    Some(buffer)
                }
            });
        }
        Ok(Self {
            device,
            table,
            buffers,
            inputs: Mutex::new(inputs),
            input_buffer,
            kernels: BTreeMap::new(),
            graphs: HashMap::new(),
            clock: 0,
        })
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The buffers' descriptions.
    pub fn table(&self) -> &BufferTable {
        &self.table
    }

    /// Bytes of device memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.input_buffer.bytes + self.buffers.iter().flatten().map(|buffer| buffer.bytes).sum::<usize>()
    }

    /// Gives a constant memory.
    ///
    /// # Errors
    /// The device has too little.
    pub fn reserve_constant(&mut self, id: BufferId, bytes: usize) -> Result<(), PlanError> {
        self.buffers[id.index()] = Some(self.device.allocate(bytes.max(4))?);
        Ok(())
    }

    /// Copies a part of a constant's contents, from byte `offset` on.
    ///
    /// # Errors
    /// Those of the device.
    pub fn copy_constant(&self, id: BufferId, offset: usize, data: &[u8]) -> Result<(), PlanError> {
        let (buffer, start) = self.buffer(id)?;
        Ok(self.device.upload(buffer, start + offset, data)?)
    }

    /// Compiles and loads the kernels of plans that are not loaded yet. Returns their number, how many came from the
    /// cache on disk, and the time.
    ///
    /// # Errors
    /// A kernel that cannot be made or compiled.
    pub fn load<'a>(
        &mut self,
        plans: impl IntoIterator<Item = &'a Plan>,
    ) -> Result<(usize, usize, Duration), PlanError> {
        let start = std::time::Instant::now();
        let mut wanted: Vec<&KernelSpec> = plans.into_iter().flat_map(|plan| &plan.kernels).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|spec| !self.kernels.contains_key(spec));
        let target = self.device.properties().target.clone();
        let recorded = wanted.par_iter().map(|spec| spec.record(&target).map(Arc::new));
        let recorded = recorded.collect::<Result<Vec<_>, PlanError>>()?;
        let loaded = self.device.load(recorded)?;
        let cached = loaded.iter().filter(|kernel| kernel.from_cache).count();
        let count = loaded.len();
        self.kernels.extend(wanted.into_iter().cloned().zip(loaded));
        Ok((count, cached, start.elapsed()))
    }

    fn inputs(&self) -> MutexGuard<'_, Inputs> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of a buffer, and where in it the buffer begins.
    ///
    /// # Errors
    /// A constant that was never filled.
    fn buffer(&self, id: BufferId) -> Result<(&Buffer, usize), PlanError> {
        if let Some(start) = self.inputs().start(id) {
            return Ok((&self.input_buffer, start));
        }
        let buffer = self.buffers[id.index()].as_ref().map(|buffer| (buffer, 0));
        buffer.ok_or_else(|| {
            PlanError::Device(DeviceError::BadLaunch {
                kernel: self.table.spec(id).name.clone(),
                reason: "the constant has no contents yet".to_owned(),
            })
        })
    }

    /// Writes an input. It reaches the device before the next launch does.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write<T: bytemuck::NoUninit>(&self, id: BufferId, values: &[T]) -> Result<(), PlanError> {
        let limit = self.table.spec(id).bytes;
        if self.inputs().write(id, bytemuck::cast_slice(values), limit) {
            return Ok(());
        }
        self.write_at(id, 0, values)
    }

    /// Gives the device what was written.
    fn send_inputs(&self) -> Result<(), PlanError> {
        for (start, bytes) in self.inputs().take() {
            self.device.upload(&self.input_buffer, start, bytes)?;
        }
        Ok(())
    }

    /// Writes a part of an input or a cache, from value `first` on.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write_at<T: bytemuck::NoUninit>(&self, id: BufferId, first: usize, values: &[T]) -> Result<(), PlanError> {
        self.send_inputs()?;
        let (buffer, start) = self.buffer(id)?;
        let offset = start + first * size_of::<T>();
        Ok(self.device.upload(buffer, offset, bytemuck::cast_slice(values))?)
    }

    /// Reads a buffer's values from value `first` on.
    ///
    /// # Errors
    /// Those of the device.
    pub fn read<T: bytemuck::Pod>(&self, id: BufferId, first: usize, count: usize) -> Result<Vec<T>, PlanError> {
        self.send_inputs()?;
        let mut values = vec![T::zeroed(); count];
        let (buffer, start) = self.buffer(id)?;
        let offset = start + first * size_of::<T>();
        self.device
            .download(buffer, offset, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Does a step: plans in order, each with what it does of the step.
    ///
    /// # Errors
    /// Too many rows, and those of the device.
    pub fn run(&mut self, parts: &[(&Plan, &Size)]) -> Result<(), PlanError> {
        for (_, size) in parts {
            self.check_rows(size.rows)?;
        }
        self.send_inputs()?;
        if parts.iter().any(|(_, size)| size.rows > GRAPH_ROWS) {
            return self.launch_all(parts);
        }
        let rounded: Vec<Size> = parts.iter().map(|(_, size)| size.rounded()).collect();
        let parts: Vec<(&Plan, &Size)> = parts.iter().map(|(plan, _)| *plan).zip(&rounded).collect();
        let key = parts.iter().map(|(plan, size)| {
            let counts = plan.counts().iter().map(|count| count.of(size));
            (plan.title.clone(), counts.collect())
        });
        let key: GraphKey = key.collect();
        self.clock += 1;
        let used = self.clock;
        let known = self.graphs.get_mut(&key).map(|recorded| {
            recorded.used = used;
            recorded.graph.as_ref()
        });
        match known {
            Some(Some(graph)) => Ok(self.device.replay(graph)?),
            Some(None) => {
                let graph = self.as_graph(|machine| machine.launch_all(&parts))?;
                self.device.replay(&graph)?;
                let graph = Some(graph);
                self.graphs.insert(key, Recorded { graph, used });
                Ok(())
            }
            None => {
                self.forget_oldest();
                self.graphs.insert(key, Recorded { graph: None, used });
                self.launch_all(&parts)
            }
        }
    }

    /// Makes room for one more graph.
    fn forget_oldest(&mut self) {
        if self.graphs.len() < GRAPHS {
            return;
        }
        let oldest = self.graphs.iter().min_by_key(|(_, recorded)| recorded.used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.graphs.remove(&key);
        }
    }

    /// Does a step launch by launch and shows each stage to `observe` when it is done.
    ///
    /// # Errors
    /// Those of [`Self::run`] and of the observer.
    pub fn run_observed(
        &self,
        plan: &Plan,
        size: &Size,
        mut observe: impl FnMut(&Self, &Stage) -> Result<(), PlanError>,
    ) -> Result<(), PlanError> {
        self.check_rows(size.rows)?;
        self.send_inputs()?;
        for stage in &plan.stages {
            self.launch(plan, stage, size)?;
            observe(self, stage)?;
        }
        Ok(())
    }

    /// Records the launches of some stages of a plan as a graph, to be timed apart from the others. Everything they work
    /// on has to be there, as after a step with as many rows.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub fn record<'a>(
        &self,
        plan: &Plan,
        stages: impl IntoIterator<Item = &'a Stage>,
        size: &Size,
    ) -> Result<Graph, PlanError> {
        self.check_rows(size.rows)?;
        self.as_graph(|machine| {
            let mut stages = stages.into_iter();
            stages.try_for_each(|stage| machine.launch(plan, stage, size))
        })
    }

    /// The launches as a graph.
    fn as_graph(&self, launches: impl FnOnce(&Self) -> Result<(), PlanError>) -> Result<Graph, PlanError> {
        self.device.begin_graph()?;
        let launched = launches(self);
        // the recording has to end even where a launch was refused
        let graph = self.device.end_graph();
        launched?;
        Ok(graph?)
    }

    fn check_rows(&self, rows: usize) -> Result<(), PlanError> {
        if rows == 0 || rows > self.table.max_rows {
            return Err(PlanError::TooManyRows {
                rows,
                limit: self.table.max_rows,
            });
        }
        Ok(())
    }

    fn launch_all(&self, parts: &[(&Plan, &Size)]) -> Result<(), PlanError> {
        parts.iter().try_for_each(|(plan, size)| {
            let mut stages = plan.stages.iter();
            stages.try_for_each(|stage| self.launch(plan, stage, size))
        })
    }

    fn argument(&self, id: BufferId, offset: usize) -> Result<Argument, PlanError> {
        let (buffer, start) = self.buffer(id)?;
        Ok(Argument::Buffer(buffer.clone(), start + offset))
    }

    fn launch(&self, plan: &Plan, stage: &Stage, size: &Size) -> Result<(), PlanError> {
        let spec = &plan.kernels[stage.kernel];
        let kernel = self
            .kernels
            .get(spec)
            .ok_or_else(|| PlanError::UnknownKernel(format!("{spec} (not loaded)")))?;
        let arguments = stage.operands.iter().map(|operand| {
            Ok(match *operand {
                Operand::Buffer(id) => self.argument(id, 0)?,
                Operand::Slice(id, offset) => self.argument(id, offset)?,
                Operand::Number(number) => Argument::U32(number),
                Operand::Count(count) => Argument::U32(count.of(size)),
                Operand::Real(real) => Argument::F32(real),
            })
        });
        let launch = Launch {
            grid: stage.grid.map(|count| count.of(size)),
            arguments: arguments.collect::<Result<_, PlanError>>()?,
            dependent: stage.dependent,
        };
        Ok(self.device.launch(kernel, &launch)?)
    }
}
