//! The HIP functions we use, as a table.
//!
//! Own bindings, because the published ones either link at build time or abort when the library is missing,
//! and none of them opens `libamdhip64.so.5` … `.7` by name. Enums are passed as C passes them (`unsigned int`),
//! so an error code of a newer ROCm is no undefined behaviour. Signatures are those of
//! `hip/hip_runtime_api.h` from ROCm 5.2 to 7.14, which agree on everything used here except the properties
//! structure (see [`Api::architecture`]); with the feature `hip-sys` they are compared to that crate's at
//! compile time.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_void};
use std::path::PathBuf;

use crate::error::DeviceError;
use crate::library::{self, Opened};

/// Names of the runtime library, the newest first.
pub(crate) const NAMES: &[&str] = if cfg!(windows) {
    &["amdhip64_7.dll", "amdhip64_6.dll"]
} else {
    &[
        "libamdhip64.so.7",
        "libamdhip64.so.6",
        "libamdhip64.so.5",
        "libamdhip64.so",
    ]
};
/// The folder that holds ROCm's libraries.
pub(crate) const DIR_VARIABLE: &str = "TILEKILN_ROCM_DIR";
/// What to do about a missing library.
pub(crate) const REMEDY: &str =
    "install ROCm's HIP runtime, or set TILEKILN_ROCM_DIR to the folder that holds libamdhip64 and libhiprtc";

/// `hipError_t`.
pub(crate) type Code = c_uint;
/// `hipSuccess`.
pub(crate) const SUCCESS: Code = 0;
/// `hipErrorOutOfMemory`.
pub(crate) const OUT_OF_MEMORY: Code = 2;
/// `hipStreamNonBlocking`: no implicit order with the null stream.
pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;
/// `hipStreamCaptureModeRelaxed`: other calls of this thread and others stay allowed.
pub(crate) const CAPTURE_RELAXED: c_uint = 2;

/// `hipDeviceAttribute_t`; these values are the same from ROCm 5 to 7.
#[derive(Clone, Copy)]
pub(crate) enum Attribute {
    Integrated = 16,
    MaxGridX = 29,
    MaxGridY = 30,
    MaxGridZ = 31,
    Multiprocessors = 63,
    SharedPerBlock = 74,
}

pub(crate) type Stream = *mut c_void;
pub(crate) type Event = *mut c_void;
pub(crate) type Module = *mut c_void;
pub(crate) type Function = *mut c_void;
pub(crate) type GraphRaw = *mut c_void;
pub(crate) type GraphExec = *mut c_void;
pub(crate) type Pointer = *mut c_void;

macro_rules! table {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Types of the functions, by their C names.
        #[allow(non_camel_case_types)]
        pub(crate) mod types {
            use super::*;
            $(pub(crate) type $name = unsafe extern "C" fn($($argument),*) $(-> $result)?;)*
        }

        /// HIP's functions.
        #[allow(non_snake_case)]
        pub(crate) struct Table {
            $(pub(crate) $name: types::$name,)*
        }

        impl Table {
            fn load(opened: &Opened) -> Result<Self, String> {
                // SAFETY: each type is the declaration in hip_runtime_api.h.
                unsafe { Ok(Self { $($name: opened.function(stringify!($name))?,)* }) }
            }
        }
    };
}

table! {
    hipInit(c_uint) -> Code;
    hipRuntimeGetVersion(*mut c_int) -> Code;
    hipGetErrorString(Code) -> *const c_char;
    hipGetDeviceCount(*mut c_int) -> Code;
    hipSetDevice(c_int) -> Code;
    hipDeviceGetName(*mut c_char, c_int, c_int) -> Code;
    hipDeviceTotalMem(*mut usize, c_int) -> Code;
    hipDeviceGetAttribute(*mut c_int, c_uint, c_int) -> Code;
    hipMemGetInfo(*mut usize, *mut usize) -> Code;
    hipMalloc(*mut Pointer, usize) -> Code;
    hipFree(Pointer) -> Code;
    hipMemcpyHtoDAsync(Pointer, *const c_void, usize, Stream) -> Code;
    hipMemcpyDtoHAsync(*mut c_void, Pointer, usize, Stream) -> Code;
    hipMemsetD8Async(Pointer, c_uchar, usize, Stream) -> Code;
    hipStreamCreateWithFlags(*mut Stream, c_uint) -> Code;
    hipStreamDestroy(Stream) -> Code;
    hipStreamSynchronize(Stream) -> Code;
    hipStreamBeginCapture(Stream, c_uint) -> Code;
    hipStreamEndCapture(Stream, *mut GraphRaw) -> Code;
    hipGraphInstantiate(*mut GraphExec, GraphRaw, *mut *mut c_void, *mut c_char, usize) -> Code;
    hipGraphLaunch(GraphExec, Stream) -> Code;
    hipGraphDestroy(GraphRaw) -> Code;
    hipGraphExecDestroy(GraphExec) -> Code;
    hipEventCreate(*mut Event) -> Code;
    hipEventDestroy(Event) -> Code;
    hipEventRecord(Event, Stream) -> Code;
    hipEventSynchronize(Event) -> Code;
    hipEventElapsedTime(*mut f32, Event, Event) -> Code;
    hipModuleLoadData(*mut Module, *const c_void) -> Code;
    hipModuleUnload(Module) -> Code;
    hipModuleGetFunction(*mut Function, Module, *const c_char) -> Code;
    hipModuleLaunchKernel(
        Function, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Stream, *mut *mut c_void, *mut *mut c_void
    ) -> Code;
}

/// `hipGetDeviceProperties` under either of its names.
pub(crate) type Properties = unsafe extern "C" fn(*mut c_void, c_int) -> Code;

/// The opened runtime.
pub(crate) struct Api {
    /// The functions.
    pub table: Table,
    /// The name that worked.
    pub file: String,
    properties: Properties,
    /// The properties function is the one with the layout of ROCm 6 and later.
    r0600: bool,
}

/// Calls a function of the table; its name goes into the error.
macro_rules! hip {
    ($api:expr, $name:ident($($argument:expr),* $(,)?)) => {{
        let api = &$api;
        // SAFETY: see the comment at the call for what makes the arguments valid.
        let code = unsafe { (api.table.$name)($($argument),*) };
        api.check(stringify!($name), code)
    }};
}
pub(crate) use hip;

impl Api {
    /// Opens the runtime. Fails with [`DeviceError::MissingLibrary`].
    pub(crate) fn open() -> Result<Self, DeviceError> {
        let missing = |tried: &[String]| library::missing(NAMES, tried, REMEDY.to_string());
        let opened = library::open_first(&candidates()).map_err(|tried| missing(&tried))?;
        let table = Table::load(&opened).map_err(|reason| missing(&[reason]))?;
        // SAFETY: both take a pointer to their structure and a device number.
        let (properties, r0600) = match unsafe { opened.function::<Properties>("hipGetDevicePropertiesR0600") } {
            Ok(properties) => (properties, true),
            Err(_) => {
                // SAFETY: as above.
                let old = unsafe { opened.function::<Properties>("hipGetDeviceProperties") };
                (old.map_err(|reason| missing(&[reason]))?, false)
            }
        };
        let file = opened
            .file_of("hipInit")
            .map_or_else(|| opened.name.clone(), |path| path.display().to_string());
        Ok(Self {
            table,
            file,
            properties,
            r0600,
        })
    }

    /// A result code as an error, with the driver's own words.
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<(), DeviceError> {
        if code == SUCCESS {
            Ok(())
        } else {
            Err(DeviceError::Driver {
                call,
                reason: self.words(code),
            })
        }
    }

    /// The driver's words for a code.
    pub(crate) fn words(&self, code: Code) -> String {
        // SAFETY: takes any code, returns a static string or null.
        let words = unsafe { (self.table.hipGetErrorString)(code) };
        if words.is_null() {
            return format!("error {code}");
        }
        // SAFETY: a static string that ends in zero.
        unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
    }

    /// How many devices there are; the driver's reason when it says there are none.
    pub(crate) fn devices(&self) -> Result<i32, DeviceError> {
        let none = |reason: String| DeviceError::NoDevice { vendor: "AMD", reason };
        // SAFETY: takes no pointers.
        let code = unsafe { (self.table.hipInit)(0) };
        if code != SUCCESS {
            return Err(none(self.words(code)));
        }
        let mut count = 0;
        // SAFETY: a place for the number.
        let code = unsafe { (self.table.hipGetDeviceCount)(&mut count) };
        match (code, count) {
            (SUCCESS, 1..) => Ok(count),
            (SUCCESS, _) => Err(none("the driver counts 0 devices".to_string())),
            (code, _) => Err(none(self.words(code))),
        }
    }

    /// `hipRuntimeGetVersion`: 71460850 is 7.14.60850.
    pub(crate) fn version(&self) -> Option<i32> {
        let mut version = 0;
        // A place for the number; needs no device.
        hip!(self, hipRuntimeGetVersion(&mut version)).ok().map(|()| version)
    }

    /// One attribute of a device.
    pub(crate) fn attribute(&self, attribute: Attribute, device: i32) -> Result<i32, DeviceError> {
        let mut value = 0;
        // A place for the number; any attribute and device number may be asked.
        hip!(self, hipDeviceGetAttribute(&mut value, attribute as c_uint, device))?;
        Ok(value)
    }

    /// The marketing name of a device.
    pub(crate) fn device_name(&self, device: i32) -> Result<String, DeviceError> {
        let mut name = [0u8; 256];
        // A buffer of the length said, less the zero that is kept at its end.
        hip!(
            self,
            hipDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int - 1, device)
        )?;
        Ok(text(&name))
    }

    /// Bytes of memory of a device.
    pub(crate) fn memory_bytes(&self, device: i32) -> Result<u64, DeviceError> {
        let mut bytes = 0usize;
        // A place for the number.
        hip!(self, hipDeviceTotalMem(&mut bytes, device))?;
        Ok(bytes as u64)
    }

    /// `gfx1150`, without the feature suffix (`:sramecc+:xnack-`).
    ///
    /// Only the properties structure has it. Its layout changed between ROCm 5 and 6 (1472 bytes since, the
    /// name at 1160), so the structure is taken as bytes, in a buffer far larger than any version of it, and
    /// a name that is not at the known place is searched for.
    pub(crate) fn architecture(&self, device: i32) -> Result<String, DeviceError> {
        const PLACE: usize = 1160;
        const NAME_BYTES: usize = 256;
        let mut words = vec![0u64; 2048];
        // SAFETY: 16 KiB, zeroed and aligned, for a structure of less than 2 KiB without pointers.
        let code = unsafe { (self.properties)(words.as_mut_ptr().cast(), device) };
        self.check("hipGetDeviceProperties", code)?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let known = self.r0600.then(|| gfx_name(&bytes[PLACE..])).flatten();
        // The first field is the marketing name, which may contain anything.
        let found = known.or_else(|| (NAME_BYTES..bytes.len()).find_map(|at| gfx_name(&bytes[at..])));
        found.ok_or_else(|| DeviceError::Driver {
            call: "hipGetDeviceProperties",
            reason: format!("no architecture name (gfx…) in the properties of device {device}"),
        })
    }
}

/// A name `gfx` and hexadecimal digits at the start of the bytes.
fn gfx_name(bytes: &[u8]) -> Option<String> {
    let digits = bytes.strip_prefix(b"gfx")?;
    let count = digits.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Something else than a digit must end it: a zero or the suffix's colon.
    let ends = matches!(digits.get(count), Some(0 | b':' | b'-'));
    ((3..=8).contains(&count) && ends).then(|| format!("gfx{}", String::from_utf8_lossy(&digits[..count])))
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Where the runtime library is looked for.
pub(crate) fn candidates() -> Vec<PathBuf> {
    library::candidates(DIR_VARIABLE, NAMES, &rocm_folders())
}

/// Library folders of ROCm installations.
pub(crate) fn rocm_folders() -> Vec<PathBuf> {
    ["ROCM_PATH", "HIP_PATH"]
        .iter()
        .filter_map(|variable| library::env_path(variable))
        .chain([PathBuf::from("/opt/rocm")])
        .map(|home| home.join("lib"))
        .collect()
}

/// `hipRuntimeGetVersion` of the installed runtime, `None` when there is none. Needs no device.
pub(crate) fn runtime_version() -> Option<i32> {
    let opened = library::open_first(&candidates()).ok()?;
    // SAFETY: the declaration in hip_runtime_api.h.
    let version: types::hipRuntimeGetVersion = unsafe { opened.function("hipRuntimeGetVersion") }.ok()?;
    let mut number = 0;
    // SAFETY: a place for the number.
    (unsafe { version(&mut number) } == SUCCESS).then_some(number)
}

/// 71460850 is 7.14.60850.
pub(crate) fn version_words(version: i32) -> Option<String> {
    let (major, minor, patch) = (version / 10_000_000, version / 100_000 % 100, version % 100_000);
    (version > 0).then(|| {
        if patch == 0 {
            format!("{major}.{minor}")
        } else {
            format!("{major}.{minor}.{patch}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_names() {
        assert_eq!(version_words(71_460_850).as_deref(), Some("7.14.60850"));
        assert_eq!(version_words(60_100_000).as_deref(), Some("6.1"));
        assert_eq!(version_words(0), None);
        for (bytes, expected) in [
            (&b"gfx1150\0\0"[..], Some("gfx1150")),
            (b"gfx90a:sramecc+:xnack-\0", Some("gfx90a")),
            (b"gfx11-generic\0", None),
            (b"gfx\0", None),
            (b"gfx1150", None),
            (b"Radeon", None),
        ] {
            assert_eq!(gfx_name(bytes).as_deref(), expected);
        }
    }
}
