//! Our table's signatures against the crate `hip-sys`, at compile time.
//!
//! That crate names C's enums and handles with types of its own, so parameters are compared as the calling
//! convention sees them: kind, size and position. `hipGetDevicePropertiesR0600` is not in it, its older
//! name takes the same parameters.

use std::ffi::c_void;

use hip_sys::hiprt;

use super::api::{self, types};

/// A parameter as the calling convention sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Signed(usize),
    Unsigned(usize),
    Float,
    Pointer,
}

trait Parameter {
    const CLASS: Class;
}

macro_rules! class {
    ($($class:expr => $($ty:ty),+;)*) => { $($(impl Parameter for $ty { const CLASS: Class = $class; })+)* };
}

class! {
    Class::Signed(4) => i32;
    Class::Unsigned(1) => u8;
    // C's enums without negative values are unsigned ints.
    Class::Unsigned(4) => u32, hiprt::hipError_t, hiprt::hipDeviceAttribute_t, hiprt::hipStreamCaptureMode;
    Class::Unsigned(8) => usize;
    Class::Float => f32;
}

impl<T> Parameter for *mut T {
    const CLASS: Class = Class::Pointer;
}

impl<T> Parameter for *const T {
    const CLASS: Class = Class::Pointer;
}

trait Signature {
    /// Parameters, then the result.
    const CLASSES: &'static [Class];
}

macro_rules! signature {
    ($($parameter:ident)*) => {
        impl<$($parameter: Parameter,)* R: Parameter> Signature for unsafe extern "C" fn($($parameter),*) -> R {
            const CLASSES: &'static [Class] = &[$($parameter::CLASS,)* R::CLASS];
        }
    };
}
signature!(A);
signature!(A B);
signature!(A B C);
signature!(A B C D);
signature!(A B C D E);
signature!(A B C D E F G H I J K);

const fn same(ours: &[Class], theirs: &[Class]) -> bool {
    if ours.len() != theirs.len() {
        return false;
    }
    let mut at = 0;
    while at < ours.len() {
        let equal = match (ours[at], theirs[at]) {
            (Class::Signed(a), Class::Signed(b)) | (Class::Unsigned(a), Class::Unsigned(b)) => a == b,
            (Class::Float, Class::Float) | (Class::Pointer, Class::Pointer) => true,
            _ => false,
        };
        if !equal {
            return false;
        }
        at += 1;
    }
    true
}

/// The second argument only says which type is meant.
const fn equal<Ours: Signature, Theirs: Signature + Copy>(_: Theirs) -> bool {
    same(Ours::CLASSES, Theirs::CLASSES)
}

macro_rules! hold {
    ($($name:ident ($($any:tt)*);)*) => {
        $(const _: () = assert!(
            equal::<types::$name, _>(hiprt::$name as unsafe extern "C" fn($($any),*) -> _),
            concat!(stringify!($name), " is declared otherwise in hip-sys")
        );)*
    };
}

hold! {
    hipInit(_);
    hipRuntimeGetVersion(_);
    hipGetErrorString(_);
    hipGetDeviceCount(_);
    hipSetDevice(_);
    hipDeviceGetName(_ _ _);
    hipDeviceTotalMem(_ _);
    hipDeviceGetAttribute(_ _ _);
    hipMemGetInfo(_ _);
    hipMalloc(_ _);
    hipFree(_);
    hipMemcpyHtoDAsync(_ _ _ _);
    hipMemcpyDtoHAsync(_ _ _ _);
    hipMemsetD8Async(_ _ _ _);
    hipStreamCreateWithFlags(_ _);
    hipStreamDestroy(_);
    hipStreamSynchronize(_);
    hipStreamBeginCapture(_ _);
    hipStreamEndCapture(_ _);
    hipGraphInstantiate(_ _ _ _ _);
    hipGraphLaunch(_ _);
    hipGraphDestroy(_);
    hipGraphExecDestroy(_);
    hipEventCreate(_);
    hipEventDestroy(_);
    hipEventRecord(_ _);
    hipEventSynchronize(_);
    hipEventElapsedTime(_ _ _);
    hipModuleLoadData(_ _);
    hipModuleUnload(_);
    hipModuleGetFunction(_ _ _);
    hipModuleLaunchKernel(_ _ _ _ _ _ _ _ _ _ _);
}

const _: () = assert!(same(
    <api::Properties as Signature>::CLASSES,
    <unsafe extern "C" fn(*mut c_void, i32) -> u32 as Signature>::CLASSES
));
const _: () = assert!(equal::<api::Properties, _>(
    hiprt::hipGetDeviceProperties as unsafe extern "C" fn(_, _) -> _
));

/// The constants we pass by number.
const _: () = assert!(
    hiprt::hipError_t::hipErrorOutOfMemory as u32 == api::OUT_OF_MEMORY
        && hiprt::hipStreamCaptureMode::hipStreamCaptureModeRelaxed as u32 == api::CAPTURE_RELAXED
        && hiprt::hipStreamNonBlocking == api::STREAM_NON_BLOCKING
        && hiprt::hipDeviceAttribute_t::hipDeviceAttributeIntegrated as u32 == api::Attribute::Integrated as u32
        && hiprt::hipDeviceAttribute_t::hipDeviceAttributeMaxGridDimX as u32 == api::Attribute::MaxGridX as u32
        && hiprt::hipDeviceAttribute_t::hipDeviceAttributeMaxGridDimY as u32 == api::Attribute::MaxGridY as u32
        && hiprt::hipDeviceAttribute_t::hipDeviceAttributeMaxGridDimZ as u32 == api::Attribute::MaxGridZ as u32
        && hiprt::hipDeviceAttribute_t::hipDeviceAttributeMultiprocessorCount as u32
            == api::Attribute::Multiprocessors as u32
        && hiprt::hipDeviceAttribute_t::hipDeviceAttributeMaxSharedMemoryPerBlock as u32
            == api::Attribute::SharedPerBlock as u32
);
