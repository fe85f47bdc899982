//! The interface that NVRTC and hipRTC share, as a table of functions.
//!
//! hipRTC copies NVRTC's interface name for name, so one table serves both.
//!
//! NVRTC does not go through `cudarc`, whose NVRTC layer opens the library itself, by name, once per
//! process, and panics when that fails: `libnvrtc.so` anywhere on the loader's path would win over the
//! folder the user asked for, and nothing says afterwards which file it was (the disk cache and the header
//! search need to know). Result codes here are plain integers, so a code of a newer library is no undefined
//! behaviour either.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use tilekiln_codegen::Generated;

use crate::library::Opened;

type Program = *mut c_void;
type Code = c_int;

/// Functions of one run-time compiler.
pub(super) struct Rtc {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Code,
    destroy: unsafe extern "C" fn(*mut Program) -> Code,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    code_size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    code: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    words: unsafe extern "C" fn(Code) -> *const c_char,
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code,
}

/// What a compile gave.
pub(super) struct Outcome {
    /// The binary, or why there is none.
    pub binary: Result<Vec<u8>, String>,
    /// Everything the compiler said.
    pub log: String,
}

impl Rtc {
    /// Looks the functions up; `prefix` is `nvrtc` or `hiprtc`, `code` the name of the binary's getter
    /// without prefix and `Size`.
    pub(super) fn load(opened: &Opened, prefix: &str, code: &str) -> Result<Self, String> {
        let name = |function: &str| format!("{prefix}{function}");
        // SAFETY: the types are those of nvrtc.h and hiprtc.h; enums are passed as `int`, programs are
        // opaque pointers in both.
        unsafe {
            Ok(Self {
                create: opened.function(&name("CreateProgram"))?,
                destroy: opened.function(&name("DestroyProgram"))?,
                compile: opened.function(&name("CompileProgram"))?,
                log_size: opened.function(&name("GetProgramLogSize"))?,
                log: opened.function(&name("GetProgramLog"))?,
                code_size: opened.function(&name(&format!("{code}Size")))?,
                code: opened.function(&name(code))?,
                words: opened.function(&name("GetErrorString"))?,
                version: opened.function(&name("Version"))?,
            })
        }
    }

    /// `(major, minor)`.
    pub(super) fn version(&self) -> Result<(i32, i32), String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two valid places for integers.
        self.check(unsafe { (self.version)(&mut major, &mut minor) })?;
        Ok((major, minor))
    }

    /// Compiles a source text.
    pub(super) fn build(&self, source: &str, file_name: &str, options: &[String]) -> Outcome {
        let mut log = String::new();
        let binary = self.try_build(source, file_name, options, &mut log);
        Outcome { binary, log }
    }

    /// Compiles a text, and where the result spills once more with `further` options: what they make is taken if it does
    /// not spill.
    pub(super) fn build_without_spills(
        &self,
        generated: &Generated,
        options: &[String],
        further: &[&str],
        spills: impl Fn(&Outcome) -> bool,
    ) -> Outcome {
        let first = self.build(&generated.text, &generated.file_name, options);
        if !spills(&first) {
            return first;
        }
        let options: Vec<String> = options
            .iter()
            .cloned()
            .chain(further.iter().map(|option| option.to_string()))
            .collect();
        let second = self.build(&generated.text, &generated.file_name, &options);
        if second.binary.is_ok() && !spills(&second) {
            second
        } else {
            first
        }
    }

    fn try_build(
        &self,
        source: &str,
        file_name: &str,
        options: &[String],
        log: &mut String,
    ) -> Result<Vec<u8>, String> {
        let source = CString::new(source).map_err(|_| "the text holds a zero byte".to_string())?;
        let file_name = CString::new(file_name).map_err(|_| "the file name holds a zero byte".to_string())?;
        let options: Vec<CString> = options
            .iter()
            .map(|option| CString::new(option.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|_| "an option holds a zero byte".to_string())?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = Handle {
            rtc: self,
            raw: null_mut(),
        };
        // SAFETY: source and name are strings that outlive `program`, declared after them; no headers are given.
        self.check(unsafe { (self.create)(&mut program.raw, source.as_ptr(), file_name.as_ptr(), 0, null(), null()) })?;
        // SAFETY: a created program and as many option strings as said.
        let compiled = unsafe { (self.compile)(program.raw, pointers.len() as c_int, pointers.as_ptr()) };

        *log = self.text(&program)?;
        self.check(compiled)?;

        let mut size = 0usize;
        // SAFETY: a compiled program and a place for its size.
        self.check(unsafe { (self.code_size)(program.raw, &mut size) })?;
        if size == 0 {
            return Err("the compiler reported success and gave no binary".to_string());
        }
        let mut binary = vec![0u8; size];
        // SAFETY: the buffer has the size the compiler asked for.
        self.check(unsafe { (self.code)(program.raw, binary.as_mut_ptr().cast()) })?;
        Ok(binary)
    }

    fn text(&self, program: &Handle<'_>) -> Result<String, String> {
        let mut size = 0usize;
        // SAFETY: a created program and a place for the size of its log.
        self.check(unsafe { (self.log_size)(program.raw, &mut size) })?;
        // One more byte than asked for, so that a log without its zero still ends.
        let mut bytes = vec![0u8; size + 1];
        if size > 0 {
            // SAFETY: the buffer is larger than the compiler asked for.
            self.check(unsafe { (self.log)(program.raw, bytes.as_mut_ptr().cast()) })?;
        }
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn check(&self, code: Code) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the function takes any code and returns a static string or null.
        let words = unsafe { (self.words)(code) };
        if words.is_null() {
            return Err(format!("error {code}"));
        }
        // SAFETY: a static string that ends in zero.
        Err(unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned())
    }
}

/// A program, destroyed when it goes out of scope.
struct Handle<'a> {
    rtc: &'a Rtc,
    raw: Program,
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: created by the same library and not destroyed before.
            unsafe { (self.rtc.destroy)(&mut self.raw) };
        }
    }
}
