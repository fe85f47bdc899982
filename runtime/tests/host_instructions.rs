//! Single matrix instructions and copies of whole tiles, against plain Rust and in every layout.

mod support;

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::*;
use tilekiln_dsl::ir::*;
use tilekiln_dsl::prelude as dsl;
use tilekiln_dsl::prelude::CopyRing;
use tilekiln_dsl::target::{FragmentLayout, Target};
use tilekiln_runtime::device::Argument as Given;
use tilekiln_runtime::host::HostDevice;

const OUT: Memory = Memory::Parameter(1);

/// An element on the left, what stands on its right, and random contents that are not symmetric around zero.
struct Factor {
    element: Scalar,
    right: Scalar,
    range: std::ops::RangeInclusive<i32>,
}

const FACTORS: [Factor; 4] = [
    Factor {
        element: Scalar::F16,
        right: Scalar::F16,
        range: -900..=1100,
    },
    Factor {
        element: Scalar::BF16,
        right: Scalar::BF16,
        range: -900..=1100,
    },
    Factor {
        element: Scalar::I8,
        right: Scalar::I8,
        range: -128..=127,
    },
    Factor {
        element: Scalar::U8,
        right: Scalar::I8,
        range: 0..=255,
    },
];

/// A number as an element holds it, and what the element is worth.
fn encode(element: Scalar, number: i32) -> (u32, f64) {
    let scaled = number as f32 / 128.0;
    match element {
        Scalar::F16 => (
            u32::from(f16::from_f32(scaled).to_bits()),
            f16::from_f32(scaled).to_f64(),
        ),
        Scalar::BF16 => (
            u32::from(bf16::from_f32(scaled).to_bits()),
            bf16::from_f32(scaled).to_f64(),
        ),
        _ => ((number as u32) & 0xff, f64::from(number)),
    }
}

/// Packs values along k into words, first one in the low bits.
fn pack(element: Scalar, values: &[u32]) -> u32 {
    let bits = 8 * element.bytes();
    values
        .iter()
        .enumerate()
        .fold(0, |word, (at, value)| word | value << (bits * at))
}

fn whole(registers: RegistersId) -> RegisterRef {
    RegisterRef {
        registers,
        index: vec![],
    }
}

/// `out = 3 + a · b` for each of two warps, one instruction; every lane's words come from memory.
fn record(target: &Target, element: Scalar) -> Kernel {
    let layout = target.fragments;
    let words = layout.words_per_row(element.bytes());
    let (left, held) = (layout.lane_rows() * words, layout.column_accumulators());
    let is_byte = element.bytes() == 1;
    let (sum, start) = match is_byte {
        true => (Scalar::I32, Literal::I32(3)),
        false => (Scalar::F32, Literal::F32(3.0)),
    };
    let parameters = vec![
        memory("a", Scalar::U32, Access::Read),
        memory("out", sum, Access::Write),
        memory("b", Scalar::U32, Access::Read),
    ];
    kernel_for(target, 64, parameters, |it| {
        let a = it.registers("a", Scalar::U32, &[left], None);
        let b = it.registers("b", Scalar::U32, &[words], None);
        let c = it.registers("c", sum, &[held], Some(start));
        let t = it.thread();
        for (registers, memory, count) in [(a, Memory::Parameter(0), left), (b, Memory::Parameter(2), words)] {
            for r in 0..count {
                let (stride, k) = (it.u32(count as u32), it.u32(r as u32));
                let i = it.binary(BinaryOp::Mul, t, stride);
                let i = it.binary(BinaryOp::Add, i, k);
                let word = it.load(memory, i, U32);
                it.write_register(registers, &[k], word);
            }
        }
        it.stmt(StmtKind::Mma {
            accumulator: whole(c),
            a: whole(a),
            b: whole(b),
            element,
            shape: MmaShape::Instruction,
        });
        for e in 0..held {
            let (stride, e) = (it.u32(held as u32), it.u32(e as u32));
            let i = it.binary(BinaryOp::Mul, t, stride);
            let i = it.binary(BinaryOp::Add, i, e);
            let v = it.read_register(c, &[e]);
            it.store(OUT, i, Type::Scalar(sum), v);
        }
    })
}

fn multiplies(target: &Target, Factor { element, right, range }: &Factor) {
    let layout: FragmentLayout = target.fragments;
    let words = layout.words_per_row(element.bytes());
    let per_word = 4 / element.bytes();
    let depth = layout.k_parts() * words * per_word;
    let columns = layout.columns();
    let mut rng = StdRng::seed_from_u64(77);
    let mut matrix = |count: usize, element: Scalar, range: &std::ops::RangeInclusive<i32>| -> Vec<(u32, f64)> {
        (0..count)
            .map(|_| encode(element, rng.random_range(range.clone())))
            .collect()
    };
    // a [2 warps, 16, depth], b [2 warps, columns, depth]
    let a = matrix(2 * 16 * depth, *element, range);
    let right_range = if right == element { range.clone() } else { -128..=127 };
    let b = matrix(2 * columns * depth, *right, &right_range);

    // which numbers along k a word holds is free: here each part has consecutive ones
    let word = |of: &[(u32, f64)], row: usize, part: usize, word: usize, element: Scalar| {
        let first = row * depth + (part * words + word) * per_word;
        let values: Vec<u32> = of[first..first + per_word].iter().map(|(bits, _)| *bits).collect();
        pack(element, &values)
    };
    let (mut left_words, mut right_words) = (Vec::new(), Vec::new());
    for thread in 0..64 {
        let (warp, lane) = (thread / 32, thread % 32);
        let part = layout.operand_part(lane);
        let mut registers = vec![0; layout.lane_rows() * words];
        for slot in 0..layout.lane_rows() {
            for w in 0..words {
                let row = warp * 16 + layout.operand_row(lane, slot);
                registers[layout.row_register(slot, w)] = word(&a, row, part, w, *element);
            }
        }
        left_words.extend(registers);
        let column = warp * columns + layout.operand_column(lane);
        right_words.extend((0..words).map(|w| word(&b, column, part, w, *right)));
    }
    let held = layout.column_accumulators();
    let bench = run_both(record(target, *element), 1, || {
        vec![
            Data::Bytes(u32_bytes(&left_words)),
            Data::Fresh(64 * held * 4),
            Data::Bytes(u32_bytes(&right_words)),
        ]
    });
    for (i, found) in bench.words(1).into_iter().enumerate() {
        let (warp, lane) = (i / held / 32, i / held % 32);
        let (row, column) = layout.column_position(lane, i % held);
        let (row, column) = (warp * 16 + row, warp * columns + column);
        let terms = (0..depth).map(|k| a[row * depth + k].1 * b[column * depth + k].1);
        let expected = 3.0 + terms.clone().sum::<f64>();
        let (found, bound) = match element.bytes() {
            1 => (f64::from(found as i32), 0.0),
            // a rounding for each product and each sum, relative to all that was added
            _ => {
                let magnitude = 3.0 + terms.map(f64::abs).sum::<f64>();
                (
                    f64::from(f32::from_bits(found)),
                    2.0 * depth as f64 * magnitude * f64::from(f32::EPSILON),
                )
            }
        };
        let name = format!("{} {element}: row {row}, column {column}", target.name);
        assert!((found - expected).abs() <= bound, "{name}: {found} not {expected}");
    }
}

#[test]
fn one_matrix_instruction_in_every_layout() {
    for target in ["sm_90", "gfx1150"] {
        for factor in &FACTORS {
            multiplies(Target::named(target).unwrap(), factor);
        }
    }
}

/// Bytes of a tile of the rings below: one and a half rounds of 16 bytes for each lane.
const TILE: usize = 768;

/// Each warp takes every `warps`-th tile through its ring and stores the words, complemented, where they came from.
#[dsl::kernel(threads = warps * 32)]
fn through_ring(x: dsl::In<u32>, y: dsl::Out<u32>, tiles: u32, #[comptime] warps: usize, #[comptime] slots: usize) {
    let ring = CopyRing::new(warps, slots, TILE);
    for slot in 0..slots {
        let tile = dsl::warp_index() + slot * warps;
        if tile < tiles {
            ring.fetch(slot, x, tile * (TILE / 4), TILE);
        } else {
            ring.skip();
        }
    }
    let mut slot = dsl::u32(0);
    let mut parity = dsl::u32(0);
    for tile in dsl::stepped(dsl::warp_index(), tiles, warps) {
        ring.wait(slot, parity);
        for word in dsl::lane_strided(TILE / 4) {
            let value = ring.tiles.load_as::<u32>(ring.start_of(slot) + word * 4);
            y[tile * (TILE / 4) + word] = !value;
        }
        dsl::warp_barrier();
        let next = tile + slots * warps;
        if next < tiles {
            ring.fetch(slot, x, next * (TILE / 4), TILE);
        } else {
            ring.skip();
        }
        slot += 1;
        if slot == slots {
            slot = dsl::u32(0);
            parity = parity ^ 1;
        }
    }
}

#[test]
fn tiles_come_through_rings_of_every_kind() {
    let mut rng = StdRng::seed_from_u64(5);
    for (target, warps, slots, tiles) in [
        ("sm_90", 3, 2, 17),
        ("sm_90", 1, 1, 5),
        ("sm_90", 4, 3, 2),
        ("sm_80", 3, 2, 17),
        ("sm_120", 2, 4, 9),
        ("gfx1150", 3, 2, 17),
        ("gfx1150", 2, 1, 7),
    ] {
        let target = Target::named(target).unwrap();
        let kernel = through_ring(warps, slots)
            .record(target)
            .unwrap_or_else(|error| panic!("{error}"));
        let has_bulk = kernel.body.shared.iter().any(|array| array.name == "arrived");
        assert_eq!(has_bulk, target.bulk_copy, "{}", target.name);
        let words: Vec<u32> = (0..tiles * TILE / 4).map(|_| rng.random()).collect();
        let bench = run_both(kernel, 1, || {
            vec![
                Data::Bytes(u32_bytes(&words)),
                Data::Fresh(words.len() * 4),
                Data::Scalar(Given::U32(tiles as u32)),
            ]
        });
        let expected: Vec<u32> = words.iter().map(|word| !word).collect();
        assert_eq!(
            bench.words(1),
            expected,
            "{} with {warps} warps, {slots} slots",
            target.name
        );
    }
}

/// A copy that starts in the middle of a buffer of bytes and is shorter than a tile.
#[dsl::kernel(threads = 64)]
fn part_of_a_tile(x: dsl::In<u8>, y: dsl::Out<u32>, first: u32, bytes: u32) {
    let ring = CopyRing::new(2, 1, TILE);
    ring.fetch(0, x, first + dsl::warp_index() * 16, bytes);
    ring.wait(0, 0);
    for word in dsl::lane_strided(bytes / 4) {
        y[dsl::warp_index() * (bytes / 4) + word] = ring.tiles.load_as::<u32>(ring.start_of(0) + word * 4);
    }
}

#[test]
fn copies_may_be_shorter_than_a_tile() {
    for target in ["sm_90", "sm_80", "gfx1150"] {
        let kernel = part_of_a_tile().record(Target::named(target).unwrap()).unwrap();
        let words: Vec<u32> = (0..200u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let bench = run_both(kernel, 1, || {
            vec![
                Data::Bytes(u32_bytes(&words)),
                Data::Fresh(2 * 144),
                Data::Scalar(Given::U32(48)),
                Data::Scalar(Given::U32(144)),
            ]
        });
        let expected = [&words[12..48], &words[16..52]].concat();
        assert_eq!(bench.words(1), expected, "{target}");
    }
}

/// What a sanitizing device finds in a kernel over one tile, recorded for a chip with bulk copies.
fn findings(kernel: &dsl::KernelDef, arguments: Vec<Given>) -> Vec<(String, String)> {
    let kernel = kernel.record(Target::named("sm_90").unwrap()).unwrap();
    let mut data = vec![Data::Bytes(u32_bytes(&[7; TILE / 4])), Data::Bytes(vec![1; TILE])];
    data.extend(arguments.into_iter().map(Data::Scalar));
    let bench = Bench::new(HostDevice::sanitizing(), kernel, 1, data).unwrap();
    let report = bench.report();
    let kinds = report
        .findings
        .iter()
        .map(|found| (found.kind.to_string(), found.to_string()));
    kinds.collect()
}

/// Only what is under test differs between the defects: which parity is waited for, where the copy starts, how long it
/// is, and whether anything is waited for.
#[dsl::kernel(threads = 32)]
fn one_copy(
    x: dsl::In<u32>,
    y: dsl::Out<u32>,
    first: u32,
    bytes: u32,
    #[comptime] waits: bool,
    #[comptime] parity: u32,
) {
    let ring = CopyRing::new(1, 1, TILE);
    ring.fetch(0, x, first, bytes);
    if waits {
        ring.wait(0, parity);
    }
    y[dsl::lane_index()] = ring.tiles.load_as::<u32>(ring.start_of(0) + dsl::lane_index() * 4);
}

/// The next copy starts while other lanes may still read.
#[dsl::kernel(threads = 32)]
fn early_refill(x: dsl::In<u32>, y: dsl::Out<u32>, #[comptime] meets: bool) {
    let ring = CopyRing::new(1, 1, TILE);
    ring.fetch(0, x, 0, TILE);
    ring.wait(0, 0);
    y[dsl::lane_index()] = ring.tiles.load_as::<u32>(ring.start_of(0) + dsl::lane_index() * 4);
    if meets {
        dsl::warp_barrier();
    }
    ring.fetch(0, x, 0, TILE);
    ring.wait(0, 1);
    y[dsl::lane_index() + 32] = ring.tiles.load_as::<u32>(ring.start_of(0) + dsl::lane_index() * 4);
}

#[test]
fn defects_of_copies_are_found() {
    let numbers = |first: u32, bytes: u32| vec![Given::U32(first), Given::U32(bytes)];
    let table = [
        ("nothing", one_copy(true, 0), numbers(0, TILE as u32), "", ""),
        (
            "a wait that never ends",
            one_copy(true, 1),
            numbers(0, 128),
            "copy-never-arrives",
            "no copy of parity 1",
        ),
        (
            "use before the wait",
            one_copy(false, 0),
            numbers(0, 128),
            "async-not-waited",
            "in flight",
        ),
        (
            "past the end",
            one_copy(true, 0),
            numbers(64, TILE as u32),
            "out-of-bounds-read",
            "`x`",
        ),
        ("an odd start", one_copy(true, 0), numbers(1, 128), "misaligned", "16"),
        ("an odd length", one_copy(true, 0), numbers(0, 136), "misaligned", "16"),
        (
            "a tile that is still read",
            early_refill(false),
            vec![],
            "shared-race",
            "`tiles`",
        ),
        ("a tile that nobody reads", early_refill(true), vec![], "", ""),
    ];
    for (name, kernel, arguments, kind, text) in table {
        let found = findings(&kernel, arguments);
        match kind {
            "" => assert!(found.is_empty(), "{name}: {found:?}"),
            kind => {
                assert_eq!(
                    found.iter().filter(|(found, _)| found == kind).count(),
                    1,
                    "{name}: {found:?}"
                );
                assert!(found.iter().any(|(_, words)| words.contains(text)), "{name}: {found:?}");
            }
        }
    }
}
