//! Sensible kernels that the checks must let pass, and the analyses behind the checks.

use tilekiln_dsl::check::check;
use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::ir::{Kernel, StmtKind};
use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::{HOST, TARGETS};

/// After a return that whole blocks take.
#[kernel(threads = 64)]
fn after_block_return(#[shape(rows, cols)] x: In<f32>, y: Out<f32>, rows: u32, cols: u32) {
    let row = block_index();
    if row >= rows {
        return;
    }
    let tile = Shared::<f32>::new(64);
    tile[thread_index()] = x[(row, thread_index() % cols)];
    barrier();
    y[row * 64 + thread_index()] = tile[63 - thread_index()];
}

/// In a loop over a scalar parameter.
#[kernel(threads = 64)]
fn in_parameter_loop(x: In<f32>, y: Out<f32>, n: u32) {
    let tile = Shared::<f32>::new(64);
    let mut sum = f32(0.0);
    for step in 0..n {
        tile[thread_index()] = x[step * 64 + thread_index()];
        barrier();
        sum += tile[63 - thread_index()];
        barrier();
    }
    y[thread_index()] = sum;
}

/// In a loop whose bounds are loaded at the block's index.
#[kernel(threads = 64)]
fn in_loaded_loop(spans: In<u32>, x: In<f32>, y: Out<f32>) {
    let first = spans[block_index() * 2];
    let last = spans[block_index() * 2 + 1];
    let tile = Shared::<f32>::new(64);
    let mut sum = f32(0.0);
    for step in stepped(first, last, 64) {
        if step + thread_index() < last {
            tile[thread_index()] = x[step + thread_index()];
        } else {
            tile[thread_index()] = 0.0;
        }
        barrier();
        sum += tile[thread_index() ^ 1];
        barrier();
    }
    y[thread_index()] = sum;
}

/// In a `while` over a variable that all threads change alike, with a uniform way out.
#[kernel(threads = 64)]
fn in_uniform_while(y: Out<f32>, n: u32, limit: u32) {
    let tile = Shared::<f32>::new(64);
    let mut half = n;
    tile[thread_index()] = 1.0;
    while half > 1 {
        barrier();
        half = half / 2;
        if half == limit {
            break;
        }
        if half == 3 {
            continue;
        }
        barrier();
    }
    y[thread_index()] = tile[thread_index() ^ 1];
}

/// A condition read back from shared memory is the same for all threads.
#[kernel(threads = 64)]
fn after_shared_vote(x: In<f32>, y: Out<f32>) {
    let found = Shared::<u32>::new(1);
    if thread_index() == 0 {
        found[0] = 0;
    }
    barrier();
    if x[thread_index()] > 1.0 {
        found[0] = 1;
    }
    barrier();
    if found[0] == 1 {
        barrier();
        y[thread_index()] = 1.0;
    }
}

/// A block of one warp agrees on its ballots and reductions.
#[kernel(threads = 32)]
fn in_one_warp(x: In<f32>, y: Out<f32>) {
    let largest = warp_max(x[lane_index()]);
    if largest > 0.0 && ballot(x[lane_index()] == largest) != 0 && warp_index() == 0 {
        barrier();
    }
    y[lane_index()] = largest;
}

/// The author's promise.
#[kernel(threads = 64)]
fn promised(x: InOut<f32>, counts: InOut<u32>) {
    let rounds = assume_uniform(counts[0]);
    for _ in 0..rounds {
        x[thread_index()] = x[thread_index()] + 1.0;
        barrier();
    }
}

/// The threads that leave a loop early meet again behind it.
#[kernel(threads = 64)]
fn after_divergent_break(x: In<f32>, y: Out<f32>, n: u32) {
    let tile = Shared::<f32>::new(64);
    let mut last = u32(0);
    for i in 0..n {
        if x[i + thread_index()] > 1.0 {
            break;
        }
        last = i;
    }
    tile[thread_index()] = x[last];
    barrier();
    y[thread_index()] = tile[thread_index() ^ 1];
}

/// a barrier inside, an early return of some threads inside
#[device_fn]
fn meet(tile: Shared<f32>, value: Val<f32>) -> Val<f32> {
    tile[thread_index()] = value;
    barrier();
    if value > 1.0 {
        return tile[0];
    }
    tile[thread_index() ^ 1]
}

/// What a function's threads leave is the function, not the kernel.
#[kernel(threads = 64)]
fn calls(x: In<f32>, y: Out<f32>, n: u32) {
    let tile = Shared::<f32>::new(64);
    for i in 0..n {
        let met = meet(tile, x[i * 64 + thread_index()]);
        barrier();
        y[i * 64 + thread_index()] = met;
    }
}

/// One branch leaves with some threads, the other has the barrier: a block takes only one of them.
#[kernel(threads = 64)]
fn other_branch(y: Out<f32>, n: u32, mode: u32) {
    if mode == 0 {
        if thread_index() >= n {
            return;
        }
        y[thread_index()] = 1.0;
    } else {
        barrier();
        y[thread_index()] = 2.0;
    }
}

/// Registers indexed by arithmetic on unrolled variables, guarded where it would reach too far.
#[kernel(threads = 32)]
fn registers(x: In<f32>, y: Out<f32>, #[comptime] n: usize) {
    let kept = Registers::<f32>::filled_2d(n, 4, 0.0);
    for i in unrolled(0..n) {
        for j in unrolled(0..8) {
            let slot = j / 2;
            kept[(i, slot)] = x[i * 8 + j];
            if j < 4 {
                kept[(i, j)] = x[j];
            }
        }
    }
    for i in 0..n {
        y[thread_index() * n + i] = kept[(i, 3)];
    }
}

/// A value of both branches, a variable assigned in one, comptime branches that end early.
#[kernel(threads = 32)]
fn values(x: In<f32>, y: Out<f32>, #[comptime] early: bool) {
    let mut best = f32(0.0);
    let sign = if x[0] > 0.0 { x[1] } else { x[2] };
    for i in device_range(0, 10) {
        if x[i] > best {
            best = x[i];
            if early {
                break;
            }
            best += 1.0;
        }
        if early {
            continue;
        }
        if best > 3.0 && !early {
            best *= sign;
        }
    }
    y[thread_index()] = best;
}

/// Aligned whole accesses.
#[kernel(threads = 32)]
fn packs(x: In<u8>, y: Out<u32>) {
    let tile = SharedTile::<f16>::new(32, 64, TileLayout::Swizzled);
    for part in unrolled(0..4) {
        let chunk = x.load_as::<Pack<u32, 4>>(part * 16);
        tile.store_as::<Pack<u32, 4>>(0, part * 8, chunk);
    }
    barrier();
    let a = OperandA::load(tile, 0, 0);
    let b = OperandB::load_transposed(tile, 16, 16);
    let sums = Accumulators::zeros(2);
    for i in unrolled(0..2) {
        mma(sums.at(i), a, b);
    }
    sums.at(0).each(|element, value| {
        y[element.row * 16 + element.column] = value.to();
    });
}

/// Each warp multiplies the tiles of its own ring, a different number of them, with operands filled word by word.
#[kernel(threads = warps * 32)]
fn ring_of_operands(x: In<u8>, y: Out<i32>, tiles: u32, #[comptime] warps: usize) {
    trigger_dependents();
    let ring = CopyRing::new(warps, 2, 1024);
    for slot in 0..2 {
        ring.fetch(slot, x, (warp_index() + slot * warps) * 1024, 1024);
    }
    wait_for_prerequisites();
    let layout = target().fragments;
    let sums = Products::<i32>::filled(2, 7);
    let mut slot = u32(0);
    let mut parity = u32(0);
    for tile in stepped(warp_index(), tiles, warps) {
        ring.wait(slot, parity);
        let rows = RowOperand::<u8>::undefined();
        let columns = ColumnOperand::<i8>::undefined();
        for word in 0..layout.words_per_row(1) {
            for row in 0..layout.lane_rows() {
                let at = ring.start_of(slot) + (operand_row(row) * 16 + operand_part() * 4);
                rows.set(row, word, ring.tiles.load_as::<u32>(at));
            }
            columns.set(
                word,
                ring.tiles.load_as::<u32>(ring.start_of(slot) + operand_column() * 16),
            );
        }
        for half in unrolled(0..2) {
            multiply(sums.at(half), rows, columns);
        }
        warp_barrier();
        ring.fetch(slot, x, (tile + 2 * warps) * 1024, 1024);
        slot = slot ^ 1;
        if slot == 0 {
            parity = parity ^ 1;
        }
    }
    sums.at(1).each(|element, sum| {
        y[(warp_index() * 16 + element.row) * 16 + element.column] = sum;
    });
}

fn sensible() -> Vec<KernelDef> {
    vec![
        ring_of_operands(3),
        after_block_return(),
        in_parameter_loop(),
        in_loaded_loop(),
        in_uniform_while(),
        after_shared_vote(),
        in_one_warp(),
        promised(),
        after_divergent_break(),
        calls(),
        other_branch(),
        registers(3),
        values(true),
        values(false),
        packs(),
    ]
}

#[test]
fn sensible_kernels_pass_on_every_target() {
    let mut rejected = String::new();
    for target in TARGETS.iter().chain([&HOST]) {
        for kernel in sensible() {
            if let Err(errors) = kernel.record(target) {
                rejected += &format!("{} on {}:\n{errors}\n\n", kernel.family(), target.name);
            }
        }
    }
    assert!(rejected.is_empty(), "{rejected}");
}

/// The same two barriers under one warp's agreement, in a block of two warps.
#[kernel(threads = 64)]
fn in_two_warps(x: In<f32>, y: Out<f32>) {
    let largest = warp_max(x[lane_index()]);
    if largest > 0.0 {
        barrier();
    }
    y[thread_index()] = largest;
}

/// A variable that threads set differently in one round decides the next.
#[kernel(threads = 64)]
fn through_a_variable(x: In<f32>, y: Out<f32>, n: u32) {
    let mut go_on = u32(1);
    for i in 0..n {
        if go_on == 1 {
            barrier();
        }
        if x[i + thread_index()] > 0.0 {
            go_on = 0;
        }
    }
    y[thread_index()] = 0.0;
}

/// Threads that left in an earlier round are missing in the next.
#[kernel(threads = 64)]
fn before_a_break(x: In<f32>, y: Out<f32>, n: u32) {
    for i in 0..n {
        barrier();
        if x[i + thread_index()] > 0.0 {
            break;
        }
    }
    y[thread_index()] = 0.0;
}

/// Of a function called by some threads only; the function's own barrier is at fault.
#[kernel(threads = 64)]
fn called_by_some(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    if thread_index() < 32 {
        y[thread_index()] = meet(tile, x[0]);
    }
}

/// By a result that differs.
#[kernel(threads = 64)]
fn on_a_result(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    if meet(tile, x[0]) > 0.0 {
        barrier();
    }
    y[0] = 1.0;
}

#[test]
fn divergent_barriers_are_found() {
    for kernel in [
        in_two_warps(),
        through_a_variable(),
        before_a_break(),
        called_by_some(),
        on_a_result(),
    ] {
        let errors = kernel.record(&HOST).map(|k| k.symbol).unwrap_err();
        assert_eq!(errors.diagnostics.len(), 1, "{errors}");
        assert!(errors.to_string().contains("not reached by all threads"), "{errors}");
        println!("{errors}\n");
    }
}

fn recorded(kernel: KernelDef) -> Kernel {
    let kernel = kernel.record(&HOST).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(check(&kernel).is_empty());
    kernel
}

fn problems(kernel: &Kernel) -> Vec<String> {
    check(kernel).into_iter().map(|d| d.problem).collect()
}

/// What the language cannot express is still checked: kernels may come from elsewhere one day.
#[test]
fn damaged_kernels_are_found() {
    let mut unrolled = recorded(in_parameter_loop());
    for stmt in &mut unrolled.body.block {
        if let StmtKind::For { unroll, .. } = &mut stmt.kind {
            *unroll = tilekiln_dsl::ir::Unroll::Full;
        }
    }
    assert_eq!(
        problems(&unrolled),
        ["an unrolled loop with bounds that are known at run time only"]
    );

    let mut fragment = recorded(packs());
    let a = fragment
        .body
        .registers
        .iter_mut()
        .find(|r| r.name == "a")
        .expect("a fragment");
    a.dims = vec![3];
    let found = problems(&fragment);
    assert!(
        found.iter().all(|p| p.contains("`a` has 3 registers of u32")),
        "{found:?}"
    );
    assert_eq!(found.len(), 2, "its load and its product: {found:?}");

    let mut sums = recorded(ring_of_operands(1));
    let held = sums.body.registers.iter_mut().find(|r| r.name == "sums");
    held.expect("the sums").element = tilekiln_dsl::ir::Scalar::F32;
    let found = problems(&sums);
    assert!(
        found[0].contains("accumulator `sums` has 4 registers of f32"),
        "{found:?}"
    );

    let mut wrong_target = recorded(packs());
    wrong_target.target.mma_elements = &[];
    assert_eq!(problems(&wrong_target), ["a matrix product of f16 fragments on host"]);

    let mut crowded = recorded(packs());
    crowded.target.shared_limit = 4095;
    assert_eq!(
        problems(&crowded),
        ["4096 bytes of shared memory in one block: `tile` 4096 bytes"]
    );

    let mut reordered = recorded(after_block_return());
    let last = reordered.body.block.len() - 1;
    reordered.body.block.swap(last - 1, last);
    let found = problems(&reordered);
    assert!(
        found.iter().any(|p| p.contains("is used before it is computed")),
        "{found:?}"
    );
}

/// What follows a jump is not recorded, whatever comptime condition the jump is under.
#[test]
fn nothing_follows_a_jump() {
    fn holds(block: &[tilekiln_dsl::ir::Stmt]) -> bool {
        let jump = |kind: &StmtKind| matches!(kind, StmtKind::Break | StmtKind::Continue | StmtKind::Return(_));
        let rest = block.split_last().map_or(&[][..], |(_, rest)| rest);
        rest.iter().all(|s| !jump(&s.kind)) && block.iter().all(|s| s.kind.blocks().iter().all(|b| holds(b)))
    }
    for early in [true, false] {
        assert!(holds(&recorded(values(early)).body.block));
    }
}
