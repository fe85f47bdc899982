//! Every operation of the IR against plain Rust, on the fast device and under the sanitizer.

// Tables of an operation and what it should give read best in one piece.
#![allow(clippy::type_complexity)]

mod support;

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::*;
use tilekiln_dsl::ir::*;
use tilekiln_runtime::device::Argument as Given;

const X: Memory = Memory::Parameter(0);
const OUT: Memory = Memory::Parameter(1);
const N: usize = 96;

fn parameters() -> Vec<Parameter> {
    vec![
        memory("x", Scalar::U32, Access::Read),
        memory("out", Scalar::U32, Access::Write),
    ]
}

/// Runs `record`, which gets three u32 values per lane and returns the u32 result, and compares every lane.
#[track_caller]
fn check(
    name: &str,
    inputs: &[[u32; 3]],
    record: impl Fn(&mut Recorder, [ValueId; 3]) -> ValueId,
    expected: impl Fn([u32; 3]) -> u32,
) {
    check_with(name, inputs, record, |word, inputs| {
        let expected = expected(inputs);
        assert_eq!(
            word,
            expected,
            "{name} of {inputs:#x?}: {} not {}",
            f32::from_bits(word),
            f32::from_bits(expected)
        );
    });
}

#[track_caller]
fn check_with(
    name: &str,
    inputs: &[[u32; 3]],
    record: impl Fn(&mut Recorder, [ValueId; 3]) -> ValueId,
    compare: impl Fn(u32, [u32; 3]),
) {
    assert_eq!(inputs.len(), N, "{name}");
    let recorded = kernel(N, parameters(), |it| {
        let t = it.thread();
        let three = it.u32(3);
        let base = it.binary(BinaryOp::Mul, t, three);
        let operands = [0, 1, 2].map(|k| {
            let k = it.u32(k);
            let i = it.binary(BinaryOp::Add, base, k);
            it.load(X, i, U32)
        });
        let result = record(it, operands);
        it.store(OUT, t, U32, result);
    });
    let bench = run_both(recorded, 1, || {
        vec![Data::Bytes(u32_bytes(inputs.as_flattened())), Data::Fresh(N * 4)]
    });
    for (word, inputs) in bench.words(1).into_iter().zip(inputs) {
        compare(word, *inputs);
    }
}

fn bits(it: &mut Recorder, value: ValueId, ty: Type) -> ValueId {
    it.value(ty, Op::Bitcast(value))
}

fn random(seed: u64) -> Vec<[u32; 3]> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..N).map(|_| std::array::from_fn(|_| rng.random::<u32>())).collect()
}

/// Finite floats of moderate size, never zero.
fn floats(seed: u64) -> Vec<[u32; 3]> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..N)
        .map(|_| {
            std::array::from_fn(|_| {
                let sign = if rng.random::<bool>() { 1.0f32 } else { -1.0 };
                (sign * rng.random_range(0.01f32..9.0)).to_bits()
            })
        })
        .collect()
}

fn f(word: u32) -> f32 {
    f32::from_bits(word)
}

#[test]
fn integer_arithmetic() {
    use BinaryOp::*;
    let signed: Vec<(BinaryOp, fn(i32, i32) -> i32)> = vec![
        (Add, i32::wrapping_add),
        (Sub, i32::wrapping_sub),
        (Mul, i32::wrapping_mul),
        (Div, i32::wrapping_div),
        (Rem, i32::wrapping_rem),
        (And, |a, b| a & b),
        (Or, |a, b| a | b),
        (Xor, |a, b| a ^ b),
        (Min, i32::min),
        (Max, i32::max),
    ];
    for (op, expected) in signed {
        check(
            &format!("i32 {op:?}"),
            &random(1),
            |it, [a, b, _]| {
                let (a, b) = (bits(it, a, I32), bits(it, b, I32));
                let r = it.binary(op, a, b);
                bits(it, r, U32)
            },
            |[a, b, _]| expected(a as i32, b as i32) as u32,
        );
    }
    let unsigned: Vec<(BinaryOp, fn(u32, u32) -> u32)> = vec![
        (Add, u32::wrapping_add),
        (Sub, u32::wrapping_sub),
        (Mul, u32::wrapping_mul),
        (Div, |a, b| a / b),
        (Rem, |a, b| a % b),
        (Min, u32::min),
        (Max, u32::max),
    ];
    for (op, expected) in unsigned {
        check(
            &format!("u32 {op:?}"),
            &random(2),
            |it, [a, b, _]| it.binary(op, a, b),
            |[a, b, _]| expected(a, b),
        );
    }
    for signed in [false, true] {
        for op in [Shl, Shr] {
            check(
                &format!("{op:?} signed {signed}"),
                &random(3),
                |it, [a, b, _]| {
                    let mask = it.u32(31);
                    let amount = it.binary(And, b, mask);
                    let a = if signed { bits(it, a, I32) } else { a };
                    let r = it.binary(op, a, amount);
                    if signed { bits(it, r, U32) } else { r }
                },
                |[a, b, _]| match (op, signed) {
                    (Shl, _) => a << (b & 31),
                    (_, true) => ((a as i32) >> (b & 31)) as u32,
                    _ => a >> (b & 31),
                },
            );
        }
    }
    check(
        "neg",
        &random(4),
        |it, [a, ..]| {
            let a = bits(it, a, I32);
            let r = it.value(I32, Op::Unary(UnaryOp::Neg, a));
            bits(it, r, U32)
        },
        |[a, ..]| a.wrapping_neg(),
    );
    check(
        "not",
        &random(4),
        |it, [a, ..]| it.value(U32, Op::Unary(UnaryOp::Not, a)),
        |[a, ..]| !a,
    );
    check(
        "abs",
        &random(4),
        |it, [a, ..]| {
            let a = bits(it, a, I32);
            let r = it.value(I32, Op::Math(MathFn::Abs, vec![a]));
            bits(it, r, U32)
        },
        |[a, ..]| (a as i32).wrapping_abs() as u32,
    );
}

#[test]
fn wide_arithmetic() {
    use BinaryOp::*;
    let table: Vec<(BinaryOp, fn(u64, u64) -> u64)> = vec![
        (Add, u64::wrapping_add),
        (Sub, u64::wrapping_sub),
        (Mul, u64::wrapping_mul),
        (Div, |a, b| a / b),
        (Rem, |a, b| a % b),
        (And, |a, b| a & b),
        (Or, |a, b| a | b),
        (Xor, |a, b| a ^ b),
        (Min, u64::min),
        (Max, u64::max),
        (Shl, |a, b| a << (b & 63)),
        (Shr, |a, b| a >> (b & 63)),
    ];
    for (op, expected) in table {
        for high in [false, true] {
            check(
                &format!("u64 {op:?}"),
                &random(5),
                |it, [a, b, c]| {
                    let pair = it.value(Type::Vector(Scalar::U32, 2), Op::Vector(vec![a, b]));
                    let x = bits(it, pair, U64);
                    let r = if matches!(op, Shl | Shr) {
                        let mask = it.u32(63);
                        let amount = it.binary(And, c, mask);
                        it.binary(op, x, amount)
                    } else {
                        let y = it.convert(c, U64);
                        it.binary(op, x, y)
                    };
                    let words = bits(it, r, Type::Vector(Scalar::U32, 2));
                    it.value(U32, Op::Component(words, u8::from(high)))
                },
                |[a, b, c]| {
                    let r = expected(u64::from(a) | (u64::from(b) << 32), u64::from(c));
                    if high { (r >> 32) as u32 } else { r as u32 }
                },
            );
        }
    }
    check(
        "u64 to f32",
        &random(6),
        |it, [a, b, _]| {
            let pair = it.value(Type::Vector(Scalar::U32, 2), Op::Vector(vec![a, b]));
            let x = bits(it, pair, U64);
            let x = it.convert(x, F32);
            bits(it, x, U32)
        },
        |[a, b, _]| ((u64::from(a) | (u64::from(b) << 32)) as f32).to_bits(),
    );
    check(
        "i32 to u64 and not",
        &random(7),
        |it, [a, ..]| {
            let a = bits(it, a, I32);
            let x = it.convert(a, U64);
            let x = it.value(U64, Op::Unary(UnaryOp::Not, x));
            let words = bits(it, x, Type::Vector(Scalar::U32, 2));
            it.value(U32, Op::Component(words, 1))
        },
        |[a, ..]| !(((a as i32) >> 31) as u32),
    );
}

#[test]
fn comparisons_and_selection() {
    use CompareOp::*;
    for op in [Eq, Ne, Lt, Le, Gt, Ge] {
        fn holds<T: PartialOrd>(op: CompareOp, a: T, b: T) -> bool {
            match op {
                Eq => a == b,
                Ne => a != b,
                Lt => a < b,
                Le => a <= b,
                Gt => a > b,
                Ge => a >= b,
            }
        }
        let mut inputs = random(8);
        for row in inputs.iter_mut().step_by(3) {
            row[1] = row[0];
        }
        check(
            &format!("u32 {op:?}"),
            &inputs,
            |it, [a, b, c]| {
                let t = it.compare(op, a, b);
                it.value(
                    U32,
                    Op::Select {
                        condition: t,
                        yes: c,
                        no: b,
                    },
                )
            },
            |[a, b, c]| if holds(op, a, b) { c } else { b },
        );
        check(
            &format!("i32 {op:?}"),
            &inputs,
            |it, [a, b, _]| {
                let (a, b) = (bits(it, a, I32), bits(it, b, I32));
                let t = it.compare(op, a, b);
                it.convert(t, U32)
            },
            |[a, b, _]| u32::from(holds(op, a as i32, b as i32)),
        );
        let mut inputs = floats(9);
        for row in inputs.iter_mut().step_by(3) {
            row[1] = row[0];
        }
        inputs[5][0] = f32::NAN.to_bits();
        check(
            &format!("f32 {op:?}"),
            &inputs,
            |it, [a, b, _]| {
                let (a, b) = (bits(it, a, F32), bits(it, b, F32));
                let t = it.compare(op, a, b);
                let t = it.value(BOOL, Op::Unary(UnaryOp::Not, t));
                it.convert(t, U32)
            },
            |[a, b, _]| u32::from(!holds(op, f(a), f(b))),
        );
        check(
            &format!("u64 {op:?}"),
            &random(10),
            |it, [a, b, _]| {
                let (x, y) = (it.convert(a, U64), it.convert(b, U64));
                let t = it.compare(op, x, y);
                it.convert(t, U32)
            },
            |[a, b, _]| u32::from(holds(op, a, b)),
        );
        check(
            &format!("f16 {op:?}"),
            &inputs,
            |it, [a, b, _]| {
                let (a, b) = (bits(it, a, F32), bits(it, b, F32));
                let (a, b) = (it.convert(a, F16), it.convert(b, F16));
                let t = it.compare(op, a, b);
                it.convert(t, U32)
            },
            |[a, b, _]| u32::from(holds(op, f16::from_f32(f(a)), f16::from_f32(f(b)))),
        );
    }
}

#[test]
fn float_arithmetic() {
    use BinaryOp::*;
    let table: Vec<(BinaryOp, fn(f32, f32) -> f32)> = vec![
        (Add, |a, b| a + b),
        (Sub, |a, b| a - b),
        (Mul, |a, b| a * b),
        (Div, |a, b| a / b),
        (Rem, |a, b| a % b),
        (Min, f32::min),
        (Max, f32::max),
        (AddUnfused, |a, b| a + b),
        (SubUnfused, |a, b| a - b),
        (MulUnfused, |a, b| a * b),
    ];
    for (op, expected) in &table {
        check(
            &format!("f32 {op:?}"),
            &floats(11),
            |it, [a, b, _]| {
                let (a, b) = (bits(it, a, F32), bits(it, b, F32));
                let r = it.binary(*op, a, b);
                bits(it, r, U32)
            },
            |[a, b, _]| expected(f(a), f(b)).to_bits(),
        );
        if *op == Rem {
            continue;
        }
        check(
            &format!("f16 {op:?}"),
            &floats(12),
            |it, [a, b, _]| {
                let (a, b) = (bits(it, a, F32), bits(it, b, F32));
                let (a, b) = (it.convert(a, F16), it.convert(b, F16));
                let r = it.binary(*op, a, b);
                let r = it.convert(r, F32);
                bits(it, r, U32)
            },
            |[a, b, _]| {
                f16::from_f32(expected(f16::from_f32(f(a)).to_f32(), f16::from_f32(f(b)).to_f32()))
                    .to_f32()
                    .to_bits()
            },
        );
        // pairs of halves, element-wise
        let pair = Type::Vector(Scalar::F16, 2);
        let clean = |word: u32| word & 0x3bff_3bff | 0x0400_0400;
        check(
            &format!("f16 pair {op:?}"),
            &random(13),
            |it, [a, b, _]| {
                let (mask, low) = (it.u32(0x3bff_3bff), it.u32(0x0400_0400));
                let [a, b] = [a, b].map(|x| {
                    let x = it.binary(And, x, mask);
                    let x = it.binary(Or, x, low);
                    bits(it, x, pair)
                });
                let r = it.binary(*op, a, b);
                bits(it, r, U32)
            },
            |[a, b, _]| {
                let part = |shift: u32| {
                    let half = |w: u32| f16::from_bits((clean(w) >> shift) as u16).to_f32();
                    u32::from(f16::from_f32(expected(half(a), half(b))).to_bits()) << shift
                };
                part(0) | part(16)
            },
        );
    }
    check(
        "f32 fma",
        &floats(14),
        |it, [a, b, c]| {
            let [a, b, c] = [a, b, c].map(|x| bits(it, x, F32));
            let r = it.fma(a, b, c);
            bits(it, r, U32)
        },
        |[a, b, c]| f(a).mul_add(f(b), f(c)).to_bits(),
    );
    check(
        "f16 fma",
        &floats(15),
        |it, [a, b, c]| {
            let [a, b, c] = [a, b, c].map(|x| {
                let x = bits(it, x, F32);
                it.convert(x, F16)
            });
            let r = it.fma(a, b, c);
            let r = it.convert(r, F32);
            bits(it, r, U32)
        },
        |[a, b, c]| {
            let [a, b, c] = [a, b, c].map(|x| f16::from_f32(f(x)).to_f64());
            f16::from_f64(a * b + c).to_f32().to_bits()
        },
    );
    check(
        "f32 neg",
        &floats(16),
        |it, [a, ..]| {
            let a = bits(it, a, F32);
            let r = it.value(F32, Op::Unary(UnaryOp::Neg, a));
            bits(it, r, U32)
        },
        |[a, ..]| (-f(a)).to_bits(),
    );
}

#[test]
fn mathematical_functions() {
    let table: Vec<(MathFn, fn(f64) -> f64, f64)> = vec![
        (MathFn::Abs, f64::abs, 0.0),
        (MathFn::Sqrt, |x| x.abs().sqrt(), 0.51),
        (MathFn::Rsqrt, |x| 1.0 / x.abs().sqrt(), 2.0),
        (MathFn::Exp2, f64::exp2, 2.0),
        (MathFn::Log2, |x| x.abs().log2(), 2.0),
        (MathFn::Sin, f64::sin, 2.0),
        (MathFn::Cos, f64::cos, 2.0),
        (MathFn::Tanh, f64::tanh, 4.0),
        (MathFn::Round, f64::round_ties_even, 0.0),
        (MathFn::Floor, f64::floor, 0.0),
    ];
    for (function, expected, ulps) in table {
        let positive = matches!(function, MathFn::Sqrt | MathFn::Rsqrt | MathFn::Log2);
        check_with(
            &format!("{function:?}"),
            &floats(17),
            |it, [a, ..]| {
                let mut a = bits(it, a, F32);
                if positive {
                    a = it.value(F32, Op::Math(MathFn::Abs, vec![a]));
                }
                let r = it.value(F32, Op::Math(function, vec![a]));
                bits(it, r, U32)
            },
            |word, [a, ..]| {
                let (found, expected) = (f64::from(f(word)), expected(f64::from(f(a))));
                let ulp = f64::from(f32::EPSILON) * expected.abs().max(1e-30);
                assert!(
                    (found - expected).abs() <= ulps * ulp,
                    "{function:?} of {}: {found} not {expected}",
                    f(a)
                );
            },
        );
    }
}

#[test]
fn conversions() {
    let special = || {
        let mut inputs = random(18);
        for (row, x) in inputs.iter_mut().zip([
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            3e9,
            -3e9,
            5e9,
            -1.5,
            2.5,
            65519.0,
            65520.0,
            1e-7,
        ]) {
            row[0] = x.to_bits();
        }
        inputs
    };
    check(
        "f32 to i32",
        &special(),
        |it, [a, ..]| {
            let a = bits(it, a, F32);
            let r = it.convert(a, I32);
            bits(it, r, U32)
        },
        |[a, ..]| f(a) as i32 as u32,
    );
    check(
        "f32 to u32",
        &special(),
        |it, [a, ..]| {
            let a = bits(it, a, F32);
            it.convert(a, U32)
        },
        |[a, ..]| f(a) as u32,
    );
    check(
        "f32 to u64",
        &special(),
        |it, [a, ..]| {
            let a = bits(it, a, F32);
            let r = it.convert(a, U64);
            let w = bits(it, r, Type::Vector(Scalar::U32, 2));
            it.value(U32, Op::Component(w, 1))
        },
        |[a, ..]| ((f(a) as u64) >> 32) as u32,
    );
    check(
        "i32 to f32",
        &random(19),
        |it, [a, ..]| {
            let a = bits(it, a, I32);
            let r = it.convert(a, F32);
            bits(it, r, U32)
        },
        |[a, ..]| (a as i32 as f32).to_bits(),
    );
    check(
        "u32 to f32",
        &random(19),
        |it, [a, ..]| {
            let r = it.convert(a, F32);
            bits(it, r, U32)
        },
        |[a, ..]| (a as f32).to_bits(),
    );
    check(
        "u32 to f16",
        &random(20),
        |it, [a, ..]| {
            let m = it.u32(0x1ffff);
            let a = it.binary(BinaryOp::And, a, m);
            let r = it.convert(a, F16);
            let r = it.convert(r, F32);
            bits(it, r, U32)
        },
        |[a, ..]| f16::from_f32((a & 0x1ffff) as f32).to_f32().to_bits(),
    );
    check(
        "u32 to bool",
        &random(21),
        |it, [a, ..]| {
            let m = it.u32(1);
            let a = it.binary(BinaryOp::And, a, m);
            let r = it.convert(a, BOOL);
            let r = it.convert(r, F32);
            bits(it, r, U32)
        },
        |[a, ..]| ((a & 1) as f32).to_bits(),
    );
    for (bytes, lanes) in [(1u32, 4u8), (2, 2)] {
        for signed in [false, true] {
            let scalar = match (bytes, signed) {
                (1, false) => Scalar::U8,
                (1, true) => Scalar::I8,
                (_, false) => Scalar::U16,
                _ => Scalar::I16,
            };
            check(
                &format!("{scalar} vector"),
                &random(22),
                |it, [a, ..]| {
                    let v = bits(it, a, Type::Vector(scalar, lanes));
                    let c = it.value(Type::Scalar(scalar).widened(), Op::Component(v, lanes - 1));
                    if signed { bits(it, c, U32) } else { c }
                },
                |[a, ..]| match (bytes, signed) {
                    (1, false) => a >> 24,
                    (1, true) => ((a as i32) >> 24) as u32,
                    (_, false) => a >> 16,
                    _ => ((a as i32) >> 16) as u32,
                },
            );
            check(
                &format!("{scalar} vector there and back"),
                &random(23),
                |it, [a, ..]| {
                    let v = bits(it, a, Type::Vector(scalar, lanes));
                    bits(it, v, U32)
                },
                |[a, ..]| a,
            );
        }
    }
}

#[test]
fn bytes_and_tables() {
    for signed in [false, true] {
        check(
            "dot4",
            &random(24),
            |it, [a, b, c]| {
                let c = bits(it, c, I32);
                let r = it.value(
                    I32,
                    Op::Dot4 {
                        a,
                        a_signed: signed,
                        b,
                        accumulator: c,
                    },
                );
                bits(it, r, U32)
            },
            |[a, b, c]| {
                (0..4).fold(c as i32, |sum, i| {
                    let (x, y) = (a.to_le_bytes()[i], b.to_le_bytes()[i] as i8);
                    sum.wrapping_add(if signed { i32::from(x as i8) } else { i32::from(x) } * i32::from(y))
                }) as u32
            },
        );
    }
    check(
        "byte permute",
        &random(25),
        |it, [a, b, c]| {
            let mask = it.u32(0x7777);
            let s = it.binary(BinaryOp::And, c, mask);
            it.value(
                U32,
                Op::BytePermute {
                    low: a,
                    high: b,
                    selector: s,
                },
            )
        },
        |[a, b, c]| {
            let all = [a.to_le_bytes(), b.to_le_bytes()].concat();
            u32::from_le_bytes(std::array::from_fn(|i| all[(c >> (4 * i)) as usize & 7]))
        },
    );
    let entries: Vec<f32> = (0..8).map(|i| 0.125 + i as f32 * 1.75).collect();
    check(
        "lookup",
        &random(26),
        |it, [a, ..]| {
            it.body.tables.push(Table {
                name: "levels".into(),
                entries: entries.iter().map(|x| Literal::F32(*x)).collect(),
            });
            let seven = it.u32(7);
            let i = it.binary(BinaryOp::And, a, seven);
            let r = it.value(
                F32,
                Op::Lookup {
                    table: TableId(0),
                    index: i,
                },
            );
            bits(it, r, U32)
        },
        |[a, ..]| entries[a as usize & 7].to_bits(),
    );
}

#[test]
fn warps_exchange() {
    let inputs = floats(27);
    let words: Vec<u32> = inputs.iter().map(|row| row[0]).collect();
    let picks: Vec<u32> = random(28).iter().map(|row| row[1]).collect();
    let inputs: Vec<[u32; 3]> = words
        .iter()
        .zip(&picks)
        .enumerate()
        .map(|(lane, (w, p))| [*w, *p, lane as u32])
        .collect();
    type Pick = fn(usize, u32) -> usize;
    let table: Vec<(ShuffleKind, Pick)> = vec![
        (ShuffleKind::Xor(5), |lane, _| lane ^ 5),
        (ShuffleKind::Up(3), |lane, _| if lane >= 3 { lane - 3 } else { lane }),
        (
            ShuffleKind::Down(7),
            |lane, _| {
                if lane + 7 < 32 { lane + 7 } else { lane }
            },
        ),
        (ShuffleKind::Lane(ValueId(0)), |_, p| p as usize % 32),
    ];
    for (kind, pick) in table {
        check(
            &format!("{kind:?}"),
            &inputs,
            |it, [a, b, _]| {
                let kind = if let ShuffleKind::Lane(_) = kind {
                    ShuffleKind::Lane(b)
                } else {
                    kind
                };
                it.value(U32, Op::Shuffle { kind, value: a })
            },
            |[_, p, lane]| words[lane as usize / 32 * 32 + pick(lane as usize % 32, p)],
        );
    }
    for width in [2u32, 4, 8, 16, 32] {
        for op in [ReduceOp::Sum, ReduceOp::Min, ReduceOp::Max] {
            check(
                &format!("{op:?} over {width}"),
                &inputs,
                |it, [a, ..]| {
                    let a = bits(it, a, F32);
                    let r = it.value(F32, Op::WarpReduce { op, value: a, width });
                    bits(it, r, U32)
                },
                |[_, _, lane]| {
                    let mut all: Vec<f32> = words.iter().map(|w| f(*w)).collect();
                    let mut distance = 1;
                    while distance < width as usize {
                        all = (0..N)
                            .map(|l| {
                                let (a, b) = (all[l], all[l ^ distance]);
                                match op {
                                    ReduceOp::Sum => a + b,
                                    ReduceOp::Min => a.min(b),
                                    ReduceOp::Max => a.max(b),
                                }
                            })
                            .collect();
                        distance *= 2;
                    }
                    all[lane as usize].to_bits()
                },
            );
            check(
                &format!("i32 {op:?} over {width}"),
                &inputs,
                |it, [_, b, _]| {
                    let b = bits(it, b, I32);
                    let r = it.value(I32, Op::WarpReduce { op, value: b, width });
                    bits(it, r, U32)
                },
                |[_, _, lane]| {
                    let first = lane as usize / width as usize * width as usize;
                    let group = picks[first..first + width as usize].iter().map(|p| *p as i32);
                    (match op {
                        ReduceOp::Sum => group.fold(0, i32::wrapping_add),
                        ReduceOp::Min => group.min().unwrap(),
                        ReduceOp::Max => group.max().unwrap(),
                    }) as u32
                },
            );
        }
    }
    check(
        "ballot",
        &inputs,
        |it, [_, b, _]| {
            let one = it.u32(1);
            let odd = it.binary(BinaryOp::And, b, one);
            let odd = it.convert(odd, BOOL);
            it.value(U32, Op::Ballot(odd))
        },
        |[_, _, lane]| (0..32).fold(0, |w, l| w | ((picks[lane as usize / 32 * 32 + l] & 1) << l)),
    );
}

#[test]
fn typed_access_to_bytes() {
    // f16, bf16, i8, u16 and vectors at offsets of a byte buffer, there and back.
    let parameters = || {
        vec![
            memory("x", Scalar::U8, Access::Read),
            memory("out", Scalar::U8, Access::ReadWrite),
        ]
    };
    let types = [
        Type::Scalar(Scalar::I8),
        Type::Scalar(Scalar::U8),
        Type::Scalar(Scalar::I16),
        Type::Scalar(Scalar::U16),
        Type::Scalar(Scalar::F16),
        Type::Scalar(Scalar::BF16),
        Type::Scalar(Scalar::F32),
        Type::Scalar(Scalar::U64),
        Type::Vector(Scalar::U8, 4),
        Type::Vector(Scalar::I8, 8),
        Type::Vector(Scalar::F16, 2),
        Type::Vector(Scalar::F16, 8),
        Type::Vector(Scalar::BF16, 4),
        Type::Vector(Scalar::F32, 4),
        Type::Vector(Scalar::U32, 2),
        Type::Vector(Scalar::U64, 2),
    ];
    for ty in types {
        for wide in [false, true] {
            let recorded = kernel(64, parameters(), |it| {
                let t = it.thread();
                let size = it.u32(ty.bytes() as u32);
                let mut i = it.binary(BinaryOp::Mul, t, size);
                if wide {
                    i = it.convert(i, U64);
                }
                let v = it.load(X, i, ty);
                // through shared memory of another element type
                let tile = it.shared("tile", Scalar::U8, 64 * ty.bytes());
                it.store(tile, i, ty, v);
                it.stmt(StmtKind::Barrier);
                let v = it.load(tile, i, ty);
                it.store(OUT, i, ty, v);
            });
            let mut rng = StdRng::seed_from_u64(29);
            // No NaN patterns: those may be made quiet.
            let input: Vec<u8> = (0..64 * ty.bytes()).map(|_| rng.random_range(1..=0x3f)).collect();
            let bench = run_both(recorded, 1, || {
                vec![Data::Bytes(input.clone()), Data::Fresh(input.len())]
            });
            assert_eq!(bench.bytes(1), input, "{ty}");
        }
    }
    let recorded = kernel(32, parameters(), |it| {
        let t = it.thread();
        let (four, six) = (it.u32(4), it.u32(6));
        let i = it.binary(BinaryOp::Mul, t, six);
        let v = it.load(X, i, Type::Scalar(Scalar::BF16));
        let o = it.binary(BinaryOp::Mul, t, four);
        it.store(OUT, o, F32, v);
    });
    let input: Vec<u8> = (0..32 * 6).map(|i| (i * 7 % 61 + 1) as u8).collect();
    let bench = run_both(recorded, 1, || vec![Data::Bytes(input.clone()), Data::Fresh(128)]);
    for (lane, found) in bench.floats(1).into_iter().enumerate() {
        assert_eq!(
            found,
            bf16::from_le_bytes([input[6 * lane], input[6 * lane + 1]]).to_f32()
        );
    }
}

#[test]
fn scalars_and_coordinates() {
    let parameters = vec![
        scalar("a", Scalar::U32),
        scalar("b", Scalar::I32),
        scalar("c", Scalar::U64),
        scalar("d", Scalar::F32),
        memory("out", Scalar::U32, Access::Write),
    ];
    let out = Memory::Parameter(4);
    let recorded = kernel(64, parameters, |it| {
        let i = it.global_thread(64);
        let eight = it.u32(8);
        let base = it.binary(BinaryOp::Mul, i, eight);
        let b = it.value(I32, Op::Parameter(1));
        let c = it.value(U64, Op::Parameter(2));
        let d = it.value(F32, Op::Parameter(3));
        let c = bits(it, c, Type::Vector(Scalar::U32, 2));
        let values = [
            it.value(U32, Op::Parameter(0)),
            bits(it, b, U32),
            it.value(U32, Op::Component(c, 1)),
            bits(it, d, U32),
            it.builtin(Builtin::Lane),
            it.builtin(Builtin::Warp),
            it.builtin(Builtin::GridSize(0)),
            it.builtin(Builtin::BlockIndex(0)),
        ];
        for (k, value) in values.into_iter().enumerate() {
            let k = it.u32(k as u32);
            let place = it.binary(BinaryOp::Add, base, k);
            it.store(out, place, U32, value);
        }
    });
    let bench = run_both(recorded, 3, || {
        vec![
            Data::Scalar(Given::U32(17)),
            Data::Scalar(Given::I32(-4)),
            Data::Scalar(Given::U64(5 << 33)),
            Data::Scalar(Given::F32(2.75)),
            Data::Fresh(3 * 64 * 32),
        ]
    });
    for (i, row) in bench.words(0).chunks(8).enumerate() {
        let lane = i as u32 % 64;
        assert_eq!(
            row,
            [
                17,
                -4i32 as u32,
                10,
                2.75f32.to_bits(),
                lane % 32,
                lane / 32,
                3,
                i as u32 / 64
            ]
        );
    }
}
