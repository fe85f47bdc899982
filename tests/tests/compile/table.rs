//! `docs/gfx1150-attention.md`: what attention's kernels cost on an RDNA3.5 chip by the compiler, and what a Radeon 890M
//! would take for them by a roofline. Written by `TILEKILN_BLESS=1 cargo test -p tilekiln-tests --test compile table`.

use std::fmt::Write as _;
use std::path::Path;

use tilekiln_codegen::generate;
use tilekiln_dsl::target::Target;
use tilekiln_kernels::attention::formats::{find, find_pair};
use tilekiln_kernels::attention::pages::PAGE;
use tilekiln_kernels::attention::shapes::Shapes;
use tilekiln_tests::requirement::require;

use super::clang::Clang;

/// Registers of a SIMD for each lane of a wave of 32, the granule in which waves get them, most waves, SIMDs and bytes of
/// LDS of a compute unit. Source: RDNA3.5 ISA and LLVM's table of AMD targets (gfx1150: 1024 registers).
const REGISTERS: u32 = 1024;
const GRANULE: u32 = 8;
const WAVES: u32 = 16;
const SIMDS: u32 = 2;
const LDS: u32 = 64 * 1024;
/// A Radeon 890M: bytes a second that reads reach (reported 100 to 110 GB/s of LPDDR5X, not measured), compute units,
/// clock.
const BANDWIDTH: f64 = 105e9;
const UNITS: f64 = 16.0;
const CLOCK: f64 = 2.9e9;
/// Cycles that a matrix product of 16x16x16 takes of a SIMD: 8192 operations, of which a compute unit of two SIMDs does
/// 512 a clock (AMD GPUOpen, "WMMA on RDNA 3"). Everything else is issued in one.
const CYCLES_OF_PRODUCT: f64 = 32.0;

/// Instructions by where they go.
#[derive(Default)]
struct Instructions {
    products: usize,
    vector: usize,
    shared: usize,
    memory: usize,
    scalar: usize,
}

/// The instructions of the loop over pages: between a label that a later branch goes back to and that branch, where most
/// matrix products are.
fn of_the_loop(assembly: &str) -> Instructions {
    let lines: Vec<&str> = assembly.lines().map(str::trim).collect();
    let label = |name: &str| {
        lines
            .iter()
            .position(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
    };
    let mut best = Instructions::default();
    for (at, line) in lines.iter().enumerate() {
        let mut words = line.split_whitespace();
        let (Some(operation), Some(to)) = (words.next(), words.next()) else {
            continue;
        };
        if !operation.starts_with("s_cbranch") && operation != "s_branch" {
            continue;
        }
        let Some(start) = label(to).filter(|&start| start < at) else {
            continue;
        };
        let mut found = Instructions::default();
        for line in &lines[start..at] {
            let operation = line.split_whitespace().next().unwrap_or_default();
            match operation {
                _ if operation.starts_with("v_wmma") => found.products += 1,
                _ if operation.starts_with("v_") => found.vector += 1 + usize::from(operation.starts_with("v_dual")),
                _ if operation.starts_with("ds_") => found.shared += 1,
                _ if operation.starts_with("global_") || operation.starts_with("buffer_") => found.memory += 1,
                _ if operation.starts_with("s_") => found.scalar += 1,
                _ => {}
            }
        }
        if found.products > best.products || (found.products == best.products && found.vector < best.vector) {
            best = found;
        }
    }
    best
}

/// Waves of one SIMD that registers and LDS leave room for.
fn occupancy(registers: u32, shared: u32, threads: u32) -> u32 {
    let by_registers = (REGISTERS / registers.next_multiple_of(GRANULE).max(GRANULE)).min(WAVES);
    let waves = threads / 32;
    // blocks are placed whole
    let blocks = (LDS / shared.max(1)).min(by_registers * SIMDS / waves);
    (blocks * waves / SIMDS).min(WAVES)
}

fn table(clang: &Clang) -> Result<String, String> {
    let target = Target::named("gfx1150").ok_or("no target gfx1150")?;
    let mut text = format!(
        "# Attention on gfx1150\n\n\
         Written by `TILEKILN_BLESS=1 cargo test -p tilekiln-tests --test compile table`. Nothing here was measured on a chip.\n\n\
         Costs are those that {} reports. *Waves* is how many waves a SIMD holds at once by registers (1024 for each lane, in \
         granules of 8) and LDS (64 KiB a compute unit), blocks placed whole; 16 at most. Instructions are those of the loop over \
         pages, of one wave: matrix products (WMMA), vector instructions (both halves of a dual one), LDS, memory.\n\n\
         **Prediction**, for a Radeon 890M (16 compute units of two SIMDs at 2.9 GHz, 105 GB/s reached by reports): the time for \
         32768 keys of one KV head is the larger of what their bytes take and what the loops' instructions take, if each SIMD \
         issues one instruction a cycle and a product takes 32 cycles. *Bound* is the larger one. Latency, the partial results and \
         the combining launch are not in it.\n\n\
         | kernel | keys | values | head_dim | blocks | VGPRs | LDS | spills | waves | WMMA | vector | LDS | memory | memory us | \
         issue us | bound |\n\
         |---|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
        clang.version()
    );
    let mut defs = Vec::new();
    for pair in [
        ["f16", "f16"],
        ["bf16", "bf16"],
        ["q8_0", "q8_0"],
        ["q4_0", "q4_0"],
        ["turbo2", "turbo2"],
        ["turbo3", "turbo3"],
        ["turbo4", "turbo4"],
        ["q8_0", "turbo3"],
        ["f16", "turbo3"],
    ] {
        for head_dim in [64, 128, 256, 512] {
            let found = find_pair(pair).ok_or("no such pair")?;
            let [decode, prefill] = found.flash.ok_or("no fast attention")?;
            let shapes = Shapes::of(target, found, head_dim).ok_or("no shapes")?;
            let small = shapes.decode(1, 1).ok_or("no shape to decode with")?;
            let large = shapes.prefill(1).ok_or("no shape for prompts")?;
            defs.push((pair, head_dim, "decode", small, decode(small.shape)));
            defs.push((pair, head_dim, "prefill", large, prefill(large.shape)));
        }
    }
    let sources = defs
        .iter()
        .map(|(.., def)| {
            let kernel = def.record(target).map_err(|error| error.to_string())?;
            generate(&kernel).map_err(|error| error.to_string())
        })
        .collect::<Result<Vec<_>, String>>()?;
    let compiled = clang.compile_all(&sources);
    for ((pair, head_dim, kind, chosen, def), accepted) in defs.iter().zip(compiled) {
        let accepted = accepted?;
        let cost = &accepted.cost;
        let shape = chosen.shape;
        let found = of_the_loop(&accepted.assembly);
        // a round takes `pages` pages with all warps of the block
        let keys = 32768.0;
        let rounds = keys / (PAGE * shape.pages) as f64;
        let cycles = found.products as f64 * CYCLES_OF_PRODUCT
            + (found.vector + found.shared + found.memory + found.scalar) as f64;
        let issue = rounds * shape.warps() as f64 * cycles / (UNITS * f64::from(SIMDS) * CLOCK) * 1e6;
        let page_bytes: usize = pair
            .iter()
            .filter_map(|name| find(name))
            .map(|format| (format.page_bytes)(*head_dim))
            .sum();
        let memory = keys / PAGE as f64 * page_bytes as f64 / BANDWIDTH * 1e6;
        let bound = if memory >= issue { "memory" } else { "issue" };
        let _ = writeln!(
            text,
            "| {kind} | {} | {} | {head_dim} | {}x{}x{} | {} | {} | {} | {} | {} | {} | {} | {} | {memory:.0} | {issue:.0} | {bound} |",
            pair[0],
            pair[1],
            shape.tiles,
            shape.teams,
            shape.pages,
            cost.registers,
            cost.shared_bytes,
            cost.spills,
            occupancy(cost.registers, cost.shared_bytes, def.threads() as u32),
            found.products,
            found.vector,
            found.shared,
            found.memory
        );
    }
    Ok(text)
}

/// The table is what the compiler says; another compiler says other things, so only its own version is compared.
#[test]
fn the_table_of_gfx1150_is_what_the_compiler_says() {
    let Some(clang) = require("clang", Clang::find()) else {
        return;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gfx1150-attention.md");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let blessing = std::env::var("TILEKILN_BLESS").is_ok_and(|value| value == "1");
    let says = format!("those that {} reports", clang.version());
    if !blessing && !known.contains(&says) {
        eprintln!(
            "skipped: {} is of another compiler than {}",
            path.display(),
            clang.version()
        );
        return;
    }
    let text = table(&clang).unwrap_or_else(|error| panic!("{error}"));
    if blessing {
        std::fs::write(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    } else {
        assert!(
            known == text,
            "{} is not what the compiler says now; write it with TILEKILN_BLESS=1",
            path.display()
        );
    }
}

#[test]
fn occupancy_is_what_registers_and_lds_leave() {
    // the reference's example: 203 registers leave 4 waves
    assert_eq!(occupancy(203, 1024, 32), 4);
    assert_eq!(occupancy(136, 1024, 32), 7);
    assert_eq!(occupancy(32, 1024, 256), 16);
    // two blocks of 30 KiB, each of four waves, over two SIMDs
    assert_eq!(occupancy(64, 30 * 1024, 128), 4);
    assert_eq!(occupancy(256, 40 * 1024, 512), 0);
}

#[test]
fn the_loop_with_the_products_is_counted() {
    let assembly = ".LBB0_1:\n  v_add_f32 v0, v1, v2\n  s_cbranch_scc1 .LBB0_1\n.LBB0_2:\n  v_wmma_f32_16x16x16_f16 v[0:7]\n  \
                    v_dual_mul_f32 v0\n  ds_load_b128 v0\n  global_load_b32 v1\n  s_cbranch_scc1 .LBB0_2\n";
    let found = of_the_loop(assembly);
    assert_eq!((found.products, found.vector, found.shared, found.memory), (1, 2, 1, 1));
}
