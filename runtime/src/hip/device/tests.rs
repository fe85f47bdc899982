//! Against a stub runtime compiled here, in a process of its own: which library is opened depends on the
//! environment, and the other tests use the real one.

use std::path::Path;
use std::process::{Command, Output};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tilekiln_dsl::ir::Scalar;

use super::*;
use crate::compiler::{Compiler, testing};
use crate::launch::testing::kernel;
use crate::probe::probe;

const STUB: &str = include_str!("stub.c");
/// Set in the process that has the stub.
const CHILD: &str = "TILEKILN_TEST_HIP_STUB";

fn compile_stub(folder: &Path) -> Result<(), String> {
    let source = folder.join("stub.c");
    std::fs::write(&source, STUB).map_err(|error| error.to_string())?;
    let output = Command::new("cc")
        .args([
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            "-Wno-stringop-truncation",
            "-o",
        ])
        .arg(folder.join("libamdhip64.so.7"))
        .arg(&source)
        .output()
        .map_err(|error| format!("cc: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn child(test: &str, folder: &Path, environment: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().expect("a test knows its program"))
        .args(["--exact", &format!("hip::device::tests::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .env("TILEKILN_ROCM_DIR", folder)
        .envs(environment.iter().copied())
        .output()
        .expect("the same program starts")
}

fn in_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[test]
fn the_whole_device_on_a_stub_runtime() {
    let folder = tempfile::tempdir().expect("temporary folder");
    if let Err(reason) = compile_stub(folder.path()) {
        testing::skip("cc", format!("the stub cannot be compiled: {reason}"));
        return;
    }
    for (test, environment) in [
        ("on_the_stub", &[][..]),
        ("on_a_stub_without_devices", &[("TILEKILN_STUB_EMPTY", "1")][..]),
    ] {
        let output = child(test, folder.path(), environment);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{test}: {}{text}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(text.contains("ran on the stub"), "{test}: {text}");
    }
}

#[test]
fn a_library_without_our_functions_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let built = Command::new("cc")
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(folder.path().join("libamdhip64.so.7"))
        .status();
    if !built.is_ok_and(|status| status.success()) {
        testing::skip("cc", "an empty library cannot be linked");
        return;
    }
    let output = child("on_an_empty_library", folder.path(), &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("ran on the stub"), "{text}");
}

#[test]
fn on_an_empty_library() {
    if !in_child() {
        return;
    }
    let error = HipDevice::open(0).err().expect("it is empty").to_string();
    assert!(error.contains("libamdhip64.so.7 has no function hipInit"), "{error}");
    assert!(error.contains("TILEKILN_ROCM_DIR"), "{error}");
    let error = Hiprtc::open().err().expect("it is empty").to_string();
    assert!(error.contains("has no function hiprtcCreateProgram"), "{error}");
    let facts = probe();
    assert!(!facts.amdhip.found && !facts.hiprtc.found, "{facts:?}");
    eprintln!("ran on the stub");
}

#[test]
fn on_a_stub_without_devices() {
    if !in_child() {
        return;
    }
    let error = HipDevice::open(0).err().expect("there is none").to_string();
    assert_eq!(error, "no AMD device: the driver counts 0 devices");
    let facts = probe();
    assert!(facts.amdhip.found && facts.amdhip.devices.is_empty(), "{facts:?}");
    assert_eq!(
        facts.amdhip.reason.as_deref(),
        Some("no AMD device: the driver counts 0 devices")
    );
    eprintln!("ran on the stub");
}

fn load(device: &HipDevice, symbol: &str, text: &str, dynamic_shared_bytes: usize) -> Result<Loaded, DeviceError> {
    let mut generated = testing::generated(&format!("{symbol}.hip"), "gfx1150", text);
    generated.dynamic_shared_bytes = dynamic_shared_bytes;
    let parameters = [
        ("x", None),
        ("count", Some(Scalar::U32)),
        ("factor", Some(Scalar::F32)),
        ("shift", Some(Scalar::U64)),
    ];
    let kernel = Arc::new(kernel(symbol, "gfx1150", &parameters));
    let compiled = device.compiler.build(&generated, &device.architecture)?;
    device.install(Prepared {
        kernel,
        generated,
        compiled,
    })
}

#[test]
fn on_the_stub() {
    if !in_child() {
        return;
    }
    let error = HipDevice::open(1).err().expect("there is one device").to_string();
    assert_eq!(error, "no AMD device: number 1 was asked for, there are numbers 0 to 0");
    let device = HipDevice::open(0).unwrap_or_else(|error| panic!("{error}"));
    let properties = device.properties();
    assert_eq!((properties.name.as_str(), properties.units), ("Stub Graphics", 8));
    assert_eq!((properties.memory_bytes, properties.unified_memory), (1 << 34, true));
    assert_eq!(
        (properties.target.name, device.architecture.as_str()),
        ("gfx1150", "gfx1150")
    );
    assert_eq!(device.compiler.name(), "hipRTC of ROCm 7.14.60850");
    let facts = probe();
    assert_eq!(facts.amdhip.devices[0].architecture, "gfx1150", "{facts:?}");
    assert_eq!(facts.hiprtc.version.as_deref(), Some("ROCm 7.14.60850"));

    let scale = load(&device, "scale", "kernel text", 4096).unwrap_or_else(|error| panic!("{error}"));
    let rejected = load(&device, "scale", "#error planted", 4096)
        .err()
        .expect("the stub rejects it");
    assert!(rejected.to_string().contains("HIPRTC_ERROR_COMPILATION"), "{rejected}");
    let unknown = load(&device, "other", "kernel text", 4096)
        .err()
        .expect("not in the module")
        .to_string();
    assert!(
        unknown.contains("hipModuleGetFunction failed: named symbol not found"),
        "{unknown}"
    );
    let large = load(&device, "scale", "kernel text", 70_000)
        .err()
        .expect("a block has less")
        .to_string();
    assert!(large.contains("70000 bytes of shared memory"), "{large}");

    let mut random = StdRng::seed_from_u64(23);
    let count = 100 + random.random_range(0..100usize);
    let input: Vec<f32> = (0..count).map(|_| random.random_range(0.5..2.0)).collect();
    let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
    let buffer = device.allocate(bytes.len() + 12).expect("small");
    let launch = |factor: f32, shift: u64| Launch {
        grid: [count.div_ceil(64) as u32, 1, 1],
        arguments: vec![
            Argument::Buffer(buffer.clone(), 12),
            Argument::U32(count as u32),
            Argument::F32(factor),
            Argument::U64(shift << 32),
        ],
        dependent: true,
    };
    let expect = |steps: &[(f32, u64)]| {
        let mut out = vec![0u8; bytes.len()];
        device.download(&buffer, 12, &mut out).expect("inside");
        for (chunk, start) in out.chunks_exact(4).zip(&input) {
            let found = f32::from_le_bytes(chunk.try_into().expect("four bytes"));
            let expected = steps
                .iter()
                .fold(*start, |value, (factor, shift)| value.mul_add(*factor, *shift as f32));
            assert!((found - expected).abs() <= expected.abs() * 1e-6, "{found} {expected}");
        }
    };
    device.upload(&buffer, 12, &bytes).expect("inside");
    device.launch(&scale, &launch(0.5, 7)).expect("fits");
    expect(&[(0.5, 7)]);

    let dropped = load(&device, "scale", "kernel text", 4096).unwrap_or_else(|error| panic!("{error}"));
    device.begin_graph().expect("nothing is recorded");
    device.launch(&scale, &launch(0.25, 3)).expect("fits");
    drop(dropped);
    device.launch(&scale, &launch(4.0, 1)).expect("fits");
    assert!(device.upload(&buffer, 0, &bytes).is_err() && device.synchronize().is_err());
    let graph = device.end_graph().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(graph.launches, 2);
    let start = device.mark().expect("idle");
    device.replay(&graph).expect("own graph");
    let end = device.mark().expect("idle");
    expect(&[(0.5, 7), (0.25, 3), (4.0, 1)]);
    assert_eq!(
        device.elapsed(&start, &end).expect("both recorded"),
        Duration::from_millis(3)
    );
    assert!(
        device
            .elapsed(&end, &start)
            .expect_err("backwards")
            .to_string()
            .contains("before the start")
    );

    device.fill(&buffer, 0x3f).expect("own buffer");
    let mut out = [0u8; 4];
    device.download(&buffer, 8, &mut out).expect("inside");
    assert_eq!(out, [0x3f; 4]);
    let full = device.allocate(1 << 40).err().expect("too much").to_string();
    assert_eq!(full, "the device has no 1099511627776 bytes left (1234 free)");
    assert!(matches!(
        device.download(&buffer, bytes.len(), &mut [0; 13]),
        Err(DeviceError::OutOfBuffer { .. })
    ));
    let foreign = Buffer {
        bytes: 64,
        handle: Arc::new(()),
    };
    let mut wrong = launch(1.0, 0);
    wrong.arguments[0] = Argument::Buffer(foreign, 0);
    let error = device.launch(&scale, &wrong).expect_err("noticed").to_string();
    assert!(error.contains("argument 0 belongs to another device"), "{error}");
    let mut wide = launch(1.0, 0);
    wide.grid = [1 << 26, 1, 1];
    let error = device.launch(&scale, &wide).expect_err("noticed").to_string();
    assert!(error.contains("2^32 threads"), "{error}");

    // Everything is handed back, in whatever order it is dropped.
    let opened = crate::library::open_first(&api::candidates()).unwrap_or_else(|tried| panic!("{tried:?}"));
    // SAFETY: the stub's own function, without arguments.
    let alive = unsafe { opened.function::<unsafe extern "C" fn() -> c_int>("tilekiln_stub_alive") }.expect("exported");
    drop(device);
    drop((start, end, scale, wrong, wide));
    drop(buffer);
    drop(graph);
    // SAFETY: as above.
    assert_eq!(unsafe { alive() }, 0, "driver objects that were not handed back");
    eprintln!("ran on the stub");
}
