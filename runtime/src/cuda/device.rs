//! One NVIDIA GPU.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use tilekiln_dsl::ir::Kernel;

use super::context::{Context, Launched, Mark, Memory, Module, Recorded};
use super::driver::{self, check, cuda};
use super::target::{self, Choice};
use crate::compiler::cache::Cache;
use crate::compiler::nvrtc::Nvrtc;
use crate::compiler::{Prepared, prepare};
use crate::device::{Buffer, Device, Event, Graph, Launch, Loaded, Properties};
use crate::error::DeviceError;
use crate::launch::{check as check_launch, check_range, foreign, milliseconds, pack, while_recording};

/// An NVIDIA GPU with NVRTC as its compiler.
///
/// Enqueued work runs on one stream. A buffer that is dropped waits for the work in front of it; a graph keeps
/// what it launches alive.
pub struct CudaDevice {
    context: Arc<Context>,
    properties: Properties,
    compiler: Nvrtc,
    cache: Option<Cache>,
    choice: Choice,
    grid_limits: [u32; 3],
    /// Held by every call that enqueues, so that a recording holds exactly the launches between its ends.
    recording: Mutex<Option<Vec<Launched>>>,
}

impl CudaDevice {
    /// Opens a GPU by its number, from 0.
    ///
    /// Fails with [`DeviceError::MissingLibrary`] without driver or NVRTC, and with
    /// [`DeviceError::NoDevice`] when there is no such GPU or kernels exist for newer ones only.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let count = driver::devices()?;
        let number = c_int::try_from(ordinal)
            .ok()
            .filter(|number| *number < count)
            .ok_or_else(|| DeviceError::NoDevice {
                vendor: "NVIDIA",
                reason: format!("number {ordinal} was asked for, there are numbers 0 to {}", count - 1),
            })?;
        let described = driver::describe(number)?;
        let choice = target::for_capability(described.capability)?;
        let compiler = Nvrtc::open()?;
        let device = described.device;
        let limit = |attribute| driver::attribute(device, attribute);
        let mut target = choice.target.clone();
        // An entry can stand for a smaller chip of its line (sm_80 for sm_86).
        let shared = limit(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        target.shared_limit = target.shared_limit.min(shared as usize);
        Ok(Self {
            properties: Properties {
                name: described.name,
                target,
                units: limit(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
                memory_bytes: described.memory_bytes,
                unified_memory: limit(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
            },
            grid_limits: [
                limit(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
                limit(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
                limit(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
            ],
            context: Arc::new(Context::open(device)?),
            compiler,
            cache: Cache::open(),
            choice,
            recording: Mutex::new(None),
        })
    }

    /// The same device with its compiled kernels kept elsewhere, or nowhere. Kernels that are loaded stay loaded.
    pub fn with_cache(mut self, cache: Option<Cache>) -> Self {
        self.cache = cache;
        self
    }

    /// The compiler, for its name and version.
    pub fn compiler(&self) -> &Nvrtc {
        &self.compiler
    }

    /// What to tell people when the GPU has no target of its own.
    pub fn note(&self) -> Option<&str> {
        self.choice.note.as_deref()
    }

    /// Free and total bytes of memory, as the driver counts.
    pub fn memory(&self) -> Result<(u64, u64), DeviceError> {
        self.context.enter()?;
        let (mut free, mut total) = (0usize, 0usize);
        // Two places for numbers.
        cuda!(cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok((free as u64, total as u64))
    }

    fn stream(&self) -> MutexGuard<'_, Option<Vec<Launched>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock for work other than launches, which a graph cannot hold.
    fn idle_stream(&self, call: &'static str) -> Result<MutexGuard<'_, Option<Vec<Launched>>>, DeviceError> {
        let stream = self.stream();
        if stream.is_some() {
            return Err(while_recording(call));
        }
        self.context.enter()?;
        Ok(stream)
    }

    fn memory_of<'a>(&self, buffer: &'a Buffer) -> Option<&'a Memory> {
        let memory = buffer.handle.downcast_ref::<Memory>()?;
        Arc::ptr_eq(&memory.context, &self.context).then_some(memory)
    }

    fn address(&self, call: &'static str, buffer: &Buffer) -> Result<sys::CUdeviceptr, DeviceError> {
        let memory = self.memory_of(buffer).ok_or_else(|| DeviceError::Driver {
            call,
            reason: "the buffer belongs to another device".to_string(),
        })?;
        Ok(memory.address)
    }

    /// Loads a compiled kernel.
    fn install(&self, prepared: Prepared) -> Result<Loaded, DeviceError> {
        let Prepared {
            kernel,
            generated,
            compiled,
        } = prepared;
        self.context.enter()?;
        let mut raw = null_mut();
        // A place for the module; the image is a whole cubin, whose length is in its header.
        cuda!(cuModuleLoadData(&mut raw, compiled.binary.as_ptr().cast()))?;
        let mut module = Module {
            context: self.context.clone(),
            raw,
            function: null_mut(),
            dynamic_shared_bytes: generated.dynamic_shared_bytes as u32,
            threads: generated.threads as u32,
        };
        let symbol = CString::new(generated.symbol.as_str()).map_err(|_| DeviceError::BadLaunch {
            kernel: generated.symbol.clone(),
            reason: "the symbol holds a zero byte".to_string(),
        })?;
        // A place for the function, a loaded module, a string that ends in zero.
        cuda!(cuModuleGetFunction(&mut module.function, raw, symbol.as_ptr()))?;
        if module.dynamic_shared_bytes > 0 {
            let limit = self.properties.target.shared_limit;
            if compiled.resources.shared_bytes as usize > limit {
                return Err(DeviceError::BadLaunch {
                    kernel: generated.symbol,
                    reason: format!(
                        "it needs {} bytes of shared memory per block, {} has {limit}",
                        compiled.resources.shared_bytes, self.properties.name
                    ),
                });
            }
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // Above 48 KiB a kernel gets what it has asked for beforehand only. A function of a loaded module.
            cuda!(cuFuncSetAttribute(
                module.function,
                attribute,
                module.dynamic_shared_bytes as c_int
            ))?;
        }
        if kernel.blocks > 0 {
            // Blocks of later launches start early where there is room, and what they fetch then delays what the step waits
            // for: a kernel that says how many of its blocks are to fit leaves no room for more. A function of a loaded module.
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            let percent = shared_memory_share(
                kernel.blocks,
                compiled.resources.shared_bytes as usize,
                self.properties.target.shared_limit,
            );
            cuda!(cuFuncSetAttribute(module.function, attribute, percent as c_int))?;
        }
        Ok(Loaded {
            symbol: generated.symbol,
            resources: compiled.resources,
            compile_time: compiled.time,
            from_cache: compiled.from_cache,
            kernel,
            handle: Arc::new(Arc::new(module)),
        })
    }
}

/// Blocks of a launch that a multiprocessor gets if they are spread evenly.
fn blocks_of_unit(grid: [u32; 3], units: usize) -> usize {
    let blocks: usize = grid.iter().map(|count| *count as usize).product();
    blocks.div_ceil(units.max(1))
}

/// What share of a multiprocessor's memory, in percent, so many blocks with so much shared memory need. One block gets its
/// own without being asked for.
fn shared_memory_share(blocks: usize, bytes: usize, limit_of_block: usize) -> usize {
    /// What CUDA keeps of it for each block.
    const RESERVED: usize = 1024;
    if blocks < 2 {
        return 0;
    }
    // a single block may have all of it but that
    let all = limit_of_block + RESERVED;
    (100 * blocks * (bytes + RESERVED)).div_ceil(all).min(100)
}

impl Device for CudaDevice {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        self.context.enter()?;
        let mut address = 0;
        // SAFETY: a place for the address. The driver refuses to allocate nothing, a kernel may be given an empty buffer.
        let code = unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) };
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(DeviceError::OutOfMemory {
                bytes,
                free: self.memory().map_or(0, |(free, _)| free),
            });
        }
        check("cuMemAlloc", code)?;
        let memory = Memory {
            context: self.context.clone(),
            address,
        };
        Ok(Buffer {
            bytes,
            handle: Arc::new(memory),
        })
    }

    fn upload(&self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<(), DeviceError> {
        check_range(buffer, offset, data.len())?;
        let address = self.address("upload", buffer)?;
        let _stream = self.idle_stream("upload")?;
        if data.is_empty() {
            return Ok(());
        }
        // The range is inside the buffer. From pageable memory, which a slice is, the driver returns once it
        // has read the source.
        cuda!(cuMemcpyHtoDAsync_v2(
            address + offset as u64,
            data.as_ptr().cast(),
            data.len(),
            self.context.stream
        ))
    }

    fn download(&self, buffer: &Buffer, offset: usize, data: &mut [u8]) -> Result<(), DeviceError> {
        check_range(buffer, offset, data.len())?;
        let address = self.address("download", buffer)?;
        let _stream = self.idle_stream("download")?;
        let mut started = Ok(());
        if !data.is_empty() {
            // The range is inside the buffer; the destination is borrowed until after the wait below.
            let (to, from) = (data.as_mut_ptr().cast(), address + offset as u64);
            started = cuda!(cuMemcpyDtoHAsync_v2(to, from, data.len(), self.context.stream));
        }
        let ended = self.context.synchronize();
        started.and(ended)
    }

    fn fill(&self, buffer: &Buffer, byte: u8) -> Result<(), DeviceError> {
        let address = self.address("fill", buffer)?;
        let _stream = self.idle_stream("fill")?;
        if buffer.bytes == 0 {
            return Ok(());
        }
        // The whole buffer.
        cuda!(cuMemsetD8Async(address, byte, buffer.bytes, self.context.stream))
    }

    fn load(&self, kernels: Vec<Arc<Kernel>>) -> Result<Vec<Loaded>, DeviceError> {
        let target = self.properties.target.name;
        let prepared = prepare(
            &self.compiler,
            self.cache.as_ref(),
            kernels,
            target,
            &self.choice.architecture,
        )?;
        prepared.into_iter().map(|prepared| self.install(prepared)).collect()
    }

    fn launch(&self, kernel: &Loaded, launch: &Launch) -> Result<(), DeviceError> {
        check_launch(&kernel.kernel, launch, self.grid_limits)?;
        let module = kernel
            .handle
            .downcast_ref::<Arc<Module>>()
            .filter(|module| Arc::ptr_eq(&module.context, &self.context))
            .ok_or_else(|| foreign(&kernel.symbol, "the kernel"))?;
        let slots = pack(&launch.arguments, |at, buffer| {
            let memory = self.memory_of(buffer);
            memory
                .map(|memory| memory.address)
                .ok_or_else(|| foreign(&kernel.symbol, &format!("argument {at}")))
        })?;
        let mut pointers: Vec<*mut c_void> = slots
            .iter()
            .map(|slot| std::ptr::from_ref(slot).cast_mut().cast())
            .collect();

        let mut attributes: Vec<sys::CUlaunchAttribute> = Vec::new();
        if launch.dependent && self.properties.target.dependent_launch {
            attributes.push(sys::CUlaunchAttribute_st {
                id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue_union {
                    programmaticStreamSerializationAllowed: 1,
                },
            });
        }
        let [x, y, z] = launch.grid;
        let blocks = blocks_of_unit(launch.grid, self.properties.units);
        if self.context.carves_launches && blocks < kernel.kernel.blocks {
            // a launch of fewer blocks than its kernel's promise has no use for the room, see `load`
            let percent = shared_memory_share(
                blocks,
                kernel.resources.shared_bytes as usize,
                self.properties.target.shared_limit,
            );
            attributes.push(sys::CUlaunchAttribute_st {
                id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue_union {
                    sharedMemCarveout: percent as u32,
                },
            });
        }
        let config = sys::CUlaunchConfig_st {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: module.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: module.dynamic_shared_bytes,
            hStream: self.context.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let mut stream = self.stream();
        self.context.enter()?;
        // One pointer per parameter, each to eight bytes that outlive the call, which copies them; count and
        // types have been checked against the kernel the module was compiled from.
        cuda!(cuLaunchKernelEx(
            &config,
            module.function,
            pointers.as_mut_ptr(),
            null_mut()
        ))?;
        if let Some(launched) = stream.as_mut() {
            let buffers = launch.arguments.iter().filter_map(|argument| match argument {
                crate::device::Argument::Buffer(buffer, _) => Some(buffer.clone()),
                _ => None,
            });
            launched.push((module.clone(), buffers.collect()));
        }
        Ok(())
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        let mut stream = self.idle_stream("begin_graph")?;
        // Relaxed: allocating and freeing stay allowed meanwhile.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.context.retired.begin();
        // Our own stream, not capturing.
        if let Err(error) = cuda!(cuStreamBeginCapture_v2(self.context.stream, mode)) {
            self.context.release(self.context.retired.end());
            return Err(error);
        }
        *stream = Some(Vec::new());
        Ok(())
    }

    fn end_graph(&self) -> Result<Graph, DeviceError> {
        let mut stream = self.stream();
        let Some(launched) = stream.take() else {
            return Err(DeviceError::Driver {
                call: "end_graph",
                reason: "no graph is being recorded".to_string(),
            });
        };
        self.context.enter()?;
        let mut graph = null_mut();
        // Our own stream, capturing since `begin_graph`; a place for the graph.
        let ended = cuda!(cuStreamEndCapture(self.context.stream, &mut graph));
        let retired = self.context.retired.end();
        if !retired.is_empty() {
            self.context.release(retired);
        }
        ended?;
        let mut raw = null_mut();
        // A place for the instance of a captured graph.
        let instantiated = cuda!(cuGraphInstantiateWithFlags(&mut raw, graph, 0));
        // The instance is independent of the graph it was made from.
        let _ = cuda!(cuGraphDestroy(graph));
        instantiated?;
        let launches = launched.len();
        let recorded = Recorded {
            context: self.context.clone(),
            raw,
            _launched: launched,
        };
        Ok(Graph {
            launches,
            handle: Arc::new(recorded),
        })
    }

    fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        let recorded = graph
            .handle
            .downcast_ref::<Recorded>()
            .filter(|recorded| Arc::ptr_eq(&recorded.context, &self.context))
            .ok_or_else(|| foreign("a graph", "it"))?;
        let _stream = self.idle_stream("replay")?;
        // An instance of ours; the lock keeps two launches of it in order.
        cuda!(cuGraphLaunch(recorded.raw, self.context.stream))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        drop(self.idle_stream("synchronize")?);
        self.context.synchronize()
    }

    fn mark(&self) -> Result<Event, DeviceError> {
        let _stream = self.idle_stream("mark")?;
        let mut raw = null_mut();
        // A place for the event.
        cuda!(cuEventCreate(
            &mut raw,
            sys::CUevent_flags_enum::CU_EVENT_DEFAULT as u32
        ))?;
        let mark = Mark {
            context: self.context.clone(),
            raw,
        };
        // An event and a stream of ours.
        cuda!(cuEventRecord(raw, self.context.stream))?;
        Ok(Event { handle: Arc::new(mark) })
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<Duration, DeviceError> {
        let own = |event: &Event| -> Result<sys::CUevent, DeviceError> {
            let mark = event.handle.downcast_ref::<Mark>();
            let mark = mark.filter(|mark| Arc::ptr_eq(&mark.context, &self.context));
            mark.map(|mark| mark.raw).ok_or_else(|| DeviceError::Driver {
                call: "elapsed",
                reason: "a mark belongs to another device".to_string(),
            })
        };
        let (start, end) = (own(start)?, own(end)?);
        self.context.enter()?;
        // Recorded events of ours, alive as long as the marks.
        cuda!(cuEventSynchronize(start))?;
        cuda!(cuEventSynchronize(end))?;
        let mut time = 0f32;
        // A place for the number.
        cuda!(cuEventElapsedTime_v2(&mut time, start, end))?;
        milliseconds("elapsed", time)
    }
}

#[cfg(test)]
mod tests;
