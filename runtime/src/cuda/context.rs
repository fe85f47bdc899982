//! What the driver has given us, handed back when it is dropped.
#![allow(unsafe_code)]

use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys;

use super::driver::{self, cuda};
use crate::device::Buffer;
use crate::error::DeviceError;
use crate::retire::Retired;

/// The primary context of a device and the stream work goes to.
pub(super) struct Context {
    pub(super) device: sys::CUdevice,
    pub(super) raw: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    pub(super) retired: Retired<Leftover>,
    /// Launches may say how a multiprocessor's memory is to be divided.
    pub(super) carves_launches: bool,
}

/// The first driver that is known to take [`Context::carves_launches`].
const CARVES_LAUNCHES: i32 = 13_000;

/// What is handed back to the driver once no work uses it.
pub(super) enum Leftover {
    Module(sys::CUmodule),
    Graph(sys::CUgraphExec),
}

// SAFETY: the driver's handles may be used from any thread; each call makes the context current first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver serialises what it must.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn open(device: sys::CUdevice) -> Result<Self, DeviceError> {
        let mut raw = null_mut();
        // A place for the context of a device that `describe` has found.
        cuda!(cuDevicePrimaryCtxRetain(&mut raw, device))?;
        let mut context = Self {
            device,
            raw,
            stream: null_mut(),
            retired: Retired::new(),
            carves_launches: driver::version()? >= CARVES_LAUNCHES,
        };
        context.enter()?;
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // A place for the stream; the context is current. On failure `context` is dropped with a null stream.
        cuda!(cuStreamCreate(&mut context.stream, flags))?;
        Ok(context)
    }

    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        // A retained context.
        cuda!(cuCtxSetCurrent(self.raw))
    }

    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        self.enter()?;
        // Our own stream.
        cuda!(cuStreamSynchronize(self.stream))
    }

    /// Hands objects back after the work that may use them. There is nobody to report a failure to.
    pub(super) fn release(&self, objects: impl IntoIterator<Item = Leftover>) {
        let _ = self.synchronize();
        for object in objects {
            // Made by us, and dropped by the last who could have used it.
            let _ = match object {
                Leftover::Module(raw) => cuda!(cuModuleUnload(raw)),
                Leftover::Graph(raw) => cuda!(cuGraphExecDestroy(raw)),
            };
        }
    }

    pub(super) fn retire(&self, object: Leftover) {
        self.retired.retire(object, |object| self.release([object]));
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Everything that used the context is gone already, since it held a reference.
        let _ = self.enter();
        if !self.stream.is_null() {
            self.release(self.retired.end());
            // Created by us, used by nobody any more.
            let _ = cuda!(cuStreamDestroy_v2(self.stream));
        }
        // Retained once by us.
        let _ = cuda!(cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

pub(super) struct Memory {
    pub(super) context: Arc<Context>,
    pub(super) address: sys::CUdeviceptr,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // Allocated by us; freeing waits for work that was enqueued before.
        let _ = cuda!(cuMemFree_v2(self.address));
    }
}

pub(super) struct Module {
    pub(super) context: Arc<Context>,
    pub(super) raw: sys::CUmodule,
    pub(super) function: sys::CUfunction,
    pub(super) dynamic_shared_bytes: u32,
    pub(super) threads: u32,
}

// SAFETY: as for `Context`.
unsafe impl Send for Module {}
// SAFETY: as for `Context`.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        self.context.retire(Leftover::Module(self.raw));
    }
}

pub(super) struct Recorded {
    pub(super) context: Arc<Context>,
    pub(super) raw: sys::CUgraphExec,
    pub(super) _launched: Vec<Launched>,
}

// SAFETY: as for `Context`; launches of a graph go through one lock.
unsafe impl Send for Recorded {}
// SAFETY: as above.
unsafe impl Sync for Recorded {}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.context.retire(Leftover::Graph(self.raw));
    }
}

pub(super) struct Mark {
    pub(super) context: Arc<Context>,
    pub(super) raw: sys::CUevent,
}

// SAFETY: as for `Context`.
unsafe impl Send for Mark {}
// SAFETY: as for `Context`.
unsafe impl Sync for Mark {}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // Created by us; the driver keeps it until the work in front of it is done.
        let _ = cuda!(cuEventDestroy_v2(self.raw));
    }
}

/// What a recorded launch needs to stay alive.
pub(super) type Launched = (Arc<Module>, Vec<Buffer>);
