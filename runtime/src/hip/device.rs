//! One AMD GPU.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tilekiln_dsl::ir::Kernel;

use super::api::{self, Api, Attribute, hip};
use super::context::{Context, Launched, Mark, Memory, Module, Recorded};
use super::target;
use crate::compiler::cache::Cache;
use crate::compiler::hiprtc::Hiprtc;
use crate::compiler::{Prepared, prepare};
use crate::device::{Argument, Buffer, Device, Event, Graph, Launch, Loaded, Properties};
use crate::error::DeviceError;
use crate::launch::{check as check_launch, check_range, foreign, milliseconds, pack, while_recording};

/// An AMD GPU with hipRTC as its compiler.
///
/// Enqueued work runs on one stream. A buffer that is dropped waits for the work in front of it; a graph keeps
/// what it launches alive.
pub struct HipDevice {
    context: Arc<Context>,
    properties: Properties,
    compiler: Hiprtc,
    cache: Option<Cache>,
    architecture: String,
    note: Option<String>,
    grid_limits: [u32; 3],
    shared_limit: usize,
    /// Held by every call that enqueues, so that a recording holds exactly the launches between its ends.
    recording: Mutex<Option<Vec<Launched>>>,
}

impl HipDevice {
    /// Opens a GPU by its number, from 0.
    ///
    /// Fails with [`DeviceError::MissingLibrary`] without the HIP runtime or hipRTC, and with
    /// [`DeviceError::NoDevice`] when there is no such GPU or no kernels exist for its generation.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let api = Api::open()?;
        let count = api.devices()?;
        let device = c_int::try_from(ordinal)
            .ok()
            .filter(|device| *device < count)
            .ok_or_else(|| DeviceError::NoDevice {
                vendor: "AMD",
                reason: format!("number {ordinal} was asked for, there are numbers 0 to {}", count - 1),
            })?;
        let architecture = api.architecture(device)?;
        let (target, note) = target::for_architecture(&architecture)?;
        let compiler = Hiprtc::open()?;
        let limit = |attribute| Ok::<u32, DeviceError>(u32::try_from(api.attribute(attribute, device)?).unwrap_or(0));
        let shared = limit(Attribute::SharedPerBlock)? as usize;
        let mut target = target.clone();
        target.shared_limit = target.shared_limit.min(shared);
        Ok(Self {
            grid_limits: [
                limit(Attribute::MaxGridX)?,
                limit(Attribute::MaxGridY)?,
                limit(Attribute::MaxGridZ)?,
            ],
            shared_limit: target.shared_limit,
            properties: Properties {
                name: api.device_name(device)?,
                target,
                units: limit(Attribute::Multiprocessors)? as usize,
                memory_bytes: api.memory_bytes(device)?,
                unified_memory: limit(Attribute::Integrated)? != 0,
            },
            context: Arc::new(Context::open(api, device)?),
            compiler,
            cache: Cache::open(),
            architecture,
            note,
            recording: Mutex::new(None),
        })
    }

    /// The same device with its compiled kernels kept elsewhere, or nowhere. Kernels that are loaded stay loaded.
    pub fn with_cache(mut self, cache: Option<Cache>) -> Self {
        self.cache = cache;
        self
    }

    /// The compiler, for its name and version.
    pub fn compiler(&self) -> &Hiprtc {
        &self.compiler
    }

    /// What to tell people when the GPU has no target of its own.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Free and total bytes of memory, as the runtime counts.
    pub fn memory(&self) -> Result<(u64, u64), DeviceError> {
        self.context.enter()?;
        let (mut free, mut total) = (0usize, 0usize);
        // Two places for numbers.
        hip!(self.context.api, hipMemGetInfo(&mut free, &mut total))?;
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

    /// The address of a byte of a buffer; the offset has been checked.
    fn address(&self, call: &'static str, buffer: &Buffer, offset: usize) -> Result<api::Pointer, DeviceError> {
        let memory = self.memory_of(buffer).ok_or_else(|| DeviceError::Driver {
            call,
            reason: "the buffer belongs to another device".to_string(),
        })?;
        Ok(memory.address.wrapping_byte_add(offset))
    }

    /// Loads a compiled kernel.
    fn install(&self, prepared: Prepared) -> Result<Loaded, DeviceError> {
        let Prepared {
            kernel,
            generated,
            compiled,
        } = prepared;
        if compiled.resources.shared_bytes as usize > self.shared_limit {
            return Err(DeviceError::BadLaunch {
                kernel: generated.symbol,
                reason: format!(
                    "it needs {} bytes of shared memory per block, {} has {}",
                    compiled.resources.shared_bytes, self.properties.name, self.shared_limit
                ),
            });
        }
        self.context.enter()?;
        let api = &self.context.api;
        let mut raw = null_mut();
        // A place for the module; the image is a whole code object, whose length is in its header.
        hip!(api, hipModuleLoadData(&mut raw, compiled.binary.as_ptr().cast()))?;
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
        hip!(api, hipModuleGetFunction(&mut module.function, raw, symbol.as_ptr()))?;
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

impl Device for HipDevice {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        self.context.enter()?;
        let api = &self.context.api;
        let mut address = null_mut();
        // SAFETY: a place for the address. Nothing would give a null address; a kernel may be given an empty buffer.
        let code = unsafe { (api.table.hipMalloc)(&mut address, bytes.max(1)) };
        if code == api::OUT_OF_MEMORY {
            return Err(DeviceError::OutOfMemory {
                bytes,
                free: self.memory().map_or(0, |(free, _)| free),
            });
        }
        api.check("hipMalloc", code)?;
        Ok(Buffer {
            bytes,
            handle: Arc::new(Memory {
                context: self.context.clone(),
                address,
            }),
        })
    }

    fn upload(&self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<(), DeviceError> {
        check_range(buffer, offset, data.len())?;
        let to = self.address("upload", buffer, offset)?;
        let _stream = self.idle_stream("upload")?;
        if data.is_empty() {
            return Ok(());
        }
        // The range is inside the buffer. HIP does not promise that pageable memory has been read when the call
        // returns, as CUDA does, so the slice is borrowed until the wait below, also when the call fails.
        let started = hip!(
            self.context.api,
            hipMemcpyHtoDAsync(to, data.as_ptr().cast(), data.len(), self.context.stream)
        );
        let ended = self.context.synchronize();
        started.and(ended)
    }

    fn download(&self, buffer: &Buffer, offset: usize, data: &mut [u8]) -> Result<(), DeviceError> {
        check_range(buffer, offset, data.len())?;
        let from = self.address("download", buffer, offset)?;
        let _stream = self.idle_stream("download")?;
        let mut started = Ok(());
        if !data.is_empty() {
            // The range is inside the buffer; the destination is borrowed until after the wait below.
            started = hip!(
                self.context.api,
                hipMemcpyDtoHAsync(data.as_mut_ptr().cast(), from, data.len(), self.context.stream)
            );
        }
        let ended = self.context.synchronize();
        started.and(ended)
    }

    fn fill(&self, buffer: &Buffer, byte: u8) -> Result<(), DeviceError> {
        let to = self.address("fill", buffer, 0)?;
        let _stream = self.idle_stream("fill")?;
        if buffer.bytes == 0 {
            return Ok(());
        }
        // The whole buffer.
        hip!(
            self.context.api,
            hipMemsetD8Async(to, byte, buffer.bytes, self.context.stream)
        )
    }

    fn load(&self, kernels: Vec<Arc<Kernel>>) -> Result<Vec<Loaded>, DeviceError> {
        let target = self.properties.target.name;
        let prepared = prepare(&self.compiler, self.cache.as_ref(), kernels, target, &self.architecture)?;
        prepared.into_iter().map(|prepared| self.install(prepared)).collect()
    }

    /// `launch.dependent` has no counterpart in HIP and is ignored.
    fn launch(&self, kernel: &Loaded, launch: &Launch) -> Result<(), DeviceError> {
        check_launch(&kernel.kernel, launch, self.grid_limits)?;
        let module = kernel
            .handle
            .downcast_ref::<Arc<Module>>()
            .filter(|module| Arc::ptr_eq(&module.context, &self.context))
            .ok_or_else(|| foreign(&kernel.symbol, "the kernel"))?;
        let threads: c_uint = module.threads;
        // HIP counts work items along x in 32 bits.
        if u64::from(launch.grid[0]) * u64::from(threads) > u64::from(u32::MAX) {
            return Err(DeviceError::BadLaunch {
                kernel: kernel.symbol.clone(),
                reason: format!(
                    "{} blocks of {threads} threads along x are more than 2^32 threads",
                    launch.grid[0]
                ),
            });
        }
        let slots = pack(&launch.arguments, |at, buffer| {
            let memory = self.memory_of(buffer);
            memory
                .map(|memory| memory.address as u64)
                .ok_or_else(|| foreign(&kernel.symbol, &format!("argument {at}")))
        })?;
        let mut pointers: Vec<*mut c_void> = slots
            .iter()
            .map(|slot| std::ptr::from_ref(slot).cast_mut().cast())
            .collect();
        let [x, y, z] = launch.grid;
        let mut stream = self.stream();
        self.context.enter()?;
        // One pointer per parameter, each to eight bytes that outlive the call, which copies them; count and
        // types have been checked against the kernel the module was compiled from.
        hip!(
            self.context.api,
            hipModuleLaunchKernel(
                module.function,
                x,
                y,
                z,
                threads,
                1,
                1,
                module.dynamic_shared_bytes,
                self.context.stream,
                pointers.as_mut_ptr(),
                null_mut(),
            )
        )?;
        if let Some(launched) = stream.as_mut() {
            let buffers = launch.arguments.iter().filter_map(|argument| match argument {
                Argument::Buffer(buffer, _) => Some(buffer.clone()),
                _ => None,
            });
            launched.push((module.clone(), buffers.collect()));
        }
        Ok(())
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        let mut stream = self.idle_stream("begin_graph")?;
        self.context.retired.begin();
        // Our own stream, not capturing. Relaxed: allocating and freeing stay allowed meanwhile.
        let begun = hip!(
            self.context.api,
            hipStreamBeginCapture(self.context.stream, api::CAPTURE_RELAXED)
        );
        if let Err(error) = begun {
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
        let api = &self.context.api;
        let mut graph = null_mut();
        // Our own stream, capturing since `begin_graph`; a place for the graph.
        let ended = hip!(api, hipStreamEndCapture(self.context.stream, &mut graph));
        let retired = self.context.retired.end();
        if !retired.is_empty() {
            self.context.release(retired);
        }
        ended?;
        let mut raw = null_mut();
        // A place for the instance of a captured graph; no room for a log, no interest in the node.
        let instantiated = hip!(api, hipGraphInstantiate(&mut raw, graph, null_mut(), null_mut(), 0));
        // The instance is independent of the graph it was made from.
        let _ = hip!(api, hipGraphDestroy(graph));
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
        hip!(self.context.api, hipGraphLaunch(recorded.raw, self.context.stream))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        drop(self.idle_stream("synchronize")?);
        self.context.synchronize()
    }

    fn mark(&self) -> Result<Event, DeviceError> {
        let _stream = self.idle_stream("mark")?;
        let api = &self.context.api;
        let mut raw = null_mut();
        // A place for the event.
        hip!(api, hipEventCreate(&mut raw))?;
        let mark = Mark {
            context: self.context.clone(),
            raw,
        };
        // An event and a stream of ours.
        hip!(api, hipEventRecord(raw, self.context.stream))?;
        Ok(Event { handle: Arc::new(mark) })
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<Duration, DeviceError> {
        let own = |event: &Event| -> Result<api::Event, DeviceError> {
            let mark = event.handle.downcast_ref::<Mark>();
            let mark = mark.filter(|mark| Arc::ptr_eq(&mark.context, &self.context));
            mark.map(|mark| mark.raw).ok_or_else(|| DeviceError::Driver {
                call: "elapsed",
                reason: "a mark belongs to another device".to_string(),
            })
        };
        let (start, end) = (own(start)?, own(end)?);
        self.context.enter()?;
        let api = &self.context.api;
        // Recorded events of ours, alive as long as the marks.
        hip!(api, hipEventSynchronize(start))?;
        hip!(api, hipEventSynchronize(end))?;
        let mut time = 0f32;
        // A place for the number.
        hip!(api, hipEventElapsedTime(&mut time, start, end))?;
        milliseconds("elapsed", time)
    }
}

#[cfg(test)]
mod tests;
