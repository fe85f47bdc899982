//! NVIDIA GPUs: the CUDA driver through `cudarc`, opened at run time, and NVRTC.

mod context;
mod device;
pub(crate) mod driver;
pub(crate) mod target;

pub use device::CudaDevice;
