//! A vendor compiler that rejects generated text: what the author of the kernel gets to see.

use std::path::Path;

use tilekiln_codegen::Generated;
use tilekiln_dsl::target::Target;
use tilekiln_runtime::compiler::hiprtc::Hiprtc;
use tilekiln_runtime::compiler::nvrtc::Nvrtc;
use tilekiln_runtime::compiler::{Compiler, compile};
use tilekiln_tests::requirement::require;
use tilekiln_tests::variants::VARIANTS;

/// One vendor at a time: with both compilers at work in one process, a crash inside of a vendor library was seen once.
static ONE_VENDOR: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Planted into the text of `rms_norm`: a name that nobody has declared.
const WHOLE: &str = "sum += v * v;";
const DAMAGED: &str = "sum += v * vv;";
/// The statement of the DSL that the line comes from.
const IN_THE_DSL: &str = "sum += v * v;";

/// The text of `rms_norm` with one damaged line, and the number of that line.
fn damaged(target: &str) -> (Generated, usize) {
    let target = Target::named(target).expect("a target of the table");
    let variant = VARIANTS
        .iter()
        .find(|variant| variant.settings == "element=f16")
        .expect("rms_norm");
    let mut generated = variant.generate(target);
    // A file of its own: the kept text of another test's failure is not touched.
    generated.file_name = format!("vendor_failure_{}", generated.file_name);
    let line = generated.text.lines().position(|line| line.trim() == WHOLE);
    generated.text = generated.text.replace(WHOLE, DAMAGED);
    (generated, line.expect("the sum of squares") + 1)
}

/// Fails unless the parts stand in the message in that order.
fn in_order(message: &str, parts: &[String]) {
    let mut rest = message;
    for part in parts {
        let Some(at) = rest.find(part.as_str()) else {
            panic!("`{part}` is missing or not where it should be in:\n{message}");
        };
        rest = &rest[at + part.len()..];
    }
}

/// Names of our own that mean nothing to the author of a kernel.
const INTERNAL: &[&str] = &[
    "tilekiln_",
    "CompileError",
    "DeviceError",
    "Generated",
    "StmtKind",
    "ValueId",
    "Location",
    "Diagnostic",
    "Some(",
    "None",
    "Val<",
    "Err(",
    "panicked",
];

fn rejected(compiler: &dyn Compiler, target: &str) {
    let (generated, line) = damaged(target);
    let error = compile(compiler, &generated).expect_err("`vv` is not declared");
    let message = error.to_string();
    eprintln!("{message}\n");

    let at = generated.lines[line - 1].expect("a statement has a place in the DSL");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(at.file);
    let source = std::fs::read_to_string(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let statement = source.lines().nth(at.line as usize - 1).unwrap_or_default();
    assert_eq!(
        statement.trim(),
        IN_THE_DSL,
        "{at} is not the statement that the line comes from"
    );

    let width = (line + 2).to_string().len();
    let shown = |number: usize, mark: char| {
        let text = generated.text.lines().nth(number - 1).expect("a line of the text");
        format!("  {mark} {number:width$} | {text}\n")
    };
    let kept = error.kept.as_ref().expect("the temporary folder can be written");
    in_order(
        &message,
        &[
            format!("{} rejected {} for {target}: ", compiler.name(), generated.file_name),
            "\nerror: ".to_string(),
            "vv".to_string(),
            format!("\n  --> dsl/kernels/src/norm.rs:{}:{}\n", at.line, at.column),
            format!("  generated line {}:{line}\n", generated.file_name),
            shown(line - 2, ' '),
            shown(line - 1, ' '),
            shown(line, '>'),
            shown(line + 1, ' '),
            shown(line + 2, ' '),
            format!("\nlog of {}:\n", compiler.name()),
            "vv".to_string(),
            format!("\nkept: {}", kept.display()),
        ],
    );
    assert!(
        message.ends_with(&kept.display().to_string()),
        "nothing after the file:\n{message}"
    );
    let on_disk = std::fs::read_to_string(kept).unwrap_or_else(|error| panic!("{}: {error}", kept.display()));
    assert_eq!(on_disk, generated.text, "what is kept is what was compiled");
    for name in INTERNAL {
        assert!(!message.contains(name), "the message names `{name}`:\n{message}");
    }
}

#[test]
fn nvrtc_rejects() {
    let _alone = ONE_VENDOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(nvrtc) = require("nvrtc", Nvrtc::open()) else {
        return;
    };
    for target in ["sm_80", "sm_90", "sm_120"] {
        rejected(&nvrtc, target);
    }
}

#[test]
fn hiprtc_rejects() {
    let _alone = ONE_VENDOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(hiprtc) = require("hiprtc", Hiprtc::open()) else {
        return;
    };
    rejected(&hiprtc, "gfx1150");
}
