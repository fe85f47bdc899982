use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tilekiln_codegen::Generated;
use tilekiln_dsl::ir::Scalar;

use super::*;
use crate::compiler::{compile_all, testing};
use crate::device::Argument;
use crate::launch::testing::kernel;

const SCALE: &str = r#"extern "C" __global__ void __launch_bounds__(64)
scale(float* __restrict__ x, unsigned count, float factor, unsigned long long shift) {
    extern __shared__ float staged[];
    const unsigned at = blockIdx.x * 64 + threadIdx.x;
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    staged[threadIdx.x + 20000] = at < count ? x[at] : 0.0f;
    __syncthreads();
    if (at < count)
        x[at] = staged[threadIdx.x + 20000] * factor + float(shift >> 32);
}
"#;

/// Of the 228 KiB of an H100's multiprocessor.
#[test]
fn promised_blocks_find_their_shared_memory() {
    let limit = 227 * 1024;
    for (blocks, bytes, want) in [
        (1, 200 * 1024, 0),
        (2, 33 * 1024, 30),
        (4, 56 * 1024, 100),
        (4, 80 * 1024, 100),
    ] {
        assert_eq!(shared_memory_share(blocks, bytes, limit), want, "{blocks} of {bytes}");
    }
}

fn device() -> Option<CudaDevice> {
    match CudaDevice::open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            testing::skip("cuda", error);
            None
        }
    }
}

/// Loads a text as if it had been generated from a kernel.
fn load(
    device: &CudaDevice,
    generated: Generated,
    parameters: &[(&str, Option<Scalar>)],
) -> Result<Loaded, DeviceError> {
    let kernel = Arc::new(kernel(&generated.symbol, generated.target.name, parameters));
    let architecture = Some(device.choice.architecture.as_str());
    let compiled = compile_all(&device.compiler, None, std::slice::from_ref(&generated), architecture).remove(0)?;
    device.install(Prepared {
        kernel,
        generated,
        compiled,
    })
}

fn scale(device: &CudaDevice) -> Loaded {
    let mut generated = testing::generated("scale.cu", device.properties.target.name, SCALE);
    generated.dynamic_shared_bytes = (20000 + 64) * 4;
    let parameters = [
        ("x", None),
        ("count", Some(Scalar::U32)),
        ("factor", Some(Scalar::F32)),
        ("shift", Some(Scalar::U64)),
    ];
    load(device, generated, &parameters).unwrap_or_else(|error| panic!("{error}"))
}

fn arguments(buffer: &Buffer, count: usize, factor: f32) -> Vec<Argument> {
    vec![
        Argument::Buffer(buffer.clone(), 0),
        Argument::U32(count as u32),
        Argument::F32(factor),
        Argument::U64(3 << 32),
    ]
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|chunk| f32::from_le_bytes(chunk.try_into().expect("four bytes")))
        .collect()
}

#[test]
fn without_a_driver_the_error_says_what_to_do() {
    match CudaDevice::open(0) {
        Err(DeviceError::MissingLibrary { library, remedy, .. }) => {
            assert!(library.contains("cuda") || library.contains("nvrtc"), "{library}");
            assert!(!remedy.is_empty());
        }
        Err(DeviceError::NoDevice { vendor, .. }) => assert_eq!(vendor, "NVIDIA"),
        Err(other) => panic!("{other}"),
        Ok(device) => {
            let error = CudaDevice::open(64).err().expect("nobody has 65").to_string();
            assert!(error.contains("number 64"), "{error}");
            assert!(device.properties().memory_bytes > 0);
        }
    }
}

#[test]
fn launches_graphs_marks_and_large_shared_memory() {
    let Some(device) = device() else { return };
    let kernel = scale(&device);
    let mut random = StdRng::seed_from_u64(17);
    let count = 1000 + random.random_range(0..500usize);
    let input: Vec<f32> = (0..count).map(|_| random.random_range(0.5..2.0)).collect();
    let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
    let buffer = device.allocate(bytes.len()).expect("a few kilobytes");
    let launch = |factor, dependent| Launch {
        grid: [count.div_ceil(64) as u32, 1, 1],
        arguments: arguments(&buffer, count, factor),
        dependent,
    };
    let expect = |factors: &[f32]| {
        let mut out = vec![0u8; bytes.len()];
        device.download(&buffer, 0, &mut out).expect("inside");
        for (at, (found, start)) in floats(&out).iter().zip(&input).enumerate() {
            let expected = factors
                .iter()
                .fold(f64::from(*start), |value, factor| value * f64::from(*factor) + 3.0);
            // one rounding per step, each at most half an ulp of the value
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error <= expected.abs() * f64::from(f32::EPSILON) * factors.len() as f64,
                "{at}: {found} {expected}"
            );
        }
    };

    device.upload(&buffer, 0, &bytes).expect("inside");
    device.launch(&kernel, &launch(1.5, false)).expect("fits");
    device.launch(&kernel, &launch(0.5, true)).expect("fits");
    expect(&[1.5, 0.5]);

    device.begin_graph().expect("nothing is recorded");
    device.launch(&kernel, &launch(0.25, false)).expect("fits");
    device.launch(&kernel, &launch(1.75, true)).expect("fits");
    assert!(
        device.upload(&buffer, 0, &bytes).is_err(),
        "a graph takes launches only"
    );
    assert!(device.begin_graph().is_err());
    let other = device.allocate(1 << 20).expect("allocating stays allowed");
    drop(other);
    let graph = device.end_graph().expect("it was begun");
    assert_eq!(graph.launches, 2);
    assert!(device.end_graph().is_err());
    device.upload(&buffer, 0, &bytes).expect("inside");
    let start = device.mark().expect("idle");
    for _ in 0..2 {
        device.replay(&graph).expect("own graph");
    }
    let end = device.mark().expect("idle");
    expect(&[0.25, 1.75, 0.25, 1.75]);
    let time = device.elapsed(&start, &end).expect("both recorded");
    assert!(time > Duration::ZERO && time < Duration::from_secs(5), "{time:?}");
    assert!(device.elapsed(&end, &start).is_err() || time.is_zero());

    device.fill(&buffer, 0x3f).expect("own buffer");
    let mut out = vec![0u8; 8];
    device.download(&buffer, 4, &mut out).expect("inside");
    assert_eq!(out, [0x3f; 8]);
    let (free, total) = device.memory().expect("asked");
    assert!(
        free < total && total <= device.properties().memory_bytes,
        "{free} {total}"
    );
    eprintln!(
        "{:?}, target {}, {} with {}",
        device.properties(),
        device.choice.architecture,
        device.compiler.file(),
        {
            use crate::compiler::Compiler;
            device.compiler.name().to_string()
        }
    );
}

#[test]
fn a_graph_keeps_its_buffers() {
    let Some(device) = device() else { return };
    let kernel = scale(&device);
    let buffer = device.allocate(256).expect("small");
    device.begin_graph().expect("nothing is recorded");
    let launch = Launch {
        grid: [1, 1, 1],
        arguments: arguments(&buffer, 64, 2.0),
        dependent: false,
    };
    device.launch(&kernel, &launch).expect("fits");
    drop((buffer, kernel, launch));
    let graph = device.end_graph().expect("it was begun");
    device.replay(&graph).expect("own graph");
    device.synchronize().expect("the buffer is still there");
}

#[test]
fn what_cannot_be_launched_is_named() {
    let Some(device) = device() else { return };
    let kernel = scale(&device);
    let buffer = device.allocate(256).expect("small");
    let foreign = Buffer {
        bytes: 256,
        handle: Arc::new(()),
    };
    for (grid, buffer, expected) in [
        ([0, 1, 1], &buffer, "no blocks along x"),
        ([1, 70_000, 1], &buffer, "70000 blocks along y"),
        ([1, 1, 1], &foreign, "argument 0 belongs to another device"),
    ] {
        let launch = Launch {
            grid,
            arguments: arguments(buffer, 64, 2.0),
            dependent: false,
        };
        let error = device
            .launch(&kernel, &launch)
            .expect_err("it must be noticed")
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(matches!(
        device.download(&buffer, 200, &mut [0; 100]),
        Err(DeviceError::OutOfBuffer { .. })
    ));
    assert!(matches!(device.allocate(1 << 50), Err(DeviceError::OutOfMemory { .. })));
    let mut generated = testing::generated("scale.cu", device.properties.target.name, SCALE);
    generated.dynamic_shared_bytes = 300 * 1024;
    let error = load(&device, generated, &[])
        .err()
        .expect("no chip has that much")
        .to_string();
    assert!(error.contains("shared memory"), "{error}");
    device.synchronize().expect("nothing is broken");
}
