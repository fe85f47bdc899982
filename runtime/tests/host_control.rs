//! Control flow with masks, calls, register arrays, matrix fragments, copies, graphs and events.

mod support;

use std::sync::Arc;

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::*;
use tilekiln_dsl::ir::*;
use tilekiln_dsl::target::{FragmentLayout, HOST, Target};
use tilekiln_runtime::device::Device;
use tilekiln_runtime::error::DeviceError;
use tilekiln_runtime::host::HostDevice;

const X: Memory = Memory::Parameter(0);
const OUT: Memory = Memory::Parameter(1);
const N: usize = 80;

fn parameters() -> Vec<Parameter> {
    vec![
        memory("x", Scalar::U32, Access::Read),
        memory("out", Scalar::U32, Access::ReadWrite),
    ]
}

fn inputs() -> Vec<u32> {
    let mut rng = StdRng::seed_from_u64(40);
    (0..2 * N).map(|_| rng.random_range(1..50)).collect()
}

/// Records with (thread, x[thread]); `out` starts as 1000 + i.
#[track_caller]
fn check(recorded: Kernel, expected: impl Fn(u32, u32) -> u32) {
    let x = inputs();
    let start: Vec<u32> = (0..2 * N as u32).map(|i| 1000 + i).collect();
    let bench = run_both(recorded, 2, || {
        vec![Data::Bytes(u32_bytes(&x)), Data::Bytes(u32_bytes(&start))]
    });
    for (i, found) in bench.words(1).into_iter().enumerate() {
        assert_eq!(found, expected(i as u32, x[i]), "element {i}, x = {}", x[i]);
    }
}

fn with_x(record: impl FnOnce(&mut Recorder, ValueId, ValueId)) -> Kernel {
    kernel(N, parameters(), |it| {
        let i = it.global_thread(N);
        let x = it.load(X, i, U32);
        record(it, i, x);
    })
}

fn odd(it: &mut Recorder, x: ValueId) -> ValueId {
    let (one, zero) = (it.u32(1), it.u32(0));
    let low = it.binary(BinaryOp::And, x, one);
    it.compare(CompareOp::Ne, low, zero)
}

#[test]
fn branches_and_early_return() {
    check(
        with_x(|it, i, x| {
            let seven = it.u32(7);
            let v = it.declare("v", seven);
            let c = odd(it, x);
            it.when_else(
                c,
                |it| {
                    let twenty = it.u32(20);
                    let small = it.compare(CompareOp::Lt, x, twenty);
                    it.when(small, |it| it.stmt(StmtKind::Return(None)));
                    it.assign(v, x);
                },
                |it| {
                    let old = it.read(v);
                    let new = it.binary(BinaryOp::Add, old, x);
                    it.assign(v, new);
                },
            );
            let last = it.read(v);
            it.store(OUT, i, U32, last);
        }),
        |i, x| match (x % 2, x < 20) {
            (1, true) => 1000 + i,
            (1, false) => x,
            _ => 7 + x,
        },
    );
}

#[test]
fn loops_with_different_trips_break_and_continue() {
    check(
        with_x(|it, i, x| {
            let (zero, one) = (it.u32(0), it.u32(1));
            let sum = it.declare("sum", zero);
            let rounds = it.declare("rounds", zero);
            it.each(zero, x, one, |it, k| {
                let r = it.read(rounds);
                let r = it.binary(BinaryOp::Add, r, one);
                it.assign(rounds, r);
                let k = it.read(k);
                let c = odd(it, k);
                it.when(c, |it| it.stmt(StmtKind::Continue));
                let limit = it.u32(30);
                let far = it.compare(CompareOp::Ge, k, limit);
                it.when(far, |it| it.stmt(StmtKind::Break));
                let s = it.read(sum);
                let s = it.binary(BinaryOp::Add, s, k);
                it.assign(sum, s);
            });
            let (s, r) = (it.read(sum), it.read(rounds));
            let hundred = it.u32(100_000);
            let r = it.binary(BinaryOp::Mul, r, hundred);
            let all = it.binary(BinaryOp::Add, s, r);
            it.store(OUT, i, U32, all);
        }),
        |_, x| {
            let (mut sum, mut rounds) = (0, 0);
            for k in 0..x {
                rounds += 1;
                if k % 2 == 1 {
                    continue;
                }
                if k >= 30 {
                    break;
                }
                sum += k;
            }
            sum + rounds * 100_000
        },
    );
}

#[test]
fn a_uniform_loop_with_a_diverging_break_keeps_variables_apart() {
    check(
        with_x(|it, i, x| {
            let (zero, one, end) = (it.u32(0), it.u32(1), it.u32(40));
            let count = it.declare("count", zero);
            it.each(zero, end, one, |it, k| {
                let k = it.read(k);
                let over = it.compare(CompareOp::Ge, k, x);
                it.when(over, |it| it.stmt(StmtKind::Break));
                // inner uniform loop over a value from outside
                let (a, b) = (it.u32(0), it.u32(3));
                it.each(a, b, one, |it, _| {
                    let c = it.read(count);
                    let c = it.binary(BinaryOp::Add, c, one);
                    it.assign(count, c);
                });
            });
            let c = it.read(count);
            it.store(OUT, i, U32, c);
        }),
        |_, x| 3 * x.min(40),
    );
}

#[test]
fn a_value_read_before_an_assignment_keeps_its_old_word() {
    check(
        with_x(|it, i, x| {
            let v = it.declare("v", x);
            let old = it.read(v);
            let one = it.u32(1);
            let next = it.binary(BinaryOp::Add, old, one);
            it.assign(v, next);
            let new = it.read(v);
            let hundred = it.u32(100);
            let scaled = it.binary(BinaryOp::Mul, old, hundred);
            let both = it.binary(BinaryOp::Add, scaled, new);
            it.store(OUT, i, U32, both);
        }),
        |_, x| x * 100 + x + 1,
    );
}

#[test]
fn while_loops_follow_each_lane() {
    check(
        with_x(|it, i, x| {
            // Collatz steps
            let (zero, one, two, three) = (it.u32(0), it.u32(1), it.u32(2), it.u32(3));
            let n = it.declare("n", x);
            let steps = it.declare("steps", zero);
            it.repeat(
                |it| {
                    let n = it.read(n);
                    it.compare(CompareOp::Ne, n, one)
                },
                |it| {
                    let old = it.read(n);
                    let c = odd(it, old);
                    let up = it.binary(BinaryOp::Mul, old, three);
                    let up = it.binary(BinaryOp::Add, up, one);
                    let down = it.binary(BinaryOp::Div, old, two);
                    let next = it.value(
                        U32,
                        Op::Select {
                            condition: c,
                            yes: up,
                            no: down,
                        },
                    );
                    it.assign(n, next);
                    let s = it.read(steps);
                    let s = it.binary(BinaryOp::Add, s, one);
                    it.assign(steps, s);
                },
            );
            let s = it.read(steps);
            it.store(OUT, i, U32, s);
        }),
        |_, x| {
            let (mut n, mut steps) = (x, 0);
            while n != 1 {
                n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
                steps += 1;
            }
            steps
        },
    );
}

#[test]
fn functions_return_from_several_places() {
    let mut recorder = Recorder::new();
    let it = &mut recorder;
    // fn pick(x, from): if x odd { return from[0] + x } for k in 0..x { if k*k >= x { return k } } x
    let x = it.value(U32, Op::Parameter(0));
    let (zero, one) = (it.u32(0), it.u32(1));
    let c = odd(it, x);
    it.when(c, |it| {
        let first = it.load(Memory::Parameter(1), zero, U32);
        let sum = it.binary(BinaryOp::Add, first, x);
        it.stmt(StmtKind::Return(Some(sum)));
    });
    it.each(zero, x, one, |it, k| {
        let k = it.read(k);
        let square = it.binary(BinaryOp::Mul, k, k);
        let over = it.compare(CompareOp::Ge, square, x);
        it.when(over, |it| it.stmt(StmtKind::Return(Some(k))));
    });
    it.stmt(StmtKind::Return(Some(x)));
    let function = |name: &str, body: Body| Function {
        name: name.into(),
        doc: Vec::new(),
        parameters: vec![
            FunctionParameter {
                name: "x".into(),
                kind: FunctionParameterKind::Value(U32),
            },
            FunctionParameter {
                name: "from".into(),
                kind: FunctionParameterKind::GlobalRead(Scalar::U32),
            },
        ],
        result: Some(U32),
        body,
        at: Location::caller(),
    };
    let pick = function("pick", recorder.finish());
    // fn twice(x, from): pick(x, from) * 2
    let mut recorder = Recorder::new();
    let it = &mut recorder;
    let x = it.value(U32, Op::Parameter(0));
    let arguments = vec![Argument::Value(x), Argument::Memory(Memory::Parameter(1))];
    let picked = it.value(
        U32,
        Op::Call {
            function: FunctionId(0),
            arguments,
        },
    );
    let two = it.u32(2);
    let result = it.binary(BinaryOp::Mul, picked, two);
    it.stmt(StmtKind::Return(Some(result)));
    let twice = function("twice", recorder.finish());
    let mut recorded = with_x(|it, i, x| {
        let limit = it.u32(45);
        let below = it.compare(CompareOp::Lt, x, limit);
        it.when(below, |it| {
            let arguments = vec![Argument::Value(x), Argument::Memory(X)];
            let a = it.value(
                U32,
                Op::Call {
                    function: FunctionId(1),
                    arguments: arguments.clone(),
                },
            );
            let b = it.value(
                U32,
                Op::Call {
                    function: FunctionId(0),
                    arguments,
                },
            );
            let sum = it.binary(BinaryOp::Add, a, b);
            it.store(OUT, i, U32, sum);
        });
    });
    recorded.functions = vec![pick, twice];
    let first = inputs()[0];
    check(recorded, |i, x| {
        let pick = if x % 2 == 1 {
            first + x
        } else {
            (0..x).find(|k| k * k >= x).unwrap_or(x)
        };
        if x < 45 { 3 * pick } else { 1000 + i }
    });
}

#[test]
fn register_arrays_of_two_dimensions() {
    check(
        with_x(|it, i, x| {
            let grid = it.registers("grid", Scalar::U32, &[2, 3], Some(Literal::U32(5)));
            let (zero, one, two, three) = (it.u32(0), it.u32(1), it.u32(2), it.u32(3));
            it.each(zero, two, one, |it, r| {
                it.each(zero, three, one, |it, c| {
                    let (r, c) = (it.read(r), it.read(c));
                    let t = it.binary(BinaryOp::Mul, r, three);
                    let t = it.binary(BinaryOp::Add, t, c);
                    let v = it.binary(BinaryOp::Mul, t, x);
                    let some = odd(it, x);
                    it.when(some, |it| it.write_register(grid, &[r, c], v));
                });
            });
            let column = it.binary(BinaryOp::Rem, x, three);
            let a = it.read_register(grid, &[one, column]);
            it.store(OUT, i, U32, a);
        }),
        |_, x| if x % 2 == 1 { (3 + x % 3) * x } else { 5 },
    );
}

fn random_halves(seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..256)
        .map(|_| rng.random_range(-64i32..64) as f32 / 16.0 + 1.0 / 32.0)
        .collect()
}

/// `out = a · b` for one warp, fragments gathered element by element in the layout of the target.
fn product(target: &Target, element: Scalar) {
    let layout: FragmentLayout = target.fragments;
    let registers = layout.operand_registers();
    let parameters = vec![
        memory("a", Scalar::U32, Access::Read),
        memory("out", Scalar::F32, Access::Write),
        memory("b", Scalar::U32, Access::Read),
    ];
    let recorded = kernel_for(target, 64, parameters, |it| {
        let a = it.registers("a", Scalar::U32, &[2, registers], None);
        let b = it.registers("b", Scalar::U32, &[registers], None);
        let c = it.registers("c", Scalar::F32, &[8], Some(Literal::F32(0.5)));
        let t = it.thread();
        let one = it.u32(1);
        for r in 0..registers {
            let (stride, k) = (it.u32(registers as u32), it.u32(r as u32));
            let i = it.binary(BinaryOp::Mul, t, stride);
            let i = it.binary(BinaryOp::Add, i, k);
            let (x, y) = (it.load(X, i, U32), it.load(Memory::Parameter(2), i, U32));
            it.write_register(a, &[one, k], x);
            it.write_register(b, &[k], y);
        }
        it.stmt(StmtKind::Mma {
            accumulator: RegisterRef {
                registers: c,
                index: vec![],
            },
            a: RegisterRef {
                registers: a,
                index: vec![one],
            },
            b: RegisterRef {
                registers: b,
                index: vec![],
            },
            element,
            shape: MmaShape::Square,
        });
        for e in 0..8 {
            let (eight, e) = (it.u32(8), it.u32(e));
            let i = it.binary(BinaryOp::Mul, t, eight);
            let i = it.binary(BinaryOp::Add, i, e);
            let v = it.read_register(c, &[e]);
            it.store(OUT, i, F32, v);
        }
    });
    let (left, right) = (random_halves(50), random_halves(51));
    let bits = |x: f32| {
        u32::from(if element == Scalar::F16 {
            f16::from_f32(x).to_bits()
        } else {
            bf16::from_f32(x).to_bits()
        })
    };
    let value = |x: f32| {
        if element == Scalar::F16 {
            f16::from_f32(x).to_f64()
        } else {
            bf16::from_f32(x).to_f64()
        }
    };
    let mut words = [Vec::new(), Vec::new()];
    for lane in 0..64 {
        for r in 0..registers {
            let mut pair = [0u32; 2];
            for half in 0..2 {
                let (row, k) = layout.a_position(lane % 32, r, half);
                pair[0] |= bits(left[row * 16 + k]) << (16 * half);
                let (k, column) = layout.b_position(lane % 32, r, half);
                pair[1] |= bits(right[k * 16 + column]) << (16 * half);
            }
            words[0].push(pair[0]);
            words[1].push(pair[1]);
        }
    }
    let bench = run_both(recorded, 1, || {
        vec![
            Data::Bytes(u32_bytes(&words[0])),
            Data::Fresh(64 * 32),
            Data::Bytes(u32_bytes(&words[1])),
        ]
    });
    for (i, found) in bench.floats(1).into_iter().enumerate() {
        let (row, column) = layout.accumulator_position(i / 8 % 32, i % 8);
        let expected: f64 = 0.5
            + (0..16)
                .map(|k| value(left[row * 16 + k]) * value(right[k * 16 + column]))
                .sum::<f64>();
        // 16 additions in f32 of magnitudes up to 16·16.
        let bound = 16.0 * 256.0 * f64::from(f32::EPSILON);
        assert!(
            (f64::from(found) - expected).abs() <= bound,
            "{} {element}: {found} not {expected}",
            target.name
        );
    }
}

#[test]
fn matrix_products_in_every_layout() {
    for target in [
        &HOST,
        Target::named("sm_90").unwrap(),
        Target::named("gfx1150").unwrap(),
    ] {
        for element in [Scalar::F16, Scalar::BF16] {
            product(target, element);
        }
    }
}

#[test]
fn matrix_loads_plain_and_transposed() {
    for transposed in [false, true] {
        let parameters = vec![
            memory("x", Scalar::U32, Access::Read),
            memory("out", Scalar::U32, Access::Write),
        ];
        let recorded = kernel(32, parameters, |it| {
            let tile = it.shared("tile", Scalar::F16, 256);
            let to = it.registers("to", Scalar::U32, &[4], None);
            let t = it.thread();
            let (four, eight) = (it.u32(4), it.u32(8));
            let (word, half) = (it.binary(BinaryOp::Mul, t, four), it.binary(BinaryOp::Mul, t, eight));
            let v = it.load(X, word, Type::Vector(Scalar::U32, 4));
            it.store(tile, half, Type::Vector(Scalar::U32, 4), v);
            it.stmt(StmtKind::Barrier);
            it.stmt(StmtKind::LoadMatrix {
                to: RegisterRef {
                    registers: to,
                    index: vec![],
                },
                from: Place {
                    memory: tile,
                    index: half,
                    access: Type::Vector(Scalar::F16, 8),
                },
                transposed,
            });
            for m in 0..4 {
                let m = it.u32(m);
                let v = it.read_register(to, &[m]);
                let i = it.binary(BinaryOp::Add, word, m);
                it.store(OUT, i, U32, v);
            }
        });
        let halves: Vec<u16> = (0..256).map(|i| 3 + 7 * i).collect();
        let words: Vec<u32> = halves
            .chunks(2)
            .map(|h| u32::from(h[0]) | (u32::from(h[1]) << 16))
            .collect();
        let bench = run_both(recorded, 1, || vec![Data::Bytes(u32_bytes(&words)), Data::Fresh(512)]);
        for (i, found) in bench.words(1).into_iter().enumerate() {
            let (l, m) = (i / 4, i % 4);
            let at = |row: usize, column: usize| u32::from(halves[(8 * m + row) * 8 + column]);
            let (p, q) = (l / 4, 2 * (l % 4));
            let expected = if transposed {
                at(q, p) | (at(q + 1, p) << 16)
            } else {
                at(p, q) | (at(p, q + 1) << 16)
            };
            assert_eq!(found, expected, "lane {l}, matrix {m}, transposed {transposed}");
        }
    }
}

#[test]
fn a_pipelined_copy_through_shared_memory_is_clean() {
    let recorded = kernel(32, parameters(), |it| {
        let tile = it.shared("tile", Scalar::U32, 128);
        let t = it.thread();
        let four = it.u32(4);
        let i = it.binary(BinaryOp::Mul, t, four);
        let access = Type::Vector(Scalar::U32, 4);
        it.stmt(StmtKind::AsyncCopy {
            to: Place {
                memory: tile,
                index: i,
                access,
            },
            from: Place {
                memory: X,
                index: i,
                access,
            },
        });
        it.stmt(StmtKind::AsyncCommit);
        it.stmt(StmtKind::AsyncWait { pending: 0 });
        it.stmt(StmtKind::Barrier);
        let turn = it.u32(37);
        let there = it.binary(BinaryOp::Add, t, turn);
        let v = it.load(tile, there, U32);
        it.store(OUT, t, U32, v);
    });
    let x = inputs();
    let bench = run_both(recorded, 1, || vec![Data::Bytes(u32_bytes(&x)), Data::Fresh(128)]);
    assert_eq!(bench.words(1)[..], x[37..69]);
}

#[test]
fn graphs_replay_launches_in_order() {
    let recorded = with_x(|it, i, x| {
        let old = it.load(OUT, i, U32);
        let three = it.u32(3);
        let new = it.binary(BinaryOp::Mul, old, three);
        let new = it.binary(BinaryOp::Add, new, x);
        it.store(OUT, i, U32, new);
    });
    let x = inputs();
    let bench = Bench::new(
        HostDevice::new(),
        recorded,
        2,
        vec![Data::Bytes(u32_bytes(&x)), Data::Bytes(u32_bytes(&x))],
    )
    .unwrap();
    let device = &bench.device;
    let start = device.mark().unwrap();
    device.begin_graph().unwrap();
    assert!(device.begin_graph().is_err());
    bench.run().unwrap();
    bench.run().unwrap();
    let graph = device.end_graph().unwrap();
    assert_eq!(graph.launches, 2);
    assert_eq!(bench.words(1), x, "recording runs nothing");
    device.replay(&graph).unwrap();
    device.replay(&graph).unwrap();
    device.synchronize().unwrap();
    let expected: Vec<u32> = x.iter().map(|x| (0..4).fold(*x, |v, _| 3 * v + x)).collect();
    assert_eq!(bench.words(1), expected);
    let end = device.mark().unwrap();
    assert!(device.elapsed(&start, &end).unwrap().as_nanos() > 0);
    let buffer = device.allocate(10).unwrap();
    device.fill(&buffer, 0xa5).unwrap();
    device.upload(&buffer, 3, &[1, 2, 3, 4, 5]).unwrap();
    let mut back = [0; 9];
    device.download(&buffer, 1, &mut back).unwrap();
    assert_eq!(back, [0xa5, 0xa5, 1, 2, 3, 4, 5, 0xa5, 0xa5]);
    let outside = device.upload(&buffer, 8, &[1, 2, 3]);
    assert!(matches!(
        outside,
        Err(DeviceError::OutOfBuffer {
            bytes: 3,
            offset: 8,
            size: 10
        })
    ));
}

#[test]
fn malformed_ir_is_an_error_at_its_line() {
    let recorded = with_x(|it, i, x| {
        it.store(OUT, i, Type::Vector(Scalar::U32, 4), x);
    });
    match HostDevice::new().load(vec![Arc::new(recorded)]) {
        Err(DeviceError::Unsupported { message, at }) => {
            assert!(message.contains("a store of a u32 as 4xu32"), "{message}");
            assert!(at.file.ends_with("host_control.rs"));
        }
        _ => panic!("it loads"),
    }
}
