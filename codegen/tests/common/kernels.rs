//! Kernels that together use every operation and every statement.

use super::*;

/// The kernel of the style guide: a device function, constants, named and unnamed values.
pub fn rms_norm(target: &str) -> Kernel {
    let mut f = Build::new();
    let partial = f.shared("partial", Scalar::F32, 8, "one per warp");
    let value = f.param(F32, 0);
    let summed = f.eval(
        F32,
        Op::WarpReduce {
            op: ReduceOp::Sum,
            value,
            width: 32,
        },
    );
    f.name(summed, "in_warp");
    let lane = f.builtin(Builtin::Lane);
    let zero = f.u32(0);
    let first = f.cmp(CompareOp::Eq, lane, zero);
    f.if_else(
        first,
        |f| {
            let warp = f.builtin(Builtin::Warp);
            f.store(partial, warp, F32, summed);
        },
        |_| {},
    );
    f.stmt(StmtKind::Barrier);
    let none = f.f32(0.0);
    let total = f.variable("total", none);
    let bounds = [f.u32(0), f.u32(8), f.u32(1)];
    f.for_loop("warp", bounds, false, |f, warp| {
        let warp = f.read(warp);
        let part = f.load(partial, warp, F32);
        f.update(total, BinaryOp::Add, part);
    });
    let total = f.read(total);
    f.stmt(StmtKind::Return(Some(total)));
    let block_sum = Function {
        name: "block_sum_256".to_string(),
        doc: vec!["sum over the block; every thread returns the total".to_string()],
        parameters: vec![FunctionParameter {
            name: "value".to_string(),
            kind: FunctionParameterKind::Value(F32),
        }],
        result: Some(F32),
        body: f.finish(),
        at: Location::caller(),
    };

    let (x, w, y) = (Memory::Parameter(0), Memory::Parameter(1), Memory::Parameter(2));
    let mut b = Build::new();
    let row = b.builtin(Builtin::BlockIndex(0));
    b.name(row, "row");
    b.comment("sum of squares, one partial per thread");
    let zero = b.f32(0.0);
    let sum = b.variable("sum", zero);
    let strided = |b: &mut Build| {
        let start = b.builtin(Builtin::ThreadIndex);
        let end = b.param(U32, 3);
        let step = b.eval(U32, Op::Constant(ConstantId(0)));
        [start, end, step]
    };
    let at = |b: &mut Build, col: VariableId| {
        let cols = b.param(U32, 3);
        let start = b.mul(row, cols);
        let col = b.read(col);
        b.add(start, col)
    };
    let bounds = strided(&mut b);
    b.for_loop("col", bounds, false, |b, col| {
        let index = at(b, col);
        let loaded = b.load(x, index, F16);
        let v = b.convert(F32, loaded);
        b.name(v, "v");
        let square = b.mul(v, v);
        b.update(sum, BinaryOp::Add, square);
    });
    let partial = b.read(sum);
    let total = b.eval(
        F32,
        Op::Call {
            function: FunctionId(0),
            arguments: vec![Argument::Value(partial)],
        },
    );
    let cols = b.param(U32, 3);
    let cols = b.convert(F32, cols);
    let mean = b.bin(BinaryOp::Div, total, cols);
    let eps = b.param(F32, 4);
    let mean = b.add(mean, eps);
    let scale = b.math(MathFn::Rsqrt, &[mean]);
    b.name(scale, "scale");
    b.comment("normalize");
    let bounds = strided(&mut b);
    b.for_loop("col", bounds, false, |b, col| {
        let target_index = at(b, col);
        let index = at(b, col);
        let v = b.load(x, index, F16);
        let v = b.convert(F32, v);
        let v = b.mul(v, scale);
        let col = b.read(col);
        let weight = b.load(w, col, F32);
        let v = b.mul(v, weight);
        let v = b.convert(F16, v);
        b.store(y, target_index, F16, v);
    });
    let mut kernel = kernel(
        target,
        "rms_norm",
        "rms_norm_f16_t256",
        256,
        vec![
            memory("x", Scalar::F16, Access::Read, &["rows", "cols"]),
            memory("w", Scalar::F32, Access::Read, &["cols"]),
            memory("y", Scalar::F16, Access::Write, &["rows", "cols"]),
            scalar("cols", Scalar::U32),
            scalar("eps", Scalar::F32),
        ],
        b.finish(),
    );
    kernel.doc = vec!["one block per row: y = x / sqrt(mean(x^2) + eps) * w".to_string()];
    kernel.settings.insert(0, setting("element", "f16", true));
    kernel.constants.push(Constant {
        name: "threads".to_string(),
        value: Literal::U32(256),
    });
    kernel.functions.push(block_sum);
    kernel
}

/// A matrix product: shared-memory pipeline, fragments, unrolled loops, dependent launch.
pub fn matmul(target: &str, element: Scalar) -> Kernel {
    let chip = Target::named(target).unwrap();
    let fragment = chip.fragments.operand_registers();
    let (a, w, y) = (Memory::Parameter(0), Memory::Parameter(1), Memory::Parameter(2));
    let mut b = Build::new();
    let a_tile = b.shared("a_tile", element, 2 * 16 * 64, "2 stages of [16, 64] f16");
    let w_tile = b.shared(
        "w_tile",
        element,
        2 * 64 * 64,
        "2 stages of [64, 64] f16, 16-byte chunks swizzled by row",
    );
    b.stmt(StmtKind::TriggerDependents);
    b.stmt(StmtKind::WaitForPrerequisites);
    let depth = b.param(U32, 3);
    let lane = b.builtin(Builtin::Lane);
    b.name(lane, "lane");
    let acc = b.registers(
        "acc",
        Scalar::F32,
        &[4, 8],
        "4 tiles of 16x16 f32",
        Some(Literal::F32(0.0)),
    );
    let bounds = [b.u32(0), depth, b.u32(64)];
    b.for_loop("step", bounds, false, |b, step| {
        b.comment("bring the next stage in");
        let thread = b.builtin(Builtin::ThreadIndex);
        let eight = b.u32(8);
        let to = b.mul(thread, eight);
        let step = b.read(step);
        let thread = b.builtin(Builtin::ThreadIndex);
        let eight = b.u32(8);
        let offset = b.mul(thread, eight);
        let from = b.add(step, offset);
        for (tile, source) in [(a_tile, a), (w_tile, w)] {
            let eight_halves = Type::Vector(element, 8);
            b.stmt(StmtKind::AsyncCopy {
                to: Place {
                    memory: tile,
                    index: to,
                    access: eight_halves,
                },
                from: Place {
                    memory: source,
                    index: from,
                    access: eight_halves,
                },
            });
        }
        b.stmt(StmtKind::AsyncCommit);
        b.stmt(StmtKind::AsyncWait { pending: 1 });
        b.stmt(StmtKind::Barrier);
        let left = b.registers("left", Scalar::U32, &[fragment], "16x16, left operand", None);
        let right = b.registers("right", Scalar::U32, &[4, fragment], "16x64, right operands", None);
        let whole = |registers| RegisterRef {
            registers,
            index: vec![],
        };
        if chip.matrix_load {
            let sixteen = b.u32(16);
            let row = b.bin(BinaryOp::Rem, lane, sixteen);
            let sixty_four = b.u32(64);
            let index = b.mul(row, sixty_four);
            let place = |memory| Place {
                memory,
                index,
                access: Type::Vector(element, 8),
            };
            b.stmt(StmtKind::LoadMatrix {
                to: whole(left),
                from: place(a_tile),
                transposed: false,
            });
            b.unrolled("tile", 4, |b, tile| {
                b.stmt(StmtKind::LoadMatrix {
                    to: RegisterRef {
                        registers: right,
                        index: vec![tile],
                    },
                    from: place(w_tile),
                    transposed: true,
                });
            });
        } else {
            b.unrolled("register", fragment as u32, |b, r| {
                let two = b.u32(2);
                let index = b.mul(r, two);
                let pair = b.load(a_tile, index, U32);
                b.set_element(left, &[r], pair);
                b.unrolled("tile", 4, |b, tile| {
                    let eight = b.u32(64);
                    let index = b.mul(tile, eight);
                    let index = b.add(index, r);
                    let mask = b.u32(0xffff_fffe);
                    let even = b.bin(BinaryOp::And, index, mask);
                    let pair = b.load(w_tile, even, U32);
                    b.set_element(right, &[tile, r], pair);
                });
            });
        }
        b.unrolled("tile", 4, |b, tile| {
            b.stmt(StmtKind::Mma {
                accumulator: RegisterRef {
                    registers: acc,
                    index: vec![tile],
                },
                a: whole(left),
                b: RegisterRef {
                    registers: right,
                    index: vec![tile],
                },
                element,
                shape: MmaShape::Square,
            });
        });
        b.stmt(StmtKind::Barrier);
    });
    b.comment("write the tile");
    b.unrolled("tile", 4, |b, tile| {
        b.unrolled("element", 8, |b, e| {
            let eight = b.u32(8);
            let at = b.mul(tile, eight);
            let at = b.add(at, e);
            let thirty_two = b.u32(32);
            let at = b.mul(at, thirty_two);
            let at = b.add(at, lane);
            let v = b.element(acc, &[tile, e]);
            b.store(y, at, F32, v);
        });
    });
    kernel(
        target,
        "matmul",
        &format!("matmul_{element}"),
        32,
        vec![
            memory("a", element, Access::Read, &["rows", "depth"]),
            memory("w", element, Access::Read, &["cols", "depth"]),
            memory("y", Scalar::F32, Access::Write, &["rows", "cols"]),
            scalar("depth", Scalar::U32),
        ],
        b.finish(),
    )
}

/// Every operation once: scalars, vectors, memory of every type, mathematics, warps, control flow.
pub fn everything(target: &str) -> Kernel {
    let mut b = Build::new();
    let (floats, halves, bytes, words, brains, out) = (
        Memory::Parameter(0),
        Memory::Parameter(1),
        Memory::Parameter(2),
        Memory::Parameter(3),
        Memory::Parameter(4),
        Memory::Parameter(5),
    );
    let thread = b.builtin(Builtin::ThreadIndex);
    b.name(thread, "i");
    let zero = b.f32(0.0);
    let sum = b.variable("sum", zero);
    let int_zero = b.i32(0);
    let ints = b.variable("ints", int_zero);
    let bits_zero = b.u32(0);
    let bits = b.variable("bits", bits_zero);
    let centroids = b.table(
        "centroids",
        vec![
            Literal::F32(-1.5),
            Literal::F32(0.1),
            Literal::F32(f32::INFINITY),
            Literal::F32(2.0),
        ],
    );
    let small = b.table(
        "half_steps",
        vec![
            Literal::F16(half::f16::from_f32(0.5)),
            Literal::F16(half::f16::from_f32(1.25)),
        ],
    );

    b.comment("every mathematical function\nof f32");
    let x = b.load(floats, thread, F32);
    b.name(x, "x");
    for function in [
        MathFn::Abs,
        MathFn::Sqrt,
        MathFn::Rsqrt,
        MathFn::Exp2,
        MathFn::Log2,
        MathFn::Sin,
        MathFn::Cos,
        MathFn::Tanh,
        MathFn::Round,
        MathFn::Floor,
    ] {
        let v = b.math(function, &[x]);
        b.update(sum, BinaryOp::Add, v);
    }
    let s = b.read(sum);
    let fused = b.math(MathFn::Fma, &[x, x, s]);
    b.assign(sum, fused);
    for op in [
        BinaryOp::Min,
        BinaryOp::Max,
        BinaryOp::AddUnfused,
        BinaryOp::SubUnfused,
        BinaryOp::MulUnfused,
        BinaryOp::Div,
        BinaryOp::Rem,
    ] {
        b.update(sum, op, x);
    }
    let inf = b.f32(f32::NEG_INFINITY);
    b.update(sum, BinaryOp::Max, inf);
    let nan = b.f32(f32::NAN);
    let is_nan = b.cmp(CompareOp::Ne, x, x);
    let chosen = b.eval(
        F32,
        Op::Select {
            condition: is_nan,
            yes: nan,
            no: x,
        },
    );
    b.update(sum, BinaryOp::Sub, chosen);
    let negative = b.eval(F32, Op::Unary(UnaryOp::Neg, x));
    let minus_one = b.f32(-1.0);
    let less = b.add(negative, minus_one);
    b.update(sum, BinaryOp::Mul, less);

    b.comment("integers");
    let int = b.convert(I32, x);
    b.name(int, "whole");
    let magnitude = b.math(MathFn::Abs, &[int]);
    b.update(ints, BinaryOp::Add, magnitude);
    for op in [
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::And,
        BinaryOp::Or,
        BinaryOp::Xor,
        BinaryOp::Min,
        BinaryOp::Max,
        BinaryOp::Div,
        BinaryOp::Rem,
    ] {
        b.update(ints, op, int);
    }
    let least = b.i32(i32::MIN);
    b.update(ints, BinaryOp::Max, least);
    let one = b.i32(1);
    b.update(ints, BinaryOp::Add, one);
    let four = b.u32(4);
    b.update(ints, BinaryOp::Shr, four);
    let unsigned = b.convert(U32, x);
    b.name(unsigned, "unsigned");
    for op in [BinaryOp::And, BinaryOp::Or, BinaryOp::Xor] {
        let mask = b.u32(0x0f0f_0f0f);
        b.update(bits, op, mask);
    }
    let shift = b.builtin(Builtin::Lane);
    let bit = b.u32(1);
    let bit = b.bin(BinaryOp::Shl, bit, shift);
    let inverse = b.eval(U32, Op::Unary(UnaryOp::Not, bit));
    b.update(bits, BinaryOp::And, inverse);
    let old = b.read(bits);
    let five = b.u32(5);
    let shifted = b.bin(BinaryOp::Shr, old, five);
    let old = b.read(bits);
    let seven = b.u32(7);
    let other = b.bin(BinaryOp::Shl, old, seven);
    let rotated = b.bin(BinaryOp::Or, shifted, other);
    let mixed = b.bin(BinaryOp::And, rotated, unsigned);
    b.assign(bits, mixed);
    let big = b.eval(U64, Op::Literal(Literal::U64(1 << 40)));
    let long = b.convert(U64, x);
    let long = b.bin(BinaryOp::Add, long, big);
    b.name(long, "long");
    let short = b.convert(U32, long);
    b.update(bits, BinaryOp::Add, short);
    let max = b.u32(u32::MAX);
    b.update(bits, BinaryOp::Min, max);

    b.comment("conversions and bits");
    let h = b.load(halves, thread, F16);
    b.name(h, "h");
    let h_plus = b.add(h, h);
    let h_times = b.mul(h_plus, h);
    let h_minus = b.bin(BinaryOp::Sub, h_times, h);
    let h_div = b.bin(BinaryOp::Div, h_minus, h);
    let h_max = b.bin(BinaryOp::Max, h_div, h);
    let lit = b.eval(F16, Op::Literal(Literal::F16(half::f16::from_f32(0.1))));
    let h_min = b.bin(BinaryOp::Min, h_max, lit);
    let h_neg = b.eval(F16, Op::Unary(UnaryOp::Neg, h_min));
    b.store(out, thread, F16, h_neg);
    let h_int = b.convert(I32, h);
    b.update(ints, BinaryOp::Add, h_int);
    let from_int = b.convert(F16, h_int);
    let h_less = b.cmp(CompareOp::Lt, h, from_int);
    let as_float = b.convert(F32, h_less);
    b.update(sum, BinaryOp::Add, as_float);
    let raw = b.eval(U32, Op::Bitcast(x));
    b.update(bits, BinaryOp::Xor, raw);
    let back = b.eval(F32, Op::Bitcast(unsigned));
    b.update(sum, BinaryOp::Add, back);
    let raw = b.eval(I32, Op::Bitcast(x));
    b.update(ints, BinaryOp::Add, raw);
    let raw = b.read(ints);
    let raw = b.eval(U32, Op::Bitcast(raw));
    b.update(bits, BinaryOp::Add, raw);
    let bool_cast = b.convert(BOOL, unsigned);
    let bool_cast2 = b.convert(BOOL, int);
    let both = b.bin(BinaryOp::And, bool_cast, bool_cast2);
    let either = b.bin(BinaryOp::Or, both, bool_cast);
    let differ = b.bin(BinaryOp::Xor, either, h_less);
    let not = b.eval(BOOL, Op::Unary(UnaryOp::Not, differ));
    b.if_else(not, |b| b.stmt(StmtKind::Return(None)), |_| {});

    b.comment("vectors");
    let pair_type = Type::Vector(Scalar::F16, 2);
    let pair = b.load(halves, thread, pair_type);
    b.name(pair, "pair");
    let p = b.add(pair, pair);
    let p = b.mul(p, pair);
    let p = b.bin(BinaryOp::Sub, p, pair);
    let p = b.bin(BinaryOp::Div, p, pair);
    let p = b.bin(BinaryOp::Min, p, pair);
    let p = b.bin(BinaryOp::Max, p, pair);
    let p = b.math(MathFn::Fma, &[p, pair, pair]);
    let p = b.eval(pair_type, Op::Unary(UnaryOp::Neg, p));
    let p_bits = b.eval(U32, Op::Bitcast(p));
    b.update(bits, BinaryOp::Add, p_bits);
    let p = b.eval(pair_type, Op::Bitcast(unsigned));
    let wide = b.convert(Type::Vector(Scalar::F32, 2), p);
    let narrow = b.convert(pair_type, wide);
    b.store(out, thread, pair_type, narrow);
    for (memory, scalar, lanes) in [
        (floats, Scalar::F32, 2),
        (floats, Scalar::F32, 4),
        (bytes, Scalar::U32, 2),
        (bytes, Scalar::U32, 4),
        (bytes, Scalar::I32, 2),
        (bytes, Scalar::I32, 4),
        (bytes, Scalar::U64, 2),
        (bytes, Scalar::U8, 2),
        (bytes, Scalar::U8, 4),
        (bytes, Scalar::U8, 8),
        (bytes, Scalar::I8, 2),
        (bytes, Scalar::I8, 4),
        (bytes, Scalar::I8, 8),
        (bytes, Scalar::U16, 2),
        (bytes, Scalar::U16, 4),
        (bytes, Scalar::U16, 8),
        (bytes, Scalar::I16, 2),
        (bytes, Scalar::I16, 4),
        (bytes, Scalar::I16, 8),
        (halves, Scalar::F16, 4),
        (halves, Scalar::F16, 8),
        (brains, Scalar::BF16, 2),
        (brains, Scalar::BF16, 4),
        (brains, Scalar::BF16, 8),
    ] {
        let ty = Type::Vector(scalar, lanes);
        let part_type = Type::Scalar(scalar).widened();
        let v = b.load(memory, thread, ty);
        b.name(v, &format!("{scalar}x{lanes}"));
        let parts: Vec<ValueId> = (0..lanes)
            .rev()
            .map(|i| b.eval(part_type, Op::Component(v, i)))
            .collect();
        let reversed = b.eval(ty, Op::Vector(parts));
        b.store(out, thread, ty, reversed);
    }

    b.comment("memory of small types");
    for (memory, scalar) in [
        (bytes, Scalar::U8),
        (bytes, Scalar::I8),
        (bytes, Scalar::U16),
        (words, Scalar::I16),
        (brains, Scalar::BF16),
        (bytes, Scalar::BF16),
        (bytes, Scalar::F16),
        (bytes, Scalar::Bool),
        (bytes, Scalar::F32),
        (bytes, Scalar::U64),
    ] {
        let v = b.load(memory, thread, scalar.into());
        b.store(out, thread, scalar.into(), v);
    }
    let scale = b.load(bytes, thread, Scalar::U8.into());
    let n = b.load(words, thread, Scalar::I16.into());
    let n = b.convert(U32, n);
    let product = b.mul(scale, n);
    b.update(bits, BinaryOp::Add, product);

    b.comment("warps and bytes");
    let v = b.read(sum);
    for kind in [
        ShuffleKind::Xor(4),
        ShuffleKind::Xor(16),
        ShuffleKind::Up(3),
        ShuffleKind::Down(5),
        ShuffleKind::Lane(thread),
    ] {
        let v = b.eval(F32, Op::Shuffle { kind, value: v });
        b.update(sum, BinaryOp::Add, v);
    }
    for op in [ReduceOp::Sum, ReduceOp::Min, ReduceOp::Max] {
        for (variable, ty) in [(sum, F32), (ints, I32), (bits, U32)] {
            for width in [4, 32] {
                let value = b.read(variable);
                let v = b.eval(ty, Op::WarpReduce { op, value, width });
                b.update(variable, BinaryOp::Add, v);
            }
        }
    }
    let positive = b.cmp(CompareOp::Ge, x, zero);
    let votes = b.eval(U32, Op::Ballot(positive));
    b.update(bits, BinaryOp::Or, votes);
    for a_signed in [true, false] {
        let (a, accumulator) = (b.read(bits), b.read(ints));
        let dot = b.eval(
            I32,
            Op::Dot4 {
                a,
                a_signed,
                b: unsigned,
                accumulator,
            },
        );
        b.assign(ints, dot);
    }
    let selector = b.u32(0x3120);
    let low = b.read(bits);
    let permuted = b.eval(
        U32,
        Op::BytePermute {
            low,
            high: unsigned,
            selector,
        },
    );
    b.assign(bits, permuted);
    let three = b.u32(3);
    let which = b.bin(BinaryOp::And, thread, three);
    let entry = b.eval(
        F32,
        Op::Lookup {
            table: centroids,
            index: which,
        },
    );
    b.update(sum, BinaryOp::Add, entry);
    let one = b.u32(1);
    let which = b.bin(BinaryOp::And, thread, one);
    let entry = b.eval(
        F16,
        Op::Lookup {
            table: small,
            index: which,
        },
    );
    let entry = b.convert(F32, entry);
    b.update(sum, BinaryOp::Add, entry);
    b.stmt(StmtKind::WarpBarrier);
    b.stmt(StmtKind::GroupBarrier { warps: 1 });

    b.comment("control flow");
    let size = b.builtin(Builtin::GridSize(0));
    let block_y = b.builtin(Builtin::BlockIndex(1));
    let z = b.builtin(Builtin::BlockIndex(2));
    let height = b.builtin(Builtin::GridSize(1));
    let layers = b.builtin(Builtin::GridSize(2));
    let place = b.mul(size, block_y);
    let place = b.add(place, z);
    let place = b.mul(place, height);
    let place = b.add(place, layers);
    b.update(bits, BinaryOp::Add, place);
    b.while_loop(
        |b| {
            let now = b.read(bits);
            let limit = b.u32(100);
            b.cmp(CompareOp::Gt, now, limit)
        },
        |b| {
            let one = b.u32(1);
            b.update(bits, BinaryOp::Shr, one);
            let now = b.read(bits);
            let stop = b.u32(77);
            let stops = b.cmp(CompareOp::Eq, now, stop);
            b.if_else(stops, |b| b.stmt(StmtKind::Break), |_| {});
        },
    );
    b.while_loop(
        |b| {
            let now = b.read(bits);
            let three = b.u32(3);
            let low = b.bin(BinaryOp::Rem, now, three);
            b.name(low, "low");
            let zero = b.u32(0);
            b.cmp(CompareOp::Ne, low, zero)
        },
        |b| {
            let one = b.u32(1);
            b.update(bits, BinaryOp::Sub, one);
            b.stmt(StmtKind::Continue);
        },
    );
    let uniform = b.eval(U32, Op::AssumeUniform(thread));
    let ten = b.u32(10);
    let low = b.cmp(CompareOp::Lt, uniform, ten);
    b.if_else(
        low,
        |b| {
            let v = b.f32(1.0);
            b.update(sum, BinaryOp::Add, v);
        },
        |b| {
            let twenty = b.u32(20);
            let middle = b.cmp(CompareOp::Le, thread, twenty);
            b.if_else(
                middle,
                |b| {
                    let v = b.f32(2.0);
                    b.update(sum, BinaryOp::Mul, v);
                },
                |b| {
                    let v = b.f32(1e-6);
                    b.update(sum, BinaryOp::Sub, v);
                    b.stmt(StmtKind::Call {
                        function: FunctionId(0),
                        arguments: vec![Argument::Memory(out), Argument::Value(thread)],
                    });
                },
            );
        },
    );
    let table = b.registers(
        "highest",
        Scalar::F32,
        &[2, 3],
        "",
        Some(Literal::F32(f32::NEG_INFINITY)),
    );
    let (one, two) = (b.u32(1), b.u32(2));
    let s = b.read(sum);
    b.set_element(table, &[one, two], s);
    let held = b.element(table, &[one, two]);
    let more = b.add(held, x);
    b.set_element(table, &[one, two], more);
    let held = b.element(table, &[one, two]);
    b.store(out, thread, F32, held);
    let v = b.read(ints);
    b.store(out, thread, I32, v);
    let v = b.read(bits);
    b.store(out, thread, U32, v);
    let v = b.read(sum);
    b.store(out, thread, F32, v);

    let mut f = Build::new();
    let index = f.param(U32, 1);
    let v = f.load(Memory::Parameter(0), index, Scalar::U8.into());
    let one = f.u32(1);
    let v = f.add(v, one);
    f.store(Memory::Parameter(0), index, Scalar::U8.into(), v);
    let mut kernel = kernel(
        target,
        "everything",
        "everything",
        64,
        vec![
            memory("floats", Scalar::F32, Access::Read, &["n"]),
            memory("halves", Scalar::F16, Access::Read, &["n"]),
            memory("bytes", Scalar::U8, Access::Read, &[]),
            memory("words", Scalar::I16, Access::Read, &[]),
            memory("brains", Scalar::BF16, Access::Read, &[]),
            memory("out", Scalar::U8, Access::ReadWrite, &["bytes"]),
        ],
        b.finish(),
    );
    kernel.functions.push(Function {
        name: "bump".to_string(),
        doc: vec!["adds one to a byte".to_string()],
        parameters: vec![
            FunctionParameter {
                name: "bytes".to_string(),
                kind: FunctionParameterKind::GlobalWrite(Scalar::U8),
            },
            FunctionParameter {
                name: "at".to_string(),
                kind: FunctionParameterKind::Value(U32),
            },
        ],
        result: None,
        body: f.finish(),
        at: Location::caller(),
    });
    kernel
}

/// Single matrix instructions of every element, and tiles that one thread copies where the target can.
pub fn instructions(target: &str) -> Kernel {
    let mut b = Build::new();
    let target_entry = Target::named(target).unwrap();
    let layout = target_entry.fragments;
    let (x, out) = (Memory::Parameter(0), Memory::Parameter(1));
    let tile = b.shared("tile", Scalar::U8, 2048, "[2, 1024]");
    let thread = b.builtin(Builtin::ThreadIndex);
    let zero = b.u32(0);
    let chunk = Type::Vector(Scalar::U32, 4);
    if target_entry.bulk_copy {
        let arrived = b.shared("arrived", Scalar::U64, 2, "");
        let Memory::Shared(barriers) = arrived else {
            unreachable!()
        };
        b.stmt(StmtKind::InitCopyBarriers { barriers });
        b.stmt(StmtKind::Barrier);
        let warp = b.builtin(Builtin::Warp);
        let bytes = b.u32(1024);
        let start = b.mul(warp, bytes);
        let place = |memory, index, access| Place { memory, index, access };
        let barrier = place(arrived, warp, Scalar::U64.into());
        b.stmt(StmtKind::BulkCopy {
            to: place(tile, start, chunk),
            from: place(x, start, chunk),
            bytes,
            barrier,
        });
        b.stmt(StmtKind::WaitForCopy { barrier, parity: zero });
    } else {
        let sixteen = b.u32(16);
        let start = b.mul(thread, sixteen);
        let place = |memory| Place {
            memory,
            index: start,
            access: chunk,
        };
        b.stmt(StmtKind::AsyncCopy {
            to: place(tile),
            from: place(x),
        });
        b.stmt(StmtKind::AsyncCommit);
        b.stmt(StmtKind::AsyncWait { pending: 0 });
        b.stmt(StmtKind::Barrier);
    }
    b.stmt(StmtKind::TriggerDependents);
    b.stmt(StmtKind::WaitForPrerequisites);
    for (number, (element, sum)) in [
        (Scalar::F16, Literal::F32(0.0)),
        (Scalar::BF16, Literal::F32(1.0)),
        (Scalar::I8, Literal::I32(0)),
        (Scalar::U8, Literal::I32(0x4b40_0000)),
    ]
    .into_iter()
    .enumerate()
    {
        let words = layout.words_per_row(element.bytes());
        let left = b.registers("left", Scalar::U32, &[layout.lane_rows() * words], "16 rows", None);
        let right = b.registers("right", Scalar::U32, &[words], "a column", None);
        let held = layout.column_accumulators();
        let sums = b.registers("sums", sum.scalar(), &[2, held], "two products", Some(sum));
        let sixteen = b.u32(16);
        let start = b.mul(thread, sixteen);
        let word = b.load(tile, start, U32);
        for (registers, count) in [(left, layout.lane_rows() * words), (right, words)] {
            b.unrolled("word", count as u32, |b, index| {
                let value = b.add(word, index);
                b.set_element(registers, &[index], value);
            });
        }
        let whole = |registers| RegisterRef {
            registers,
            index: vec![],
        };
        let one = b.u32(1);
        b.stmt(StmtKind::Mma {
            accumulator: RegisterRef {
                registers: sums,
                index: vec![one],
            },
            a: whole(left),
            b: whole(right),
            element,
            shape: MmaShape::Instruction,
        });
        let last = b.u32(held as u32 - 1);
        let sum = b.element(sums, &[one, last]);
        let sum = if sum_is_float(&b, sum) {
            sum
        } else {
            b.eval(F32, Op::Bitcast(sum))
        };
        let first = b.u32(64 * number as u32);
        let place = b.add(first, thread);
        b.store(out, place, F32, sum);
    }
    let parameters = vec![
        memory("x", Scalar::U8, Access::Read, &["bytes"]),
        memory("out", Scalar::F32, Access::Write, &["threads"]),
        memory("both", Scalar::F32, Access::ReadWrite, &["threads"]),
    ];
    let one = b.f32(1.0);
    b.store(Memory::Parameter(2), thread, F32, one);
    kernel(target, "instructions", "instructions", 64, parameters, b.finish())
}

fn sum_is_float(b: &Build, value: ValueId) -> bool {
    b.ty(value) == F32
}
