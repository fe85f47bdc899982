//! What the runtime has given us, handed back when it is dropped.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Arc;

use super::api::{self, Api, hip};
use crate::device::Buffer;
use crate::error::DeviceError;
use crate::retire::Retired;

/// A device number and the stream work goes to.
pub(super) struct Context {
    pub(super) api: Api,
    pub(super) device: c_int,
    pub(super) stream: api::Stream,
    pub(super) retired: Retired<Leftover>,
}

/// What is handed back to the runtime once no work uses it.
pub(super) enum Leftover {
    Module(api::Module),
    Graph(api::GraphExec),
}

// SAFETY: HIP's handles may be used from any thread; each call makes the device current first.
unsafe impl Send for Context {}
// SAFETY: as above; the runtime serialises what it must.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn open(api: Api, device: c_int) -> Result<Self, DeviceError> {
        let mut context = Self {
            api,
            device,
            stream: null_mut(),
            retired: Retired::new(),
        };
        context.enter()?;
        let mut stream = null_mut();
        // A place for the stream; the device is current.
        hip!(
            context.api,
            hipStreamCreateWithFlags(&mut stream, api::STREAM_NON_BLOCKING)
        )?;
        context.stream = stream;
        Ok(context)
    }

    /// Makes the device the current one of this thread.
    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        // A number below the device count.
        hip!(self.api, hipSetDevice(self.device))
    }

    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        self.enter()?;
        // Our own stream.
        hip!(self.api, hipStreamSynchronize(self.stream))
    }

    /// Hands objects back after the work that may use them. There is nobody to report a failure to.
    pub(super) fn release(&self, objects: impl IntoIterator<Item = Leftover>) {
        let _ = self.synchronize();
        for object in objects {
            // Made by us, and dropped by the last who could have used it.
            let _ = match object {
                Leftover::Module(raw) => hip!(self.api, hipModuleUnload(raw)),
                Leftover::Graph(raw) => hip!(self.api, hipGraphExecDestroy(raw)),
            };
        }
    }

    pub(super) fn retire(&self, object: Leftover) {
        self.retired.retire(object, |object| self.release([object]));
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Everything that used the stream is gone already, since it held a reference.
        if !self.stream.is_null() {
            self.release(self.retired.end());
            // Created by us, used by nobody any more.
            let _ = hip!(self.api, hipStreamDestroy(self.stream));
        }
    }
}

pub(super) struct Memory {
    pub(super) context: Arc<Context>,
    pub(super) address: api::Pointer,
}

// SAFETY: an address of the device, never followed here.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // Allocated by us; freeing waits for work that was enqueued before.
        let _ = hip!(self.context.api, hipFree(self.address));
    }
}

pub(super) struct Module {
    pub(super) context: Arc<Context>,
    pub(super) raw: api::Module,
    pub(super) function: api::Function,
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
    pub(super) raw: api::GraphExec,
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
    pub(super) raw: api::Event,
}

// SAFETY: as for `Context`.
unsafe impl Send for Mark {}
// SAFETY: as for `Context`.
unsafe impl Sync for Mark {}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // Created by us; the runtime keeps it until the work in front of it is done.
        let _ = hip!(self.context.api, hipEventDestroy(self.raw));
    }
}

/// What a recorded launch needs to stay alive.
pub(super) type Launched = (Arc<Module>, Vec<Buffer>);
