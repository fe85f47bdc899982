//! AMD GPUs: HIP and hipRTC through our own table of functions, opened at run time.
//!
//! `api` is the only place that knows HIP's C interface; [`HipDevice`] is a [`crate::device::Device`] on top.

pub(crate) mod api;
mod context;
mod device;
#[cfg(feature = "hip-sys")]
mod hip_sys_check;
pub(crate) mod target;

pub use device::HipDevice;
