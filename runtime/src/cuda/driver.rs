//! The CUDA driver library, made safe to ask for.
//!
//! `cudarc` looks each function up at its first use and panics when the library or the function is not there.
//! [`open`] therefore asks for the library and for every function this crate calls before any is called.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUresult};

use crate::error::DeviceError;

/// Every driver function the runtime calls.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
];

/// The library's usual names, for messages.
pub(crate) const NAMES: &str = "libcuda.so.1, libcuda.so";
const REMEDY: &str = "install the NVIDIA driver (release 570 or later)";

/// Opens the driver library. Fails with [`DeviceError::MissingLibrary`].
pub(crate) fn open() -> Result<(), DeviceError> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    OPENED
        .get_or_init(look)
        .clone()
        .map_err(|reason| DeviceError::MissingLibrary {
            library: NAMES.to_string(),
            reason,
            remedy: REMEDY.to_string(),
        })
}

fn look() -> Result<(), String> {
    // SAFETY: runs the initialisers of the user's driver library.
    if !unsafe { sys::is_culib_present() } {
        return Err("the loader finds no CUDA driver library".to_string());
    }
    // SAFETY: it is present, so this does not panic.
    let library = unsafe { sys::culib() };
    for name in FUNCTIONS {
        // SAFETY: only the presence is looked at.
        if unsafe { library.get::<*const u8>(*name) }.is_err() {
            return Err(format!("the installed driver is too old: it has no {name}"));
        }
    }
    Ok(())
}

/// A result code as an error, with the driver's own words.
pub(crate) fn check(call: &'static str, code: CUresult) -> Result<(), DeviceError> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(DeviceError::Driver {
            call,
            reason: words(code),
        }),
    }
}

/// The driver's words for a code.
pub(crate) fn words(code: CUresult) -> String {
    let mut words = std::ptr::null();
    // SAFETY: a place for a pointer to a static string; `open` has found the function, or no code could exist.
    let found = unsafe { sys::cuGetErrorString(code, &mut words) };
    if found != CUresult::CUDA_SUCCESS || words.is_null() {
        return format!("{code:?}");
    }
    // SAFETY: a static string that ends in zero.
    unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
}

/// Calls a driver function; its name goes into the error.
macro_rules! cuda {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: see the comment at the call for what makes the arguments valid. The driver has been opened.
        let code = unsafe { cudarc::driver::sys::$name($($argument),*) };
        $crate::cuda::driver::check(stringify!($name), code)
    }};
}
pub(crate) use cuda;

/// How many devices there are; the driver's reason when it says there are none.
pub(crate) fn devices() -> Result<c_int, DeviceError> {
    open()?;
    let none = |reason: String| DeviceError::NoDevice {
        vendor: "NVIDIA",
        reason,
    };
    // SAFETY: takes no pointers; `open` has found it.
    let code = unsafe { sys::cuInit(0) };
    if code != CUresult::CUDA_SUCCESS {
        return Err(none(words(code)));
    }
    let mut count = 0;
    // A place for the number.
    cuda!(cuDeviceGetCount(&mut count))?;
    if count == 0 {
        return Err(none("the driver counts 0 devices".to_string()));
    }
    Ok(count)
}

/// Newest CUDA version the driver supports: 13000 is 13.0.
pub(crate) fn version() -> Result<c_int, DeviceError> {
    open()?;
    let mut version = 0;
    // A place for the number; needs no initialisation.
    cuda!(cuDriverGetVersion(&mut version))?;
    Ok(version)
}

/// One device: its handle and what it is called.
pub(crate) struct Described {
    pub device: sys::CUdevice,
    pub name: String,
    pub memory_bytes: u64,
    /// Major and minor.
    pub capability: (u32, u32),
}

/// Looks at a device without using it.
pub(crate) fn describe(ordinal: c_int) -> Result<Described, DeviceError> {
    let mut device = 0;
    // A place for the handle; any number may be asked for.
    cuda!(cuDeviceGet(&mut device, ordinal))?;
    let mut name = [0u8; 256];
    // A buffer of the length said, less the zero that is kept at its end.
    cuda!(cuDeviceGetName(
        name.as_mut_ptr().cast(),
        name.len() as c_int - 1,
        device
    ))?;
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let mut bytes = 0usize;
    // A place for the number.
    cuda!(cuDeviceTotalMem_v2(&mut bytes, device))?;
    use sys::CUdevice_attribute_enum as Attribute;
    Ok(Described {
        device,
        name: String::from_utf8_lossy(&name[..end]).into_owned(),
        memory_bytes: bytes as u64,
        capability: (
            attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
    })
}

/// One attribute of a device; none of ours is negative.
pub(crate) fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<u32, DeviceError> {
    let mut value = 0;
    // A place for the number.
    cuda!(cuDeviceGetAttribute(&mut value, attribute, device))?;
    Ok(u32::try_from(value).unwrap_or(0))
}

/// The file the driver library was loaded from (Linux only), else its usual names.
pub(crate) fn file() -> Option<String> {
    open().ok()?;
    // SAFETY: `open` has found the library.
    let library = unsafe { sys::culib() };
    Some(
        crate::library::file_of(library, "cuInit").map_or_else(|| NAMES.to_string(), |path| path.display().to_string()),
    )
}
