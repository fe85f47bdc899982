//! What generated text looks like, and that compilers take it.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::kernels::{everything, instructions, matmul, rms_norm};
use common::*;
use tilekiln_codegen::generate;
use tilekiln_dsl::ir::*;
use tilekiln_dsl::target::TARGETS;

fn examples(target: &str) -> Vec<Kernel> {
    vec![
        rms_norm(target),
        matmul(target, Scalar::F16),
        matmul(target, Scalar::BF16),
        everything(target),
        instructions(target),
        large_tiles(target),
    ]
}

/// As much shared memory as the target gives, more than it gives unasked where that differs.
fn large_tiles(target: &str) -> Kernel {
    let limit = tilekiln_dsl::target::Target::named(target).unwrap().shared_limit;
    let mut b = Build::new();
    let tile = b.shared("tile", Scalar::F32, 1024, "[32, 32] f32");
    let rest = b.shared("rest", Scalar::F16, limit / 2 - 2048, "");
    let unused = b.shared("unused", Scalar::F32, 1 << 20, "");
    let thread = b.builtin(Builtin::ThreadIndex);
    let v = b.load(Memory::Parameter(0), thread, F32);
    b.store(tile, thread, F32, v);
    let h = b.convert(F16, v);
    b.store(rest, thread, F16, h);
    b.stmt(StmtKind::Barrier);
    let one = b.u32(1);
    let other = b.bin(BinaryOp::Xor, thread, one);
    let a = b.load(tile, other, F32);
    let h = b.load(rest, other, F16);
    let h = b.convert(F32, h);
    let sum = b.add(a, h);
    b.store(Memory::Parameter(0), thread, F32, sum);
    let _ = b.load(unused, thread, F32);
    let parameters = vec![memory("x", Scalar::F32, Access::ReadWrite, &["n"])];
    kernel(target, "large_tiles", "large_tiles", 32, parameters, b.finish())
}

fn written(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(target);
    std::fs::create_dir_all(&folder).unwrap();
    let mut paths = Vec::new();
    for kernel in examples(target) {
        let file = generate(&kernel).unwrap_or_else(|e| panic!("{} for {target}: {e}", kernel.symbol));
        assert_eq!(file.text.lines().count(), file.lines.len(), "{}", kernel.symbol);
        let path = folder.join(&file.file_name);
        std::fs::write(&path, &file.text).unwrap();
        paths.push(path);
    }
    paths
}

#[test]
fn every_operation_has_a_spelling_on_every_target() {
    for target in TARGETS {
        written(target.name);
    }
}

#[test]
fn clang_takes_every_hip_file_without_a_warning() {
    let required = std::env::var("TILEKILN_REQUIRE").is_ok_and(|list| list.split(',').any(|x| x == "clang"));
    let compiler = "clang++-19";
    if Command::new(compiler).arg("--version").output().is_err() {
        assert!(!required, "{compiler} is not on PATH");
        eprintln!("skipped: {compiler} is not on PATH");
        return;
    }
    for path in written("gfx1150") {
        let flags =
            "-x hip --offload-arch=gfx1150 -nogpuinc -nogpulib --cuda-device-only -O3 -std=c++17 -Werror -fsyntax-only";
        let run = Command::new(compiler)
            .args(flags.split(' '))
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{}:\n{}",
            path.display(),
            String::from_utf8_lossy(&run.stderr)
        );
    }
}

#[test]
fn the_style_guides_kernel() {
    let file = generate(&rms_norm("sm_90")).unwrap();
    assert_eq!(file.file_name, "rms_norm_f16_t256.cu");
    let expected = r#"extern "C" __global__ void __launch_bounds__(256)
rms_norm_f16_t256(const __half* __restrict__ x,   // [rows, cols]
                  const float* __restrict__ w,    // [cols]
                  __half* __restrict__ y,         // [rows, cols]
                  unsigned cols,
                  float eps)
{
    const unsigned row = blockIdx.x;

    // sum of squares, one partial per thread
    float sum = 0.0f;
    for (unsigned col = threadIdx.x; col < cols; col += threads) {
        const float v = __half2float(x[row * cols + col]);
        sum += v * v;
    }
    const float scale = rsqrtf(block_sum_256(sum) / float(cols) + eps);

    // normalize
    for (unsigned col = threadIdx.x; col < cols; col += threads)
        y[row * cols + col] = __float2half(__half2float(x[row * cols + col]) * scale * w[col]);
}
"#;
    assert!(file.text.ends_with(expected), "{}", file.text);
    let at = file.text.lines().position(|l| l.contains("sum += v * v;")).unwrap();
    assert!(file.lines[at].unwrap().file.ends_with("kernels.rs"));
    assert_eq!(file.lines[0], None);
}

/// One case: statements, and the text between the kernel's braces.
fn check(expected: &str, statements: impl FnOnce(&mut Build)) {
    let mut b = Build::new();
    statements(&mut b);
    let parameters = vec![
        memory("x", Scalar::F32, Access::ReadWrite, &[]),
        memory("w", Scalar::F32, Access::Read, &[]),
        scalar("n", Scalar::U32),
        scalar("s", Scalar::I32),
    ];
    let file = generate(&kernel("sm_90", "example", "example", 32, parameters, b.finish())).unwrap();
    assert_eq!(body_text(&file.text).trim_end(), expected.trim(), "{}", file.text);
}

const X: Memory = Memory::Parameter(0);
const W: Memory = Memory::Parameter(1);

#[test]
fn values_move_only_over_what_they_do_not_read() {
    // A variable that is assigned between the value and its use.
    check(
        "unsigned a = n;\nconst unsigned previous_a = a;\n++a;\nx[previous_a] = 1.0f;\nx[a] = 2.0f;",
        |b| {
            let n = b.param(U32, 2);
            let a = b.variable("a", n);
            let before = b.read(a);
            let one = b.u32(1);
            b.update(a, BinaryOp::Add, one);
            let v = b.f32(1.0);
            b.store(X, before, F32, v);
            let after = b.read(a);
            let v = b.f32(2.0);
            b.store(X, after, F32, v);
        },
    );
    // A load before a store to the same memory stays before it; a load of other memory may move.
    check(
        "const float loaded_x = x[n];\nx[0] = 1.0f;\nx[1] = loaded_x + w[n];",
        |b| {
            let n = b.param(U32, 2);
            let a = b.load(X, n, F32);
            let c = b.load(W, n, F32);
            let (zero, one) = (b.u32(0), b.f32(1.0));
            b.store(X, zero, F32, one);
            let sum = b.add(a, c);
            let one = b.u32(1);
            b.store(X, one, F32, sum);
        },
    );
    // Loads stay on their side of a barrier: that is what a prefetch is.
    check(
        "const float loaded_w = w[n];\n__syncthreads();\nx[n] = loaded_w;",
        |b| {
            let n = b.param(U32, 2);
            let a = b.load(W, n, F32);
            b.stmt(StmtKind::Barrier);
            b.store(X, n, F32, a);
        },
    );
    // Work is not repeated in a loop, and a lane exchange does not enter a branch.
    check(
        "const unsigned product = n * n;\nconst float exchanged = __shfl_xor_sync(0xffffffff, w[n], 1);\nif (n < 9) {\n    for (unsigned i = 0; i < n; ++i)\n        x[i] = exchanged + float(product);\n}",
        |b| {
            let n = b.param(U32, 2);
            let product = b.mul(n, n);
            let v = b.load(W, n, F32);
            let v = b.eval(
                F32,
                Op::Shuffle {
                    kind: ShuffleKind::Xor(1),
                    value: v,
                },
            );
            let nine = b.u32(9);
            let small = b.cmp(CompareOp::Lt, n, nine);
            b.if_else(
                small,
                |b| {
                    let bounds = [b.u32(0), n, b.u32(1)];
                    b.for_loop("i", bounds, false, |b, i| {
                        let p = b.convert(F32, product);
                        let sum = b.add(v, p);
                        let i = b.read(i);
                        b.store(X, i, F32, sum);
                    });
                },
                |_| {},
            );
        },
    );
    // What nobody needs is not printed: a dead load, a variable that is only written.
    check("x[n] = 1.0f;", |b| {
        let n = b.param(U32, 2);
        let dead = b.load(W, n, F32);
        b.name(dead, "dead");
        let counter = b.variable("counter", n);
        let one = b.u32(1);
        b.update(counter, BinaryOp::Add, one);
        let v = b.f32(1.0);
        b.store(X, n, F32, v);
    });
}

#[test]
fn parentheses_where_needed() {
    use BinaryOp::*;
    for (first, second, left, right) in [
        (Add, Mul, "(n + 7) * 5", "5 * (n + 7)"),
        (Mul, Add, "n * 7 + 5", "5 + n * 7"),
        (Sub, Sub, "n - 7 - 5", "5 - (n - 7)"),
        (Add, Add, "n + 7 + 5", "5 + n + 7"),
        (Div, Mul, "n / 7 * 5", "5 * (n / 7)"),
        (Shr, And, "(n >> 7) & 5", "5 & (n >> 7)"),
        (And, Or, "(n & 7) | 5", "5 | (n & 7)"),
        (Or, Or, "n | 7 | 5", "5 | n | 7"),
        (Add, Shl, "(n + 7) << 5", "5u << (n + 7)"),
        (And, Add, "(n & 7) + 5", "5 + (n & 7)"),
        (Min, Add, "min(n, 7u) + 5", "5 + min(n, 7u)"),
    ] {
        for (swapped, expected) in [(false, left), (true, right)] {
            check(&format!("x[{expected}] = 1.0f;"), |b| {
                let n = b.param(U32, 2);
                let seven = b.u32(7);
                let inner = b.bin(first, n, seven);
                let five = b.u32(5);
                let (l, r) = if swapped { (five, inner) } else { (inner, five) };
                let outer = b.bin(second, l, r);
                let one = b.f32(1.0);
                b.store(X, outer, F32, one);
            });
        }
    }
}

#[test]
fn names_are_the_authors() {
    check(
        "const float float_ = w[n];\nconst float n_2 = float_ * float_;\nconst float load_as_ = n_2 * n_2;\nx[0] = load_as_ + n_2;\nif (n == 0) {\n    const float inner = w[1];\n    x[1] = inner * inner;\n}\nconst float inner = w[2];\nx[2] = inner * inner;",
        |b| {
            let n = b.param(U32, 2);
            let f = b.load(W, n, F32);
            b.name(f, "float");
            let square = b.mul(f, f);
            b.name(square, "n");
            let fourth = b.mul(square, square);
            b.name(fourth, "load_as");
            let sum = b.add(fourth, square);
            let zero = b.u32(0);
            b.store(X, zero, F32, sum);
            let inner = |b: &mut Build, at: u32| {
                let at = b.u32(at);
                let v = b.load(W, at, F32);
                b.name(v, "inner");
                let v = b.mul(v, v);
                b.store(X, at, F32, v);
            };
            let none = b.cmp(CompareOp::Eq, n, zero);
            b.if_else(none, |b| inner(b, 1), |_| {});
            inner(b, 2);
        },
    );
}

#[test]
fn literals_read_back_exactly() {
    for (literal, text) in [
        (Literal::F32(1.0), "1.0f"),
        (Literal::F32(1e-6), "1e-6f"),
        (Literal::F32(f32::MAX), "3.4028235e38f"),
        (Literal::F32(-0.0), "-0.0f"),
        (Literal::F32(f32::INFINITY), "infinity"),
        (Literal::F32(f32::NEG_INFINITY), "-infinity"),
        (Literal::F32(0.1), "0.1f"),
    ] {
        check(&format!("x[n] = {text};"), |b| {
            let n = b.param(U32, 2);
            let v = b.eval(F32, Op::Literal(literal));
            b.store(X, n, F32, v);
        });
    }
}

#[test]
fn large_shared_arrays_become_dynamic() {
    for target in TARGETS {
        let file = generate(&large_tiles(target.name)).unwrap();
        let dynamic = target.shared_limit > target.shared_default;
        assert_eq!(
            file.dynamic_shared_bytes,
            if dynamic { target.shared_limit } else { 0 },
            "{}",
            target.name
        );
        assert_eq!(file.text.contains("rest_at"), dynamic);
        assert!(!file.text.contains("unused"), "{}", file.text);
    }
}

#[test]
fn errors_name_what_exists() {
    let too_large = |target: &str| {
        let mut kernel = large_tiles(target);
        kernel.body.shared[1].len += 8;
        kernel
    };
    let mut keyword = rms_norm("sm_90");
    keyword.symbol = "case".to_string();
    let mut wrong_fragments = matmul("sm_90", Scalar::F16);
    wrong_fragments.target.fragments = tilekiln_dsl::target::FragmentLayout::Wmma16x16x16;
    let mut wrong_element = matmul("sm_90", Scalar::F16);
    wrong_element.target.mma_elements = &[Scalar::BF16];
    // bytes come as single instructions only
    let mut square_of_bytes = matmul("sm_90", Scalar::F16);
    for stmt in &mut square_of_bytes.body.block {
        set_element(stmt, Scalar::I8);
    }
    let mut bulk_copy = instructions("sm_90");
    bulk_copy.target = tilekiln_dsl::target::Target::named("sm_80").unwrap().clone();
    let mut matrix_load = matmul("sm_90", Scalar::F16);
    matrix_load.target = tilekiln_dsl::target::Target::named("gfx1150").unwrap().clone();
    for (kernel, parts) in [
        (too_large("sm_90"), vec!["232464", "232448", "`rest`"]),
        (too_large("gfx1150"), vec!["65552", "65536"]),
        (rms_norm("host"), vec!["sm_90", "gfx1150"]),
        (keyword, vec!["`case`", "`case_kernel`"]),
        (wrong_fragments, vec!["Wmma16x16x16", "PairOfM16N8K16"]),
        (wrong_element, vec!["f16", "bf16"]),
        (matrix_load, vec!["gfx1150", "ordinary loads"]),
        (square_of_bytes, vec!["i8", "f16 and bf16"]),
        (bulk_copy, vec!["sm_80 has no bulk copies", "async_copy"]),
    ] {
        let error = generate(&kernel).unwrap_err();
        for part in parts {
            assert!(error.message.contains(part), "{part}: {error}");
        }
    }
}

/// Turns every matrix product of a statement into one of another element.
fn set_element(stmt: &mut Stmt, to: Scalar) {
    match &mut stmt.kind {
        StmtKind::Mma { element, .. } => *element = to,
        StmtKind::If { then, otherwise, .. } => then.iter_mut().chain(otherwise).for_each(|stmt| set_element(stmt, to)),
        StmtKind::For { body, .. } | StmtKind::While { body, .. } => {
            body.iter_mut().for_each(|stmt| set_element(stmt, to));
        }
        _ => {}
    }
}

/// Restricted pointers let a compiler read before the wait what an earlier launch still writes.
#[test]
fn kernels_that_wait_read_through_plain_pointers() {
    for (target, waits) in [("sm_90", true), ("sm_80", false), ("gfx1150", false)] {
        let text = generate(&instructions(target)).unwrap().text;
        let head = &text[text.find("instructions(").unwrap()..];
        let head = &head[..head.find("\n{").unwrap()];
        let restricted: Vec<bool> = head.lines().map(|line| line.contains("__restrict__")).collect();
        assert_eq!(restricted, [!waits, true, !waits], "{target}: {head}");
        assert_eq!(text.contains("wait_for_prerequisites();"), waits, "{target}");
    }
}

/// What a kernel takes is the same for all settings, what it reads is not.
#[test]
fn parameters_that_nothing_reads_are_marked() {
    let mut b = Build::new();
    b.comment("w");
    let (n, zero) = (b.param(U32, 2), b.f32(0.0));
    b.store(X, n, F32, zero);
    let parameters = vec![
        memory("x", Scalar::F32, Access::Write, &["n"]),
        memory("w", Scalar::F32, Access::Read, &["n"]),
        scalar("n", Scalar::U32),
    ];
    let text = generate(&kernel("gfx1150", "example", "example", 32, parameters, b.finish()))
        .unwrap()
        .text;
    let head = r"example(float* __restrict__ x,                          // [n]
        [[maybe_unused]] const float* __restrict__ w,   // [n]
        unsigned n)";
    assert!(text.contains(head), "{text}");
}
