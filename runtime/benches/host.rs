//! How many lane-operations the host device executes per second. A lane-operation is one evaluated
//! instruction of the lowered program for one active lane (literals and renamed values are free and not
//! counted); the sanitizer counts them.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::*;
use tilekiln_dsl::ir::*;
use tilekiln_runtime::device::{Argument as Given, Device};
use tilekiln_runtime::host::HostDevice;

const X: Memory = Memory::Parameter(0);
const Y: Memory = Memory::Parameter(1);
const THREADS: usize = 256;

fn parameters() -> Vec<Parameter> {
    vec![
        memory("x", Scalar::F32, Access::Read),
        memory("y", Scalar::F32, Access::Write),
    ]
}

/// 256 rounds of eight independent multiply-adds.
fn multiply_add(fused: bool) -> Kernel {
    kernel(THREADS, parameters(), |it| {
        let i = it.global_thread(THREADS);
        let x = it.load(X, i, F32);
        let scale = it.f32(0.999);
        let sums: Vec<_> = (0..8)
            .map(|k| {
                let first = it.f32(k as f32 + 0.25);
                it.declare("sum", first)
            })
            .collect();
        let (start, end, step) = (it.u32(0), it.u32(256), it.u32(1));
        it.each(start, end, step, |it, _| {
            for sum in &sums {
                let old = it.read(*sum);
                let new = if fused {
                    it.fma(old, scale, x)
                } else {
                    let product = it.binary(BinaryOp::Mul, old, scale);
                    it.binary(BinaryOp::Add, product, x)
                };
                it.assign(*sum, new);
            }
        });
        let mut total = it.read(sums[0]);
        for sum in &sums[1..] {
            let next = it.read(*sum);
            total = it.binary(BinaryOp::Add, total, next);
        }
        it.store(Y, i, F32, total);
    })
}

/// A block sum through shared memory, halving.
fn shared_reduction() -> Kernel {
    kernel(THREADS, parameters(), |it| {
        let tile = it.shared("tile", Scalar::F32, THREADS);
        let i = it.global_thread(THREADS);
        let t = it.thread();
        let x = it.load(X, i, F32);
        it.store(tile, t, F32, x);
        it.stmt(StmtKind::Barrier);
        let mut half = THREADS as u32 / 2;
        while half > 0 {
            let limit = it.u32(half);
            let below = it.compare(CompareOp::Lt, t, limit);
            it.when(below, |it| {
                let far = it.binary(BinaryOp::Add, t, limit);
                let (a, b) = (it.load(tile, t, F32), it.load(tile, far, F32));
                let sum = it.binary(BinaryOp::Add, a, b);
                it.store(tile, t, F32, sum);
            });
            it.stmt(StmtKind::Barrier);
            half /= 2;
        }
        let zero = it.u32(0);
        let total = it.load(tile, zero, F32);
        it.store(Y, i, F32, total);
    })
}

fn copy(width: u8) -> Kernel {
    kernel(THREADS, parameters(), |it| {
        let thread = it.global_thread(THREADS);
        let elements = it.u32(u32::from(width));
        let i = it.binary(BinaryOp::Mul, thread, elements);
        let access = if width == 1 {
            F32
        } else {
            Type::Vector(Scalar::F32, width)
        };
        let x = it.load(X, i, access);
        it.store(Y, i, access, x);
    })
}

/// Sixteen rounds of dot4 on words of x.
fn dot4() -> Kernel {
    kernel(THREADS, parameters(), |it| {
        let i = it.global_thread(THREADS);
        let zero = it.i32(0);
        let sum = it.declare("sum", zero);
        let (start, end, step) = (it.u32(0), it.u32(16), it.u32(1));
        it.each(start, end, step, |it, round| {
            let k = it.read(round);
            let mixed = it.binary(BinaryOp::Xor, i, k);
            let a = it.load(X, mixed, U32);
            let b = it.load(X, i, U32);
            let accumulator = it.read(sum);
            let next = it.value(
                I32,
                Op::Dot4 {
                    a,
                    a_signed: true,
                    b,
                    accumulator,
                },
            );
            it.assign(sum, next);
        });
        let total = it.read(sum);
        let total = it.value(F32, Op::Bitcast(total));
        it.store(Y, i, F32, total);
    })
}

/// 64 chained matrix products per warp.
fn matrix_products() -> Kernel {
    kernel(THREADS, parameters(), |it| {
        let i = it.global_thread(THREADS);
        let a = it.registers("a", Scalar::U32, &[4], Some(Literal::U32(0x3c00_3800)));
        let b = it.registers("b", Scalar::U32, &[4], Some(Literal::U32(0x3800_3400)));
        let c = it.registers("c", Scalar::F32, &[8], Some(Literal::F32(0.5)));
        let (start, end, step) = (it.u32(0), it.u32(64), it.u32(1));
        it.each(start, end, step, |it, _| {
            let whole = |registers| RegisterRef {
                registers,
                index: Vec::new(),
            };
            it.stmt(StmtKind::Mma {
                shape: MmaShape::Square,
                accumulator: whole(c),
                a: whole(a),
                b: whole(b),
                element: Scalar::F16,
            });
        });
        let x = it.load(X, i, F32);
        let zero = it.u32(0);
        let sum = it.read_register(c, &[zero]);
        let sum = it.binary(BinaryOp::Add, sum, x);
        it.store(Y, i, F32, sum);
    })
}

fn host(c: &mut Criterion) {
    let cases: Vec<(&str, Kernel, usize)> = vec![
        ("multiply and add", multiply_add(false), 1),
        ("fused multiply-add", multiply_add(true), 1),
        ("shared-memory reduction", shared_reduction(), 1),
        ("copy f32", copy(1), 1),
        ("copy 4xf32", copy(4), 4),
        ("dot4 loop", dot4(), 1),
        ("matrix products", matrix_products(), 1),
    ];
    let mut group = c.benchmark_group("host");
    for (name, kernel, width) in cases {
        let grid = 64u32;
        let len = grid as usize * THREADS * width;
        let data = || {
            let x: Vec<f32> = (0..len).map(|i| (i % 1013) as f32 * 0.001 + 0.5).collect();
            vec![Data::Bytes(f32_bytes(&x)), Data::Bytes(vec![0; len * 4])]
        };
        let bench = Bench::new(HostDevice::new(), kernel, grid, data()).expect("the kernel loads");
        let operations = bench.report().lane_operations;
        group.throughput(Throughput::Elements(operations));
        group.bench_function(name, |b| b.iter(|| bench.run().expect("the kernel runs")));
        assert!(matches!(bench.launch.arguments[0], Given::Buffer(..)));
    }
    let threads = HostDevice::new().properties().units;
    println!("{threads} worker threads");
    group.finish();
}

criterion_group!(benches, host);
criterion_main!(benches);
